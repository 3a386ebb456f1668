//! Images: every way to name one, every form to pull one in, and nothing left of a bad one.

use cri_api::runtime::v1::{
    AuthConfig, Image, ImageFilter, ImageSpec, ImageStatusRequest, ListImagesRequest,
    PullImageRequest,
};
use serde_json::json;
use suite::image::{Compression, Flavour, Tree, many_files, one_large_file};
use suite::scripted::Script;
use suite::{ImageBuilder, World, in_bare_world, in_world};
use tonic::{Code, Status};

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..Default::default() })
}

fn pull(world: &World, image: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
    let request = PullImageRequest { image: spec(image), auth, ..Default::default() };
    Ok(world.cri().pull_image(request)?.image_ref)
}

fn list(world: &World) -> Vec<Image> {
    world.cri().list_images(ListImagesRequest::default()).expect("list images").images
}

fn look(world: &World, name: &str) -> Option<Image> {
    let request = ImageStatusRequest { image: spec(name), ..Default::default() };
    let answer = world.cri().image_status(request);
    answer.unwrap_or_else(|status| panic!("status of {name}: {status}")).image
}

/// A small image; `mark` makes it differ from others.
fn small(mark: &str) -> ImageBuilder {
    let tree = Tree::default().directory("etc").file("etc/mark", 0o644, mark.as_bytes());
    ImageBuilder::new(Flavour::Oci).layer(Compression::Gzip, tree)
}

#[test]
fn privileged_every_media_type_is_pulled_and_runs() {
    in_world(|world| {
        let pod = world.run_pod("media");
        for flavour in [Flavour::Oci, Flavour::Docker] {
            for compression in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
                let name = format!("{flavour:?}-{compression:?}").to_lowercase();
                let image = ImageBuilder::busybox()
                    .flavour(flavour)
                    .layer(compression, Tree::default().file("mark", 0o644, name.as_bytes()))
                    .compressed(compression)
                    .build();
                let reference = world.registry().push(&name, "1", &image);
                let pulled = world.pull(&reference);
                assert_eq!(pulled.id, image.id, "{name}");
                let mut config = world.container_config(&name, &["cat", "/mark"]);
                config.image = spec(&pulled.id);
                let (status, written) = world.run_to_end(&pod, config);
                assert_eq!((status.exit_code, written.trim_end()), (0, name.as_str()));
            }
        }
        world.remove_all_pods();
        for image in list(world).iter().filter(|image| image.id != world.busybox.id) {
            world.remove_image(&image.id);
        }
    });
}

#[test]
fn privileged_an_index_gives_the_image_of_this_machine() {
    in_bare_world(|world| {
        for flavour in [Flavour::Oci, Flavour::Docker] {
            let image = small(&format!("{flavour:?}")).flavour(flavour).build();
            let index = image.index(flavour);
            let server = Script::default()
                .image("app", "only", &image)
                .manifest("app", "multi", &index)
                .serve();
            assert_eq!(pull(world, &server.reference("app:multi"), None).unwrap(), image.id);
            world.remove_image(&image.id);
        }
    });
}

#[test]
fn privileged_upper_layers_win_and_whiteouts_hide() {
    in_world(|world| {
        let image = ImageBuilder::busybox()
            .layer(
                Compression::Gzip,
                Tree::default()
                    .directory("d")
                    .file("d/gone", 0o644, b"1")
                    .file("d/kept", 0o644, b"lower")
                    .directory("opaque")
                    .file("opaque/hidden", 0o644, b"1"),
            )
            .layer(
                Compression::Zstd,
                Tree::default()
                    .directory("d")
                    .whiteout("d", "gone")
                    .file("d/kept", 0o600, b"upper")
                    .directory("opaque")
                    .file("opaque/.wh..wh..opq", 0o644, b"")
                    .file("opaque/shown", 0o644, b"1"),
            )
            .build();
        let pulled = world.pull(&world.registry().push("layers", "1", &image));
        let pod = world.run_pod("layers");
        let mut config = world.container_config("layers", &[]);
        config.image = spec(&pulled.id);
        let script = "ls d opaque; cat d/kept; stat -c ' %a' d/kept";
        assert_eq!(world.printed(&pod, config, script), "d:\nkept\n\nopaque:\nshown\nupper 600\n");
        world.remove_all_pods();
        world.remove_image(&pulled.id);
    });
}

