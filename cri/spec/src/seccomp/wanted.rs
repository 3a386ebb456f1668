//! Which filter a request asks for.

use super::{default_profile, localhost};
use crate::confinement::Wanted;
use crate::error::SpecError;
use crate::input::Input;
use cri_api::runtime::v1;
use oci_spec::runtime::{Capabilities, LinuxSeccomp};
use std::path::PathBuf;

const FIELD: &str = "linux.security_context.seccomp";
const OLD_FIELD: &str = "linux.security_context.seccomp_profile_path";

/// The file of the host whose content [`Input::localhost_seccomp`] has to be; `None` where no profile is read.
///
/// # Errors
///
/// [`SpecError`] where the request is contradictory or names no absolute path.
pub fn localhost_profile(container: &v1::ContainerConfig) -> Result<Option<PathBuf>, SpecError> {
    match wanted(container)? {
        Wanted::Localhost { name, .. } if name.starts_with('/') && !name.contains('\0') => {
            Ok(Some(PathBuf::from(name)))
        }
        Wanted::Localhost { name, field } => {
            Err(SpecError::invalid(field, name, "must be an absolute path of the host"))
        }
        Wanted::Nothing | Wanted::Unconfined | Wanted::RuntimeDefault => Ok(None),
    }
}

/// The filter in the spec; `None` is no filter.
///
/// A request that says nothing gets none, as with the other runtimes: the kubelet says `RuntimeDefault` where its
/// `seccompDefault` is on.
pub(crate) fn profile(
    input: &Input<'_>,
    bounding: &Capabilities,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    match wanted(input.container)? {
        Wanted::Nothing | Wanted::Unconfined => Ok(None),
        Wanted::RuntimeDefault => Ok(Some(default_profile(bounding, input.host.architecture))),
        Wanted::Localhost { field, .. } => {
            let Some(content) = input.localhost_seccomp else {
                return Err(SpecError::missing(field, "the content of this profile is needed"));
            };
            let profile = localhost::read(content, input.host.architecture)
                .map_err(|source| SpecError::Seccomp { field: field.to_owned(), source })?;
            // Compiling is the only full check of a profile, and now is the time to refuse it.
            super::compile(&profile)
                .map_err(|source| SpecError::Seccomp { field: field.to_owned(), source })?;
            Ok(Some(profile))
        }
    }
}

fn wanted(container: &v1::ContainerConfig) -> Result<Wanted<'_>, SpecError> {
    let Some(context) = container.linux.as_ref().and_then(|linux| linux.security_context.as_ref())
    else {
        return Ok(Wanted::Nothing);
    };
    if context.privileged {
        return Ok(Wanted::Unconfined);
    }
    #[expect(deprecated, reason = "other runtimes still honour it")]
    let old = &context.seccomp_profile_path;
    Wanted::of(context.seccomp.as_ref(), FIELD, old, OLD_FIELD)
}
