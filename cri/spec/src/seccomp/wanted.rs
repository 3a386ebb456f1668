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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Request;
    use cri_api::runtime::v1::security_profile::ProfileType;

    fn asked(kind: ProfileType, name: &str) -> Option<v1::SecurityProfile> {
        Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() })
    }

    #[test]
    fn which_filter_a_request_gets() {
        use ProfileType::{Localhost, RuntimeDefault, Unconfined};
        const FILE: &[u8] = br#"{"defaultAction":"SCMP_ACT_LOG"}"#;
        type Case<'a> = (&'a str, Option<v1::SecurityProfile>, &'a str, Option<&'a [u8]>, &'a str);
        let cases: [Case<'_>; 14] = [
            ("silent", None, "", None, "none"),
            ("empty message", asked(RuntimeDefault, ""), "", None, "SCMP_ACT_ERRNO"),
            ("unconfined", asked(Unconfined, ""), "", None, "none"),
            ("a file", asked(Localhost, "/p.json"), "", Some(FILE), "SCMP_ACT_LOG /p.json"),
            ("a file, not read", asked(Localhost, "/p.json"), "", None, "refused /p.json"),
            ("an empty file", asked(Localhost, "/p.json"), "", Some(b""), "refused /p.json"),
            ("not JSON", asked(Localhost, "/p.json"), "", Some(b"x"), "refused /p.json"),
            (
                "a listener",
                asked(Localhost, "/p.json"),
                "",
                Some(br#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#),
                "refused /p.json",
            ),
            ("no name", asked(Localhost, ""), "", Some(FILE), "refused"),
            ("a name that does not count", asked(RuntimeDefault, "/p.json"), "", None, "refused"),
            ("old text", None, "localhost//p.json", Some(FILE), "SCMP_ACT_LOG /p.json"),
            ("old default", None, "runtime/default", None, "SCMP_ACT_ERRNO"),
            ("older default", None, "docker/default", None, "SCMP_ACT_ERRNO"),
            ("old unconfined", None, "unconfined", None, "none"),
        ];
        for (case, profile, old, content, want) in cases {
            let mut request = Request::plain();
            request.context().seccomp = profile;
            #[expect(deprecated, reason = "other runtimes still honour it")]
            request.context().seccomp_profile_path.push_str(old);
            request.localhost_seccomp = content.map(<[u8]>::to_vec);
            assert_eq!(text(&request), want, "{case}");

            request.context().privileged = true;
            assert_eq!(text(&request), "none", "{case}, privileged");
        }
    }

    /// The default action, "none" or "refused", and the file that would be read.
    fn text(request: &Request) -> String {
        let filter = match profile(&request.input(), &Capabilities::new()) {
            Ok(Some(profile)) => profile.default_action().to_string(),
            Ok(None) => "none".to_owned(),
            Err(_) => "refused".to_owned(),
        };
        match localhost_profile(&request.container) {
            Ok(Some(file)) => format!("{filter} {}", file.display()),
            Ok(None) | Err(_) => filter,
        }
    }

    #[test]
    fn a_file_must_be_named_absolutely() {
        let mut request = Request::plain();
        request.context().seccomp = asked(ProfileType::Localhost, "profiles/p.json");
        let error = localhost_profile(&request.container).expect_err("relative");
        assert_eq!(
            error.to_string(),
            r#"linux.security_context.seccomp: "profiles/p.json" must be an absolute path of the host"#
        );
    }
}