#[test]
fn privileged_image_status_knows_an_image_by_every_kind_of_name() {
    in_bare_world(|world| {
        let image = small("names").build();
        let reference = world.registry().push("team/app", "latest", &image);
        let repository = reference.strip_suffix(":latest").unwrap().to_owned();
        let id = world.pull(&reference).id;
        let bare = id.strip_prefix("sha256:").unwrap().to_owned();
        let names = [
            reference.clone(),
            repository.clone(),
            format!("{repository}@{}", image.manifest.digest),
            format!("{reference}@{}", image.manifest.digest),
            id.clone(),
            bare.clone(),
            bare[..12].to_owned(),
        ];
        for name in &names {
            let found = look(world, name).unwrap_or_else(|| panic!("no image by {name}"));
            assert_eq!(found.id, image.id, "{name}");
            assert_eq!(found.repo_tags, [reference.as_str()], "{name}");
            let digests = [format!("{repository}@{}", image.manifest.digest)];
            assert_eq!(found.repo_digests, digests, "{name}");
            assert!(found.size > 0, "{name}");
        }
        for name in ["nobody/has:this", "sha256:0000", &reference.replace("latest", "other")] {
            assert!(look(world, name).is_none(), "{name} is unknown");
        }
        world.remove_image(&id);
    });
}

#[test]
fn privileged_a_pull_by_digest_has_a_digest_and_no_tag() {
    in_bare_world(|world| {
        let image = small("digest").build();
        world.registry().push("app", "1", &image);
        let by_digest = world.registry().reference(&format!("app@{}", image.manifest.digest));
        let id = pull(world, &by_digest, None).unwrap();
        assert_eq!(id, image.id);
        let found = look(world, &by_digest).unwrap();
        assert_eq!(found.repo_tags, Vec::<String>::new());
        assert_eq!(found.repo_digests, [by_digest.as_str()]);
        world.remove_image(&by_digest);
        assert!(list(world).is_empty());
    });
}

#[test]
fn privileged_one_image_with_three_tags_is_one_entry_and_three_images_are_three() {
    in_bare_world(|world| {
        let image = small("tags").build();
        let mut tags: Vec<String> =
            ["a", "b", "c"].map(|tag| world.registry().push("same", tag, &image)).to_vec();
        for tag in &tags {
            assert_eq!(pull(world, tag, None).unwrap(), image.id);
        }
        let others = ["x", "y"].map(|mark| {
            pull(world, &world.registry().push("other", mark, &small(mark).build()), None).unwrap()
        });
        let images = list(world);
        assert_eq!(images.len(), 3);
        let mut found = images.iter().find(|other| other.id == image.id).unwrap().repo_tags.clone();
        found.sort();
        tags.sort();
        assert_eq!(found, tags);

        // The contract of CRI: removing by one name removes the image with all of them.
        world.remove_image(&tags[1]);
        let left: Vec<String> = list(world).into_iter().map(|image| image.id).collect();
        assert_eq!(left.len(), 2);
        assert!(others.iter().all(|id| left.contains(id)));
        for tag in &tags {
            assert!(look(world, tag).is_none(), "{tag}");
        }
        others.iter().for_each(|id| world.remove_image(id));
    });
}

