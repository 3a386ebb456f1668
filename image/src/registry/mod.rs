//! The registry client: OCI distribution specification 1.1, pull side.
//!
//! ```text
//!   Repository::get ──► follow: one request, redirects by our rules (address.rs)
//!        │  ▲ 401          │
//!        ▼  │              ▼
//!      auth.rs           blob.rs: a body, cut and resumed; manifests and errors: bounded bodies
//! ```
//!
//! Credentials belong to one origin, and nothing they are worth is ever sent to another. Every body has a bound and
//! every wait a deadline.

mod address;
mod auth;
mod blob;
mod client;
mod error;
mod repository;

pub(crate) use blob::BlobStream;
pub(crate) use client::{Client, Patience, Trust};
pub(crate) use error::Fault;
pub use error::RegistryError;
pub(crate) use repository::{Fetched, Repository};
