//! Where failures get their gRPC codes. No wildcard arms: a new failure does not compile until somebody
//! has chosen its code.

use crate::chain::chain;
use crate::container::{ContainerError, IdentityError};
use crate::images::ImageError;
use crate::network::PodCidrError;
use crate::sandbox::{SandboxError, SetupError};
use crate::store::StoreError;
use crate::systemd::SystemdError;
use cri_spec::SpecError;
use image::PullFault;
use netns::{CniError, NetworkError};
use runtime::cgroup::CgroupError;
use runtime::monitor::MonitorError;
use rustix::io::Errno;
use std::io::ErrorKind;
use sys::pin::PinError;
use tonic::{Code, Status};

impl From<&SandboxError> for Status {
    fn from(err: &SandboxError) -> Self {
        answer(sandbox(err), chain(err))
    }
}

impl From<&ContainerError> for Status {
    fn from(err: &ContainerError) -> Self {
        // Kubelet goes by the beginning of the text.
        if let ContainerError::Spec(volume @ SpecError::ImageVolume { .. }) = err {
            return answer(spec(volume), chain(volume));
        }
        answer(container(err), chain(err))
    }
}

impl From<&ImageError> for Status {
    fn from(err: &ImageError) -> Self {
        let (code, prefix) = image(err);
        answer(code, format!("{prefix}{}", chain(err)))
    }
}

impl From<&PodCidrError> for Status {
    fn from(err: &PodCidrError) -> Self {
        let code = match err {
            PodCidrError::Bad(_) => Code::InvalidArgument,
            PodCidrError::Keep(_) => Code::Internal,
            PodCidrError::Move(_, source) => network(source),
        };
        answer(code, chain(err))
    }
}

/// The one place where failed calls are logged: loud where the node is at fault, quiet where the client is.
fn answer(code: Code, text: String) -> Status {
    let ours = [
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::ResourceExhausted,
        Code::DeadlineExceeded,
        Code::Unknown,
    ];
    if ours.contains(&code) {
        tracing::warn!(?code, text, "call failed");
    } else {
        tracing::debug!(?code, text, "call refused");
    }
    Status::new(code, text)
}

/// The end of a stream of events whose client has not kept up.
pub(super) fn missed_events(count: u64) -> Status {
    answer(Code::DataLoss, format!("{count} events were missed: list, and listen again"))
}

fn sandbox(err: &SandboxError) -> Code {
    match err {
        SandboxError::NotFound(_) => Code::NotFound,
        SandboxError::Exists(_) => Code::AlreadyExists,
        SandboxError::Ambiguous(_)
        | SandboxError::Invalid(_)
        | SandboxError::Handler(_)
        | SandboxError::CgroupParent(_)
        | SandboxError::Log { .. } => Code::InvalidArgument,
        SandboxError::Unsupported(_) => Code::Unimplemented,
        SandboxError::Spec(err) => spec(err),
        SandboxError::Network { source, .. } => network(source),
        // The kernel has no such sysctl, or does not take the value: the client's mistake.
        SandboxError::Namespaces {
            source: PinError::Inside(SetupError::Sysctl { source, .. }),
            ..
        } if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
            Code::InvalidArgument
        }
        SandboxError::Record { source, .. } => record(source),
        SandboxError::Lost(_)
        | SandboxError::Files { .. }
        | SandboxError::Namespaces { .. }
        | SandboxError::OpenNamespaces { .. }
        | SandboxError::Unpin { .. }
        | SandboxError::Monitor { .. }
        | SandboxError::EndMonitor { .. } => Code::Internal,
        SandboxError::Cgroup { source, .. } => cgroup(source),
        SandboxError::Systemd { source, .. } => systemd(source),
    }
}

fn container(err: &ContainerError) -> Code {
    match err {
        ContainerError::NotFound(_) | ContainerError::NoImage(_) => Code::NotFound,
        ContainerError::Exists(_) => Code::AlreadyExists,
        ContainerError::Ambiguous(_)
        | ContainerError::AmbiguousImage(_)
        | ContainerError::Invalid(_)
        | ContainerError::Limits(_)
        | ContainerError::Cdi(_)
        | ContainerError::Profile { .. }
        | ContainerError::LogPath(_)
        | ContainerError::Log { .. } => Code::InvalidArgument,
        ContainerError::Target(..) => Code::InvalidArgument,
        ContainerError::Unsupported(_) => Code::Unimplemented,
        // The image has no such path.
        ContainerError::ImageVolume { source, .. }
            if matches!(
                Errno::from_io_error(source),
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
            ) =>
        {
            Code::InvalidArgument
        }
        // The kernel takes no such ids.
        ContainerError::MapIds { source: MonitorError::Refused { .. }, .. } => {
            Code::InvalidArgument
        }
        ContainerError::ImageVolume { .. } | ContainerError::MapIds { .. } => Code::Internal,
        ContainerError::Sandbox(err) => sandbox(err),
        ContainerError::Spec(err) => spec(err),
        ContainerError::Identity(err) => identity(err),
        ContainerError::WrongState { .. }
        | ContainerError::PodNotReady(_)
        | ContainerError::Handler(_) => Code::FailedPrecondition,
        ContainerError::Undrivable { .. } => Code::Unimplemented,
        ContainerError::ExecTimeout { .. } => Code::DeadlineExceeded,
        ContainerError::ExecMemory { .. } | ContainerError::Streams(_) => Code::ResourceExhausted,
        ContainerError::Lost(_)
        | ContainerError::Layers { .. }
        | ContainerError::Files { .. }
        | ContainerError::Root { .. }
        | ContainerError::CgroupPath { .. }
        | ContainerError::Start { .. }
        | ContainerError::Monitor { .. }
        | ContainerError::Exec { .. }
        | ContainerError::ExecIo { .. }
        | ContainerError::StillRunning { .. } => Code::Internal,
        ContainerError::Record { source, .. } => record(source),
        ContainerError::Cgroup { source, .. } => cgroup(source),
    }
}

