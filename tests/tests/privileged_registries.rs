//! Registries as people run them: TLS with an authority of one's own, passwords, mirrors, signatures; and networks that fail.

use std::fs;
use std::process::Command;
use std::time::Duration;

use cri_api::runtime::v1::{AuthConfig, ImageSpec, ListImagesRequest, PullImageRequest};
use suite::daemon::write;
use suite::image::{Compression, Flavour, Tree, one_large_file};
use suite::patience::until;
use suite::process::succeed;
use suite::proxy::{Fault, Proxy};
use suite::registry::certificate;
use suite::scripted::Script;
use suite::{ImageBuilder, Registry, World, in_bare_world};
use tonic::{Code, Status};

/// `htpasswd -B`: ann with the password "secret".
const ANN: &str = "ann:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

fn pull(world: &World, image: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
    let image = Some(ImageSpec { image: image.to_owned(), ..Default::default() });
    let request = PullImageRequest { image, auth, ..Default::default() };
    Ok(world.cri().pull_image(request)?.image_ref)
}

fn ann(password: &str) -> Option<AuthConfig> {
    let (username, password) = ("ann".to_owned(), password.to_owned());
    Some(AuthConfig { username, password, ..Default::default() })
}

fn small(mark: &str) -> ImageBuilder {
    let tree = Tree::default().directory("etc").file("etc/mark", 0o644, mark.as_bytes());
    ImageBuilder::new(Flavour::Oci).layer(Compression::Gzip, tree)
}

/// An image of one layer that does not compress.
fn large(bytes: usize) -> ImageBuilder {
    ImageBuilder::new(Flavour::Oci).layer(Compression::Plain, one_large_file(bytes))
}

/// Sets a key of the section [image], and starts the daemon anew.
fn set(world: &mut World, key: &str, value: &str) {
    let path = world.config_path();
    let text = fs::read_to_string(&path).expect("the configuration");
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with(key)).collect();
    let text = kept.join("\n").replace("[image]", &format!("[image]\n{key} = {value}"));
    write(&path, &text);
    world.restart_daemon();
}

/// The directory for one registry, where the daemon looks for hosts.toml.
fn hosts(world: &World, registry: &str, text: &str) {
    let directory = world.directory("certs.d").join(registry);
    fs::create_dir_all(&directory).expect("a directory for a registry");
    write(&directory.join("hosts.toml"), text);
}

fn use_hosts(world: &mut World) {
    let directory = world.directory("certs.d");
    set(world, "registry_config", &format!("{:?}", directory.display().to_string()));
}

#[test]
fn privileged_a_registry_with_its_own_authority_and_passwords_is_configured_without_a_restart() {
    in_bare_world(|world| {
        let (cert, key) = certificate(&world.directory("tls"));
        let guarded = Registry::guarded(&cert, &key, ANN);
        let image = small("guarded").build();
        let plain = world.registry().push("source", "1", &image);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false"]);
        skopeo.args(["--dest-tls-verify=false", "--dest-creds", "ann:secret"]);
        skopeo.arg(format!("docker://{plain}"));
        skopeo.arg(format!("docker://{}", guarded.reference("app:1")));
        succeed(&mut skopeo);

        use_hosts(world);
        let name = guarded.name();
        let reference = guarded.reference("app:1");
        let refused = pull(world, &reference, ann("secret")).unwrap_err();
        assert!(!refused.message().contains("secret"), "{refused}");
        // From here on each pull sees another file.
        hosts(world, &name, &format!("server = \"https://{name}\"\n"));
        let unknown = pull(world, &reference, ann("secret")).unwrap_err();
        assert_eq!(unknown.code(), Code::Unknown, "kubelet looks at the text alone: {unknown}");
        assert!(unknown.message().starts_with("RegistryUnavailable"), "{unknown}");
        hosts(world, &name, &format!("server = \"https://{name}\"\nca = {cert:?}\n"));
        for auth in [None, ann("guess")] {
            let denied = pull(world, &reference, auth).unwrap_err();
            assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
        }
        let other =
            AuthConfig { server_address: "elsewhere.example".into(), ..ann("secret").unwrap() };
        let denied = pull(world, &reference, Some(other)).unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied, "not for this registry: {denied}");
        let own =
            AuthConfig { server_address: format!("https://{name}/v2/"), ..ann("secret").unwrap() };
        assert_eq!(pull(world, &reference, Some(own)).unwrap(), image.id);
        world.remove_image(&image.id);
        let encoded = AuthConfig { auth: "YW5uOnNlY3JldA==".into(), ..Default::default() };
        assert_eq!(pull(world, &reference, Some(encoded)).unwrap(), image.id);
        world.remove_image(&image.id);
        hosts(world, &name, &format!("server = \"https://{name}\"\nskip_verify = true\n"));
        assert_eq!(pull(world, &reference, ann("secret")).unwrap(), image.id);
        world.remove_image(&image.id);
        assert!(!world.log_tail().contains("secret"), "no password in the log");
    });
}

