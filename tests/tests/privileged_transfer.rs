//! Images out and in: push, save, load, and the names they have. skopeo reads what we write, and writes what we read.

use std::fs::{self, File};
use std::process::{Command, Output, Stdio};

use cri_api::runtime::v1::{Image, ListImagesRequest};
use serde_json::Value;
use suite::daemon::write;
use suite::image::{Compression, Flavour, Tree};
use suite::process::{output, succeed};
use suite::{ImageBuilder, World, in_bare_world, in_world};

fn berth(world: &World, arguments: &[&str]) -> String {
    succeed(&mut world.berth(arguments))
}

fn shown(output: &Output) -> String {
    format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}

fn list(world: &World) -> Vec<Image> {
    world.cri().list_images(ListImagesRequest::default()).expect("list images").images
}

fn skopeo(words: &[&str]) -> String {
    succeed(Command::new("skopeo").args(["--insecure-policy"]).args(words))
}

/// What skopeo makes of the manifest of an image at the test's registry.
fn manifest(reference: &str) -> Value {
    let text =
        skopeo(&["inspect", "--raw", "--tls-verify=false", &format!("docker://{reference}")]);
    serde_json::from_str(&text).expect("a manifest in JSON")
}

fn layered(mark: &str) -> ImageBuilder {
    let tree = |name: &str| Tree::default().file(name, 0o644, mark.as_bytes());
    ImageBuilder::new(Flavour::Oci)
        .layer(Compression::Gzip, tree("first"))
        .layer(Compression::Gzip, tree("second"))
}

#[test]
fn privileged_a_pushed_image_is_the_same_to_the_byte() {
    in_bare_world(|world| {
        let image = layered("pushed").build();
        let source = world.registry().push("source", "1", &image);
        world.pull(&source);
        let same = world.registry().reference("copy/of/it:2");
        let said = berth(world, &["push", &source, &same]);
        assert!(said.contains(&image.manifest.digest), "{said}");
        let there = manifest(&same);
        assert_eq!(there, serde_json::from_slice::<Value>(&image.manifest.bytes).unwrap());
        // The layers had to be got from the first registry again, for another one.
        let other = suite::Registry::start();
        let far = other.reference("far/away:1");
        berth(world, &["push", &image.id, &far]);
        berth(world, &["push", &image.id, &far]);
        let bytes = skopeo(&["inspect", "--tls-verify=false", &format!("docker://{far}")]);
        assert!(bytes.contains(&image.manifest.digest), "{bytes}");
        world.remove_image(&image.id);
        assert_eq!(world.pull(&far).id, image.id);
        world.remove_image(&image.id);
    });
}

#[test]
fn privileged_a_push_to_a_guarded_registry_takes_credentials_from_docker_s_file() {
    in_bare_world(|world| {
        let directory = world.directory("docker");
        let image = layered("guarded").build();
        let source = world.registry().push("source", "1", &image);
        world.pull(&source);
        let (cert, key) = suite::registry::certificate(&world.directory("tls"));
        let ann = "ann:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
        let guarded = suite::Registry::guarded(&cert, &key, ann);
        let name = guarded.name();
        let hosts = world.directory("certs.d").join(&name);
        fs::create_dir_all(&hosts).unwrap();
        write(&hosts.join("hosts.toml"), &format!("server = \"https://{name}\"\nca = {cert:?}\n"));
        let text = fs::read_to_string(world.config_path()).unwrap();
        let path = format!("registry_config = {:?}", hosts.parent().unwrap().display().to_string());
        write(&world.config_path(), &text.replace("registry_config = \"\"", &path));
        world.restart_daemon();

        let target = guarded.reference("app:1");
        let push = |world: &World| {
            let mut command = world.berth(&["push", &source, &target]);
            output(command.env("DOCKER_CONFIG", &directory))
        };
        let refused = push(world);
        assert!(!refused.status.success(), "nobody is nobody");
        // As `docker login` leaves it.
        let login = format!("{{\"auths\":{{\"{name}\":{{\"auth\":\"YW5uOnNlY3JldA==\"}}}}}}");
        write(&directory.join("config.json"), &login);
        let pushed = push(world);
        assert!(pushed.status.success(), "{}", shown(&pushed));
        // And as a helper gives it.
        let helper = directory.join("docker-credential-test");
        write(
            &helper,
            "#!/bin/sh\nread server\n\
             echo '{\"ServerURL\":\"x\",\"Username\":\"ann\",\"Secret\":\"secret\"}'\n",
        );
        succeed(Command::new("chmod").arg("755").arg(&helper));
        let login = format!("{{\"credHelpers\":{{\"{name}\":\"test\"}}}}");
        write(&directory.join("config.json"), &login);
        let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
        let mut pull = world.berth(&["pull", &target]);
        let pulled = output(pull.env("DOCKER_CONFIG", &directory).env("PATH", path));
        assert!(pulled.status.success(), "{}", shown(&pulled));
        world.remove_image(&image.id);
    });
}

