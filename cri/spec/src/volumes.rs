//! Images as volumes (KEP-4639).

use crate::error::SpecError;
use crate::input::Input;
use crate::mounts::{inside, mount};
use crate::users::{ids, ids_of_pod, map_ids};
use cri_api::runtime::v1;
use cri_api::runtime::v1::MountPropagation;
use oci_spec::runtime::Mount;

/// The image that a mount shows, where it is one of an image (KEP-4639).
pub(crate) fn image(request: &v1::Mount) -> Option<&str> {
    request.image.as_ref().map(|image| image.image.as_str()).filter(|name| !name.is_empty())
}

/// An image as a volume: nobody can write to it, and nothing in it can be executed, as kubelet promises.
pub(crate) fn volume(
    at: usize,
    request: &v1::Mount,
    input: &Input<'_>,
) -> Result<Mount, SpecError> {
    let refused = |name: &str, value: &str, rule| SpecError::ImageVolume {
        field: format!("mounts[{at}].{name}"),
        value: value.to_owned(),
        rule,
    };
    let name = image(request).unwrap_or_default();
    let id = input.images.get(name).ok_or_else(|| refused("image", name, "is not here"))?;
    if !request.host_path.is_empty() {
        return Err(refused("host_path", &request.host_path, "is beside an image"));
    }
    if request.propagation != i32::from(MountPropagation::PropagationPrivate) {
        let value = request.propagation.to_string();
        return Err(refused("propagation", &value, "is none that an image has"));
    }
    let sub_path = request.image_sub_path.as_str();
    let is_inside = !sub_path.starts_with('/') && sub_path.split('/').all(|part| part != "..");
    if !is_inside || sub_path.contains('\0') {
        return Err(refused("image_sub_path", sub_path, "must be a path below the image's root"));
    }
    let below = format!("{SUB_PATH}{sub_path}");
    let mut options = vec!["ro", "nosuid", "nodev", "noexec"];
    if !sub_path.is_empty() {
        options.push(&below);
    }
    let mut mount = mount(&inside(at, request)?, IMAGE, id, &options);
    map_ids(&mut mount, ids(at, request)?.or_else(|| ids_of_pod(input)).as_ref());
    Ok(mount)
}

/// The type of a mount that shows an image, whose id is the source. Another OCI runtime has no word for it.
pub(crate) const IMAGE: &str = "image";
/// Before the path below an image's root that is shown instead of that.
pub(crate) const SUB_PATH: &str = "subpath=";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Request;

    fn text(change: impl Fn(&mut v1::Mount)) -> String {
        let mut asked = v1::Mount {
            container_path: "/models".into(),
            image: Some(v1::ImageSpec { image: "models:1".into(), ..v1::ImageSpec::default() }),
            ..v1::Mount::default()
        };
        change(&mut asked);
        let mut request = Request::plain();
        request.images.insert("models:1".into(), "sha256:abc".into());
        match volume(0, &asked, &request.input()) {
            Ok(mount) => {
                let source = mount.source().clone().unwrap_or_default();
                let options = mount.options().clone().unwrap_or_default().join(" ");
                format!("{} {options}", source.display())
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    #[rustfmt::skip]
    fn an_image_is_a_volume_that_nobody_can_write_to() {
        const FAILED: &str = "ImageVolumeMountFailed: mounts[0].";
        type Change = fn(&mut v1::Mount);
        let cases: [(&str, Change, &str); 9] = [
            ("the image", |_| {}, "sha256:abc ro nosuid nodev noexec"),
            ("below its root", |mount| mount.image_sub_path = "a/b".into(), "sha256:abc ro nosuid nodev noexec subpath=a/b"),
            ("readonly said", |mount| mount.readonly = true, "sha256:abc ro nosuid nodev noexec"),
            ("not here", |mount| mount.image.as_mut().expect("image").image = "x".into(), "image: \"x\" is not here"),
            ("a host path too", |mount| mount.host_path = "/srv".into(), "host_path: \"/srv\" is beside"),
            ("from the top", |mount| mount.image_sub_path = "/a".into(), "image_sub_path: \"/a\" must be"),
            ("up", |mount| mount.image_sub_path = "a/../../b".into(), "image_sub_path: \"a/../../b\" must be"),
            ("NUL", |mount| mount.image_sub_path = "a\0".into(), "image_sub_path:"),
            ("passed on", |mount| mount.propagation = 2, "propagation: \"2\" is none"),
        ];
        for (name, change, want) in cases {
            let got = text(change);
            let want = if want.starts_with("sha256") { want.to_owned() } else { format!("{FAILED}{want}") };
            assert!(got.starts_with(&want), "{name}: {got}");
        }
    }
}