#[test]
fn privileged_mirrors_are_asked_in_order_and_learn_no_credentials() {
    in_bare_world(|world| {
        let image = small("mirrored").build();
        let empty = Script::default().serve();
        // ann:secret opens it, but is not for it.
        let guarded =
            Script::default().image("app", "1", &image).guarded_by("YW5uOnNlY3JldA==").serve();
        let good = Script::default().image("app", "1", &image).serve();
        use_hosts(world);
        let url = |server: &suite::scripted::Scripted| format!("http://{}", server.reference(""));
        hosts(
            world,
            "_default",
            &format!(
                "server = \"http://127.0.0.1:1\"\n[host.\"http://127.0.0.1:1\"]\n[host.{:?}]\n\
                 [host.{:?}]\n[host.{:?}]\ncapabilities = [\"pull\", \"resolve\"]\n",
                url(&empty),
                url(&guarded),
                url(&good)
            ),
        );
        let id = pull(world, "registry.example/app:1", ann("secret")).unwrap();
        assert_eq!(id, image.id);
        assert!(empty.asked_for("/v2/app/manifests/1") > 0 && guarded.asked_for("/v2/app") > 0);
        assert_eq!(guarded.asked_for("/blobs/"), 0, "it was not let in");
        assert!(good.asked_for("ns=registry.example") > 0, "a mirror is told whose image it is");
        world.remove_image(&id);
    });
}

#[test]
fn privileged_a_pull_survives_what_networks_do() {
    in_bare_world(|world| {
        let image = large(3 << 20).build();
        let layer = image.blobs[1].digest.clone();
        let manifest = "/manifests/";
        world.registry().push("app", "1", &image);
        let cases = [
            ("a cut", layer.as_str(), Fault::Cut(1_000_000), 1),
            ("three cuts", layer.as_str(), Fault::Cut(700_000), 3),
            ("a wrong length", layer.as_str(), Fault::Longer(10), 0),
            ("503 in the middle", layer.as_str(), Fault::Status(503, None), 2),
            ("too many requests", manifest, Fault::Status(429, Some(1)), 1),
            ("503 at the manifest", manifest, Fault::Status(503, None), 2),
            ("a slow head", manifest, Fault::SlowHead(Duration::from_millis(1)), 1),
            ("a cut manifest", manifest, Fault::Cut(20), 1),
        ];
        for (what, about, fault, times) in cases {
            let proxy = Proxy::before(world.registry().address());
            proxy.fail(about, fault, times);
            let pulled = pull(world, &proxy.reference("app:1"), None);
            assert_eq!(pulled.unwrap_or_else(|err| panic!("{what}: {err}")), image.id, "{what}");
            world.remove_image(&image.id);
        }
    });
}

#[test]
fn privileged_what_a_registry_gets_wrong_is_an_error_and_leaves_nothing() {
    in_bare_world(|world| {
        let image = large(1 << 20).build();
        let layer = image.blobs[1].digest.clone();
        world.registry().push("app", "1", &image);
        let cases = [
            ("a wrong byte", layer.as_str(), Fault::Flip(500_000), Code::DataLoss),
            ("a wrong length", layer.as_str(), Fault::Longer(10), Code::DataLoss),
            ("a loop", "/manifests/", Fault::Loop, Code::FailedPrecondition),
            ("nobody at home", "/manifests/", Fault::Status(500, None), Code::Unknown),
        ];
        for (what, about, fault, want) in cases {
            let proxy = Proxy::before(world.registry().address());
            proxy.fail(about, fault, 1000);
            let refused = pull(world, &proxy.reference("app:1"), None).unwrap_err();
            assert_eq!(refused.code(), want, "{what}: {refused}");
            assert!(
                world.cri().list_images(ListImagesRequest::default()).unwrap().images.is_empty()
            );
            world.assert_nothing_is_left();
        }
    });
}

#[test]
fn privileged_a_killed_daemon_fetches_nothing_twice() {
    in_bare_world(|world| {
        set(world, "keep_unfinished_s", "600");
        let image = large(12 << 20).build();
        let layer = image.blobs[1].clone();
        let size = layer.bytes.len() as u64;
        world.registry().push("app", "1", &image);
        let proxy = Proxy::before(world.registry().address());
        let reference = proxy.reference("app:1");
        let came = 8 << 20;
        proxy.fail(&layer.digest, Fault::Stall(came), 1);
        let waiting = world.background(&mut world.berth(&["pull", &reference]));
        let ingest = world.root().join("blobs/ingest").join(layer.digest.replace(':', "-"));
        let length = || fs::metadata(&ingest).map_or(0, |about| about.len());
        until("most of what was sent is on disk", || length() + (512 << 10) >= came);
        world.kill_daemon();
        drop(waiting);
        proxy.mend();
        world.start_daemon();
        assert_eq!(pull(world, &reference, None).unwrap(), image.id);
        let asked = proxy.asked(&layer.digest);
        let twice = proxy.sent(&layer.digest).saturating_sub(size);
        println!("{twice} bytes were fetched twice, of {came} that were there");
        assert!(twice < 1 << 20, "{asked:?}");
        assert!(asked.last().is_some_and(|asked| asked.range.starts_with("bytes=")), "{asked:?}");
        world.remove_image(&image.id);
        set(world, "keep_unfinished_s", "0");
    });
}