#[test]
fn privileged_a_tag_that_moves_leaves_the_old_image_without_it() {
    in_bare_world(|world| {
        let (old, new) = (small("old").build(), small("new").build());
        let reference = world.registry().push("moving", "1", &old);
        pull(world, &reference, None).unwrap();
        world.registry().push("moving", "1", &new);
        assert_eq!(pull(world, &reference, None).unwrap(), new.id);
        assert_eq!(look(world, &reference).unwrap().id, new.id);
        let left = look(world, &old.id).expect("the old image is still there by its id");
        assert_eq!(left.repo_tags, Vec::<String>::new());
        world.remove_image(&old.id);
        world.remove_image(&new.id);
    });
}

#[test]
fn privileged_a_removed_image_leaves_nothing_and_removing_it_again_succeeds() {
    in_bare_world(|world| {
        let image = ImageBuilder::busybox().layer(Compression::Zstd, many_files(500)).build();
        let reference = world.registry().push("removed", "1", &image);
        let before = world.census();
        pull(world, &reference, None).unwrap();
        assert_ne!(world.census(), before, "the census sees an image");
        world.remove_image(&reference);
        assert!(list(world).is_empty());
        world.remove_image(&reference);
        world.remove_image(&image.id);
        world.remove_image("never/was:here");
        world.assert_nothing_is_left();
    });
}

#[test]
fn privileged_images_that_share_a_layer_are_removed_one_by_one() {
    in_world(|world| {
        let image = ImageBuilder::busybox()
            .layer(Compression::Gzip, Tree::default().file("mark", 0o644, b"second"))
            .build();
        let second = world.pull(&world.registry().push("second", "1", &image));
        world.remove_image(&second.id);
        let pod = world.run_pod("still");
        let (status, _) = world.run_to_end(&pod, world.container_config("still", &["true"]));
        assert_eq!(status.exit_code, 0, "the first image still has its layer");
    });
}

#[test]
fn privileged_an_image_removed_under_a_running_container_does_not_disturb_it() {
    in_world(|world| {
        let image = ImageBuilder::busybox()
            .layer(Compression::Gzip, Tree::default().file("mark", 0o644, b"mine"))
            .build();
        let pulled = world.pull(&world.registry().push("used", "1", &image));
        let pod = world.run_pod("user");
        let mut config = world.container_config("user", &["sleep", "1000"]);
        config.image = spec(&pulled.id);
        let id = world.run(&pod, config);
        world.remove_image(&pulled.id);
        assert!(look(world, &pulled.id).is_none());
        assert_eq!(world.exec(&id, &["cat", "/mark"]), "mine");
        assert_eq!(world.status(&id).image_id, pulled.id);
        // The census at the end proves that the layer goes with the container.
    });
}

#[test]
fn privileged_content_that_is_not_what_its_digest_says_is_refused_and_leaves_nothing() {
    in_bare_world(|world| {
        let image = small("honest").build();
        let other = small("dishonest").build();
        let cases = [
            ("layer", image.blobs[1].digest.clone(), other.blobs[1].bytes.clone()),
            ("layer of garbage", image.blobs[1].digest.clone(), b"garbage".to_vec()),
            ("config", image.blobs[0].digest.clone(), other.blobs[0].bytes.clone()),
            ("manifest by digest", image.manifest.digest.clone(), other.manifest.bytes.clone()),
        ];
        for (what, digest, bytes) in cases {
            let server =
                Script::default().image("app", "1", &image).lie_about(&digest, &bytes).serve();
            let name = match what {
                "manifest by digest" => format!("app@{digest}"),
                _ => "app:1".to_owned(),
            };
            pull(world, &server.reference(&name), None).expect_err(what);
            assert!(list(world).is_empty(), "{what}");
            world.assert_nothing_is_left();
        }
    });
}

#[test]
fn privileged_a_layer_whose_content_is_not_the_diff_id_is_refused() {
    in_bare_world(|world| {
        let mut image = small("a").build();
        let config = String::from_utf8(image.blobs[0].bytes.clone()).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config["rootfs"]["diff_ids"] = json!([suite::image::digest(b"something else")]);
        image.replace_config(&config);
        let server = Script::default().image("app", "1", &image).serve();
        pull(world, &server.reference("app:1"), None).expect_err("a lie in the config");
        assert!(list(world).is_empty());
    });
}

