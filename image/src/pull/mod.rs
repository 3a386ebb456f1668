//! Pulling images.

pub mod request;