fn systemd(err: &SystemdError) -> Code {
    match err {
        SystemdError::Connect(_) => Code::Unavailable,
        SystemdError::Call { .. } | SystemdError::Job { .. } => Code::Internal,
    }
}

fn cgroup(err: &CgroupError) -> Code {
    match err {
        CgroupError::Limits(_) => Code::InvalidArgument,
        CgroupError::MemoryInUse { .. } | CgroupError::MissingController { .. } => {
            Code::FailedPrecondition
        }
        // The kernel does not take the value: no such processor, more than the parent has.
        CgroupError::Write { source, .. } => {
            match source.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::INVAL | Errno::RANGE | Errno::ACCESS | Errno::PERM) => {
                    Code::InvalidArgument
                }
                // v1 could not reclaim enough.
                Some(Errno::BUSY) => Code::FailedPrecondition,
                Some(_) | None => Code::Internal,
            }
        }
        CgroupError::ReadMounts { .. }
        | CgroupError::NotMounted
        | CgroupError::Directory { .. }
        | CgroupError::Read { .. }
        | CgroupError::OomScore { .. }
        | CgroupError::Devices { .. }
        | CgroupError::Left { .. } => Code::Internal,
    }
}

fn record(err: &StoreError) -> Code {
    if err.is_full() { Code::ResourceExhausted } else { Code::Internal }
}

fn spec(err: &SpecError) -> Code {
    match err {
        SpecError::Invalid { .. }
        | SpecError::Missing { .. }
        | SpecError::ImageVolume { .. }
        | SpecError::Seccomp { .. } => Code::InvalidArgument,
        SpecError::Unsupported { .. } => Code::Unimplemented,
    }
}

fn identity(err: &IdentityError) -> Code {
    match err {
        IdentityError::NoId { .. }
        | IdentityError::GroupAlone
        | IdentityError::UserTwice
        | IdentityError::UnknownUser(_)
        | IdentityError::UnknownGroup(_) => Code::InvalidArgument,
        // The image has something else in its place.
        IdentityError::Read { source, .. } if source.kind() == ErrorKind::InvalidData => {
            Code::InvalidArgument
        }
        IdentityError::Read { .. } | IdentityError::Root(_) => Code::Internal,
    }
}

fn network(err: &NetworkError) -> Code {
    match err {
        NetworkError::Owner(_)
        | NetworkError::NoContainerPort(_)
        | NetworkError::HostAddress(_)
        | NetworkError::Bandwidth(_)
        | NetworkError::PortRepeated { .. } => Code::InvalidArgument,
        NetworkError::PortTaken { .. } | NetworkError::AlreadyAttached(_) => Code::AlreadyExists,
        NetworkError::SubnetFull { .. } => Code::ResourceExhausted,
        NetworkError::NoSubnet | NetworkError::Cni(CniError::NoConfiguration(_)) => {
            Code::Unavailable
        }
        NetworkError::Cni(CniError::TimedOut { .. }) => Code::DeadlineExceeded,
        NetworkError::Name { .. }
        | NetworkError::Kernel { .. }
        | NetworkError::Setting { .. }
        | NetworkError::Enter { .. }
        | NetworkError::NotABridge { .. }
        | NetworkError::NotOurs { .. }
        | NetworkError::Cni(_)
        | NetworkError::Broken { .. } => Code::Internal,
    }
}

/// The code, and the beginning of the text where kubelet goes by that.
fn image(err: &ImageError) -> (Code, &'static str) {
    match err {
        ImageError::NoReference(_) | ImageError::Reference(_) | ImageError::Ambiguous(_) => {
            (Code::InvalidArgument, "")
        }
        ImageError::Record(err) => (record(err), ""),
        ImageError::NotFound(_) => (Code::NotFound, ""),
        ImageError::NoTag(_) => (Code::InvalidArgument, ""),
        ImageError::Nameless(_) => (Code::FailedPrecondition, ""),
        ImageError::Collect(_) | ImageError::History { .. } => (Code::Internal, ""),
        ImageError::Spool(err) if err.kind() == ErrorKind::StorageFull => {
            (Code::ResourceExhausted, "")
        }
        ImageError::Spool(_) => (Code::Internal, ""),
        ImageError::Pull(err) => pull(err.fault()),
        ImageError::Transfer(err) => pull(err.fault()),
    }
}

fn pull(fault: PullFault) -> (Code, &'static str) {
    match fault {
        PullFault::NotFound => (Code::NotFound, ""),
        PullFault::Unauthorized => (Code::PermissionDenied, ""),
        // Kubelet looks for the word at the very beginning of the error, and only of an unknown one does its client leave
        // the code away (cri-client, PullImage).
        PullFault::Unavailable => (Code::Unknown, "RegistryUnavailable: "),
        PullFault::Signature => (Code::Unknown, "SignatureValidationFailed: "),
        PullFault::InvalidContent => (Code::DataLoss, ""),
        PullFault::Refused => (Code::FailedPrecondition, ""),
        PullFault::Limit => (Code::OutOfRange, ""),
        PullFault::Disk => (Code::ResourceExhausted, ""),
        PullFault::Internal => (Code::Internal, ""),
    }
}