#[test]
fn privileged_layers_that_reach_out_of_the_root_stay_inside_or_are_refused() {
    in_bare_world(|world| {
        let victim = world.directory("victim");
        let inside = victim.display().to_string();
        let trees = [
            ("dots", Tree::default().raw_file("../../../../../../../..", &format!("{inside}/a"))),
            ("absolute", Tree::default().raw_file("", &format!("{inside}/a"))),
            ("through a link", Tree::default().symlink("out", &inside).raw_file("out/", "a")),
        ];
        for (what, tree) in trees {
            let image = ImageBuilder::new(Flavour::Oci).layer(Compression::Plain, tree).build();
            let server = Script::default().image("app", "1", &image).serve();
            if let Ok(id) = pull(world, &server.reference("app:1"), None) {
                world.remove_image(&id);
            }
            assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0, "{what}");
        }
    });
}

#[test]
fn privileged_what_a_registry_does_not_have_is_an_error_and_leaves_nothing() {
    in_bare_world(|world| {
        for name in [
            "absent:1",
            "absent@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ] {
            let error = pull(world, &world.registry().reference(name), None).unwrap_err();
            assert_eq!(error.code(), Code::NotFound, "{name}: {error}");
        }
        let nobody = pull(world, "127.0.0.1:1/app:1", None).unwrap_err();
        assert!(!nobody.message().is_empty());
        for bad in ["", "UPPER/case", "a b", "app:tag:tag", "app@sha256:short"] {
            let error = pull(world, bad, None).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{bad:?}: {error}");
        }
    });
}

#[test]
fn privileged_a_registry_with_tokens_is_asked_with_the_credentials_of_the_request() {
    in_bare_world(|world| {
        let image = small("guarded").build();
        // ann:secret
        let server =
            Script::default().image("app", "1", &image).guarded_by("YW5uOnNlY3JldA==").serve();
        let reference = server.reference("app:1");
        let auth = |password: &str| {
            Some(AuthConfig {
                username: "ann".into(),
                password: password.into(),
                ..Default::default()
            })
        };
        pull(world, &reference, None).expect_err("without credentials");
        let wrong = pull(world, &reference, auth("wrong")).unwrap_err();
        assert!(!wrong.message().contains("wrong"), "no password in an error: {wrong}");
        assert_eq!(pull(world, &reference, auth("secret")).unwrap(), image.id);
        assert!(!world.log_tail().contains("secret"), "no password in the log");
        world.remove_image(&image.id);
    });
}

#[test]
fn privileged_a_download_that_is_cut_goes_on_where_it_was() {
    in_bare_world(|world| {
        let image = ImageBuilder::new(Flavour::Oci)
            .layer(Compression::Gzip, one_large_file(4 << 20))
            .build();
        let layer = &image.blobs[1];
        let server = Script::default()
            .image("app", "1", &image)
            .cut_once(&layer.digest, layer.bytes.len() / 2)
            .serve();
        assert_eq!(pull(world, &server.reference("app:1"), None).unwrap(), image.id);
        assert_eq!(server.asked_for(&layer.digest), 2, "the cut request, and one for the rest");
        world.remove_image(&image.id);
    });
}

#[test]
fn privileged_pulls_of_one_image_at_the_same_time_download_it_once() {
    in_bare_world(|world| {
        let image = ImageBuilder::busybox().layer(Compression::Gzip, many_files(300)).build();
        let server = Script::default().image("app", "1", &image).serve();
        let reference = server.reference("app:1");
        let ids = world.cri().block_on(async {
            let mut pulls = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let mut service = world.cri().image_service();
                let request = PullImageRequest { image: spec(&reference), ..Default::default() };
                pulls.spawn(async move { service.pull_image(request).await });
            }
            pulls.join_all().await
        });
        for id in ids {
            assert_eq!(id.unwrap().into_inner().image_ref, image.id);
        }
        for blob in &image.blobs[1..] {
            assert_eq!(server.asked_for(&blob.digest), 1);
        }
        world.remove_image(&image.id);
    });
}

