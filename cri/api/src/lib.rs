//! The interfaces that are spoken on the daemon's socket, as Rust types: CRI v1 as of Kubernetes 1.36
//! ([`runtime::v1`]) and Berth's own additions to it ([`berth::v1`]).
//!
//! Everything in the two modules is generated from `proto/` at build time; `protoc` is not needed. Three choices
//! were made for the generated code:
//!
//! - maps are `BTreeMap`s, so that equal messages are equal bytes and JSON comes out sorted;
//! - a server answers `Unimplemented` to every call its implementation leaves out;
//! - `AuthConfig` is printed by `Debug` without its secrets.
//!
//! ```
//! use cri_api::runtime::v1::{PodSandboxConfig, PodSandboxMetadata, RunPodSandboxRequest};
//!
//! let metadata = PodSandboxMetadata { name: "web".into(), uid: "1".into(), ..Default::default() };
//! let config = PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
//! let request = RunPodSandboxRequest { config: Some(config), ..Default::default() };
//! assert!(request.runtime_handler.is_empty(), "the default handler");
//! ```

mod secret;

/// The Container Runtime Interface.
pub mod runtime {
    /// Package `runtime.v1`.
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
    }
}

/// What Berth adds for its command line.
pub mod berth {
    /// Package `berth.v1`.
    pub mod v1 {
        tonic::include_proto!("berth.v1");
    }
}

/// Both packages as an encoded `google.protobuf.FileDescriptorSet`, without comments: for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
