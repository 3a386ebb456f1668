//! Why a pod network could not be set up, changed or taken down.

use std::io;

use crate::cni::CniError;
use crate::netlink;
use crate::network::PortMapping;
use crate::subnet::Subnet;

/// Why an operation on a pod network did not happen.
///
/// The message names the step and the object; the cause, with the kernel's own words where it gave any, is in `source`.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A configured name could not be a kernel object's name.
    #[error(
        "{what} {name:?} must be 1 to {longest} letters, digits, '.', '_' or '-', and not start with '.' or '-'"
    )]
    Name {
        /// What the name is for.
        what: &'static str,
        /// The name as configured.
        name: String,
        /// The longest name allowed, in bytes.
        longest: usize,
    },

    /// The owner is not a pod id, so no kernel object could be named after it.
    #[error("owner must be 64 lowercase hex digits, got {0:?}")]
    Owner(String),

    /// A host port is to lead to container port 0, which nothing can listen on.
    #[error("host port {0} leads to container port 0")]
    NoContainerPort(PortMapping),

    /// A host port is asked for on an address that cannot be mapped: multicast, broadcast, `::1`, or of a family that pods
    /// have no address of.
    #[error("host port {0} is on an address that cannot be mapped to a pod")]
    HostAddress(PortMapping),

    /// One wish asks for overlapping host ports.
    #[error("host port {port} overlaps {other} of the same pod")]
    PortRepeated {
        /// The later of the two.
        port: PortMapping,
        /// The earlier of the two.
        other: PortMapping,
    },

    /// A limit of a pod's traffic is less or more than there can be.
    #[error("a bandwidth must be from 1k to 1P bits per second, got {0}")]
    Bandwidth(u64),

    /// Another pod holds the host port, or one that overlaps it.
    #[error("host port {port} of pod {owner} overlaps {held} of pod {holder}")]
    PortTaken {
        /// The port asked for.
        port: PortMapping,
        /// The pod that asks.
        owner: String,
        /// The port in use.
        held: PortMapping,
        /// The pod that holds it.
        holder: String,
    },

    /// The owner is attached, or another call is attaching it right now.
    #[error("pod {0} is attached already")]
    AlreadyAttached(String),

    /// No address is left to lease.
    #[error("every address in {subnet} is taken")]
    SubnetFull {
        /// The subnet leases come from.
        subnet: Subnet,
    },

    /// Nobody has said yet where pods get their addresses from: kubelet does, with `UpdateRuntimeConfig`.
    #[error("no pod subnet is known yet: kubelet has not told the node's pod CIDR")]
    NoSubnet,

    /// The kernel refused a change or a question asked over netlink.
    #[error("{step} {object}")]
    Kernel {
        /// What was to be done.
        step: &'static str,
        /// The link, table or address it was to be done to.
        object: String,
        /// What the kernel answered.
        source: netlink::Error,
    },

    /// A network setting below /proc/sys could not be read or written.
    #[error("set {path} to {value}")]
    Setting {
        /// The setting.
        path: String,
        /// The value it needs.
        value: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },

    /// The pod's network namespace could not be entered.
    #[error("enter the pod's network namespace")]
    Enter {
        /// What the kernel answered.
        source: io::Error,
    },

    /// A bridge with the configured name exists, and its hardware address is none of those that we give.
    #[error("bridge {name} exists and was not made by berth; choose another network.bridge")]
    NotOurs {
        /// The configured name.
        name: String,
    },

    /// A link with the bridge's name exists and is something else.
    #[error("link {name} exists and is not a bridge")]
    NotABridge {
        /// The configured name.
        name: String,
    },

    /// A network plugin did not do its part, or there is none.
    #[error(transparent)]
    Cni(#[from] CniError),

    /// Something the network stands on is gone or was changed from outside, and could not be put right.
    #[error("{object} {name} is {state}")]
    Broken {
        /// "bridge", "nftables table" and the like.
        object: &'static str,
        /// Its configured name.
        name: String,
        /// What is wrong with it.
        state: &'static str,
    },
}