#[test]
fn privileged_archives_of_every_form_go_out_and_come_in() {
    in_bare_world(|world| {
        let image = layered("saved").build();
        let source = world.registry().push("source", "1", &image);
        let directory = world.directory("archives");
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        world.pull(&source);
        berth(world, &["save", "-o", &path("oci.tar"), &source]);
        berth(world, &["save", "--format", "docker-archive", "-o", &path("docker.tar"), &source]);
        berth(world, &["save", "--format", "oci-dir", "-o", &path("dir"), &source]);
        let mut piped = world.berth(&["save", &source]);
        let piped = output(&mut piped);
        assert!(piped.status.success(), "{}", shown(&piped));
        assert_eq!(piped.stdout, fs::read(path("oci.tar")).unwrap(), "the same on standard output");
        succeed(Command::new("gzip").args(["-k", &path("oci.tar")]));
        // skopeo reads each.
        for (from, to) in [
            (format!("oci-archive:{}", path("oci.tar")), "s1"),
            (format!("docker-archive:{}", path("docker.tar")), "s2"),
            (format!("oci:{}:1", path("dir")), "s3"),
        ] {
            let target = format!("dir:{}", path(to));
            skopeo(&["copy", "-q", &from, &target]);
        }
        // And writes some.
        let from = format!("docker://{source}");
        for form in ["docker-archive", "oci-archive"] {
            let to = format!("{form}:{}:example.com/by/skopeo:1", path(form));
            skopeo(&["copy", "-q", "--src-tls-verify=false", &from, &to]);
        }
        world.remove_image(&image.id);

        let cases = [
            ("oci.tar", source.as_str()),
            ("oci.tar.gz", source.as_str()),
            ("docker.tar", source.as_str()),
            ("dir", source.as_str()),
            ("docker-archive", "example.com/by/skopeo:1"),
            ("oci-archive", "example.com/by/skopeo:1"),
        ];
        for (file, want) in cases {
            let said = berth(world, &["load", "-i", &path(file)]);
            assert_eq!(said, format!("Loaded {want}\n"), "{file}");
            let images = list(world);
            assert_eq!((images.len(), images[0].repo_tags.clone()), (1, vec![want.to_owned()]));
            // Whoever packs layers anew makes another manifest; what is in them is the same.
            if !file.ends_with("-archive") {
                assert_eq!(images[0].id, image.id, "{file}");
            }
            // What was loaded can be pushed: nobody else has its layers.
            let target = world.registry().reference(&format!("again/{}:1", file.replace('.', "-")));
            berth(world, &["push", want, &target]);
            world.remove_image(&images[0].id);
            world.assert_nothing_is_left();
        }
        let stdin = File::open(path("docker.tar")).unwrap();
        let mut load = world.berth(&["load", "-q"]);
        let said = succeed(load.stdin(Stdio::from(stdin)));
        assert_eq!(said.trim(), image.id);
        world.remove_image(&image.id);
    });
}

