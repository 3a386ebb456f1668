//! The registry client: OCI distribution specification 1.1.
//!
//! ```text
//!   Repository::get ──► follow: one request, redirects by our rules (address.rs)
//!        │  ▲ 401          │
//!        ▼  │              ▼
//!      auth.rs           blob.rs: a body, cut and resumed; manifests and errors: bounded bodies
//! ```
//!
//! Which hosts stand for a registry, and with which certificates, is read for each pull (hosts/). The first that answers is
//! taken, the registry itself last.
//!
//! Credentials belong to one origin, and nothing they are worth is ever sent to another. Every body has a bound and
//! every wait a deadline.

mod address;
mod auth;
mod blob;
mod client;
mod error;
mod hosts;
mod push;
mod repository;
mod tls;

pub(crate) use blob::BlobStream;
pub(crate) use client::{Client, Patience, Registries, Trust};
pub(crate) use error::Fault;
pub use error::RegistryError;
pub use hosts::HostsError;
pub(crate) use push::{Place, Upload};
pub(crate) use repository::{Fetched, Repository};
pub use tls::BadIdentity;