#[test]
fn privileged_a_pull_given_up_frees_everything() {
    in_bare_world(|world| {
        let image = large(4 << 20).build();
        let layer = image.blobs[1].digest.clone();
        world.registry().push("app", "1", &image);
        let proxy = Proxy::before(world.registry().address());
        proxy.fail(&layer, Fault::Stall(2 << 20), 1);
        let reference = proxy.reference("app:1");
        let waiting = world.background(&mut world.berth(&["pull", &reference]));
        until("the pull is under way", || proxy.sent(&layer) == 2 << 20);
        drop(waiting);
        world.assert_nothing_is_left();
    });
}

/// Signs what is pulled as `name` as cosign does, with openssl, and puts the signature into the registry.
fn sign(world: &World, name: &str, digest: &str, key: &str) {
    let payload = serde_json::json!({
        "critical": {
            "identity": { "docker-reference": name },
            "image": { "docker-manifest-digest": digest },
            "type": "cosign container image signature",
        },
        "optional": null,
    });
    let payload = payload.to_string();
    let file = world.directory("signatures").join("payload");
    write(&file, &payload);
    let raw = world.directory("signatures").join("raw");
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-sign", key, "-out"]).arg(&raw).arg(&file);
    succeed(&mut openssl);
    let encoded = succeed(Command::new("openssl").args(["base64", "-A", "-in"]).arg(&raw));
    let repository = name.split_once('/').expect("a registry and a repository").1;
    let tag = format!("{}.sig", digest.replace(':', "-"));
    world.registry().push_signature(repository, &tag, payload.as_bytes(), &encoded);
}

#[test]
fn privileged_only_what_the_policy_allows_is_let_in_and_the_rest_leaves_nothing() {
    in_bare_world(|world| {
        let keys = world.directory("keys");
        let path = |name: &str| keys.join(name).to_str().unwrap().to_owned();
        for name in ["ours", "theirs"] {
            let mut make = Command::new("openssl");
            make.args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
            succeed(make.args(["-out", &path(name)]));
            let mut public = Command::new("openssl");
            public.args(["pkey", "-in", &path(name), "-pubout", "-out"]);
            succeed(public.arg(path(&format!("{name}.pub"))));
        }
        let registry = world.registry().name();
        let policy = serde_json::json!({
            "default": [{ "type": "reject" }],
            "transports": { "docker": {
                format!("{registry}/free"): [{ "type": "insecureAcceptAnything" }],
                format!("{registry}/signed"): [{
                    "type": "sigstoreSigned",
                    "keyPath": path("ours.pub"),
                    "signedIdentity": { "type": "matchRepository" },
                }],
            } },
        });
        let file = world.directory("policy").join("policy.json");
        write(&file, &policy.to_string());
        set(world, "policy", &format!("{:?}", file.display().to_string()));

        let cases = [
            ("free/app", None, true),
            ("other/app", None, false),
            ("signed/none", None, false),
            ("signed/theirs", Some(("theirs", "signed/theirs", true)), false),
            ("signed/renamed", Some(("ours", "signed/another", true)), false),
            ("signed/moved", Some(("ours", "signed/moved", false)), false),
            ("signed/good", Some(("ours", "signed/good", true)), true),
        ];
        for (repository, signature, want) in cases {
            let image = small(repository).build();
            let reference = world.registry().push(repository, "1", &image);
            if let Some((key, name, is_of_image)) = signature {
                let digest = &image.manifest.digest;
                let tag = format!("{}.sig", digest.replace(':', "-"));
                let other = suite::image::digest(b"another image");
                let signed = if is_of_image { digest } else { &other };
                sign(world, &format!("{registry}/{name}"), signed, &path(key));
                // Whoever can write to the registry can put a signature anywhere.
                let found = format!("{}.sig", signed.replace(':', "-"));
                if name != repository || found != tag {
                    world.registry().copy_tag((name, &found), (repository, &tag));
                }
            }
            match pull(world, &reference, None) {
                Ok(id) => {
                    assert!(want, "{repository} was let in");
                    world.remove_image(&id);
                }
                Err(refused) => {
                    assert!(!want, "{repository}: {refused}");
                    assert_eq!(refused.code(), Code::Unknown);
                    let text = refused.message();
                    assert!(text.starts_with("SignatureValidationFailed"), "{text}");
                }
            }
            world.assert_nothing_is_left();
        }
        fs::remove_file(&file).unwrap();
        let lost = pull(world, &format!("{registry}/free/app:1"), None).unwrap_err();
        assert!(lost.message().starts_with("SignatureValidationFailed"), "{lost}");
    });
}