#[test]
fn privileged_an_archive_that_is_none_or_lies_leaves_nothing() {
    in_bare_world(|world| {
        let image = layered("lies").build();
        let source = world.registry().push("source", "1", &image);
        let directory = world.directory("archives");
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        world.pull(&source);
        berth(world, &["save", "-o", &path("good"), &source]);
        world.remove_image(&image.id);
        let good = fs::read(path("good")).unwrap();
        let at = good.windows(6).rposition(|window| window == b"second").unwrap_or(3000);
        let mut flipped = good.clone();
        flipped[at.min(2600)] ^= 0x55;
        let cases = [
            ("nothing", Vec::new()),
            ("no archive", vec![7; 4096]),
            ("half", good[..good.len() / 2].to_vec()),
            ("flipped", flipped),
            ("gzip of nothing", vec![0x1f, 0x8b, 8, 0]),
        ];
        for (name, bytes) in cases {
            let file = path("bad");
            fs::File::create_new(&file)
                .and_then(|mut to| std::io::Write::write_all(&mut to, &bytes))
                .unwrap();
            let refused = output(&mut world.berth(&["load", "-i", &file]));
            fs::remove_file(&file).unwrap();
            assert!(!refused.status.success(), "{name}");
            assert!(list(world).is_empty(), "{name}");
            world.assert_nothing_is_left();
        }
    });
}

#[test]
fn privileged_names_are_given_and_taken_one_by_one() {
    in_bare_world(|world| {
        let image = layered("named").build();
        let source = world.registry().push("source", "1", &image);
        world.pull(&source);
        berth(world, &["tag", &source, "app", "example.com/app:2"]);
        let tags = |world: &World| {
            let mut tags = list(world)[0].repo_tags.clone();
            tags.sort();
            tags
        };
        assert_eq!(tags(world), [&source, "docker.io/library/app:latest", "example.com/app:2"]);
        berth(world, &["untag", "app"]);
        assert_eq!(tags(world), [&source, "example.com/app:2"]);
        let again = output(&mut world.berth(&["untag", "app"]));
        assert!(!again.status.success(), "it is gone");
        for (words, why) in [
            (["tag", "nothing/here", "x"], "no such image"),
            (["tag", &source, "UPPER"], "no name"),
        ] {
            assert!(!output(&mut world.berth(&words)).status.success(), "{why}");
        }
        berth(world, &["untag", &source, "example.com/app:2"]);
        assert!(list(world)[0].repo_tags.is_empty(), "the image stays without a tag");
        let history = berth(world, &["history", &image.id]);
        assert!(history.starts_with("CREATED"), "{history}");
        assert_eq!(history.lines().count(), 3, "a line for each layer: {history}");
        world.restart_daemon();
        assert!(list(world)[0].repo_tags.is_empty(), "also after a restart");
        world.remove_image(&image.id);
    });
}

#[test]
fn privileged_prune_says_what_it_would_do_and_spares_what_is_used() {
    in_world(|world| {
        let images = ["one", "two"].map(|mark| layered(mark).build());
        for (image, name) in images.iter().zip(["one", "two"]) {
            world.pull(&world.registry().push(name, "1", image));
        }
        berth(world, &["untag", &world.registry().reference("one:1")]);
        let pod = world.run_pod("user");
        let config = world.container_config("user", &["sleep", "1000"]);
        world.run(&pod, config);
        let would = berth(world, &["prune", "--all", "--dry-run"]);
        assert!(would.contains("Would remove 2 images"), "{would}");
        assert_eq!(list(world).len(), 3, "nothing was done");
        let did = berth(world, &["prune"]);
        assert!(did.contains("Removed 1 images"), "{did}");
        let did = berth(world, &["prune", "-a"]);
        assert!(did.contains("Removed 1 images"), "{did}");
        assert_eq!(list(world)[0].id, world.busybox.id);
    });
}