#[test]
fn privileged_an_image_with_many_files_and_a_large_one_arrives_whole() {
    in_world(|world| {
        let image = ImageBuilder::busybox()
            .layer(Compression::Gzip, many_files(3000))
            .layer(Compression::Zstd, one_large_file(20 << 20))
            .build();
        let pulled = world.pull(&world.registry().push("big", "1", &image));
        let pod = world.run_pod("big");
        let mut config = world.container_config("big", &[]);
        config.image = spec(&pulled.id);
        let script = "find many -type f | wc -l; cat many/29/2999 | wc -l; stat -c %s large";
        let printed = world.printed(&pod, config, script);
        let numbers: Vec<&str> = printed.split_whitespace().collect();
        assert_eq!(numbers, ["3000", "39", "20971520"]);
        world.remove_all_pods();
        world.remove_image(&pulled.id);
    });
}

#[test]
fn privileged_images_are_known_after_a_restart() {
    in_world(|world| {
        let before = list(world);
        world.restart_daemon();
        assert_eq!(list(world), before);
        world.kill_daemon();
        world.start_daemon();
        assert_eq!(list(world), before);
        let pod = world.run_pod("after");
        let (status, _) = world.run_to_end(&pod, world.container_config("after", &["true"]));
        assert_eq!(status.exit_code, 0);
    });
}

#[test]
fn privileged_a_daemon_killed_in_the_middle_of_a_pull_leaves_no_half_image() {
    in_bare_world(|world| {
        let image = ImageBuilder::new(Flavour::Oci)
            .layer(Compression::Gzip, many_files(5000))
            .layer(Compression::Zstd, one_large_file(30 << 20))
            .build();
        let reference = world.registry().push("cut", "1", &image);
        let request = PullImageRequest { image: spec(&reference), ..Default::default() };
        let mut service = world.cri().image_service();
        world.cri().block_on(async {
            let pull = tokio::spawn(async move { service.pull_image(request).await });
            tokio::time::sleep(std::time::Duration::from_millis(60)).await;
            pull.abort();
        });
        world.kill_daemon();
        world.start_daemon();
        // It may have been quick enough to end; then it is there whole.
        assert!(list(world).len() <= 1);
        assert_eq!(world.pull(&reference).id, image.id);
        world.remove_image(&image.id);
    });
}

#[test]
fn privileged_list_images_filters_by_name() {
    in_bare_world(|world| {
        let ids = ["one", "two"]
            .map(|name| world.pull(&world.registry().push(name, "1", &small(name).build())).id);
        let filter = ImageFilter { image: spec(&world.registry().reference("one:1")) };
        let found = world.cri().list_images(ListImagesRequest { filter: Some(filter) }).unwrap();
        let found: Vec<String> = found.images.into_iter().map(|image| image.id).collect();
        assert_eq!(found, [ids[0].clone()]);
        ids.iter().for_each(|id| world.remove_image(id));
    });
}

#[test]
fn privileged_the_user_of_an_image_is_told_as_number_or_name() {
    in_bare_world(|world| {
        for (user, uid, name) in [
            ("1000", Some(1000), ""),
            ("1000:1000", Some(1000), ""),
            ("app", None, "app"),
            ("", Some(0), ""),
        ] {
            let image = small(user).config("User", json!(user)).build();
            let id = world.pull(&world.registry().push("user", "1", &image)).id;
            let found = look(world, &id).unwrap();
            assert_eq!(found.username, name, "{user:?}");
            // "No user" may be told as root, or not at all.
            let told = found.uid.map(|uid| uid.value);
            assert!(told == uid || (user.is_empty() && told.is_none()), "{user:?}: {told:?}");
            world.remove_image(&id);
        }
    });
}
