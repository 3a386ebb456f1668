//! What an honest registry makes of a pull, and what several callers make of it.

use super::scripted::Reply;
use super::*;
use crate::pull::request::LayerState;

#[tokio::test]
async fn a_pull_brings_every_layer_under_its_chain_id() {
    let recipe = Recipe::new(&[b"one", b"two", b"three"]);
    let registry = Registry::honest(recipe.shelf()).await;
    let bed = Bed::new();
    let Pulled { image, lease } = bed.pull(&name(registry.address)).await.unwrap();

    let chain: Vec<ChainId> = image.layers.iter().map(|layer| layer.chain_id.clone()).collect();
    let diff_ids = [&b"one"[..], b"two", b"three"].map(Digest::of);
    assert_eq!(chain, ChainId::chain(&diff_ids));
    assert_eq!(bed.layers.committed(), chain, "from the bottom up");
    assert_eq!(bed.layers.content(&chain[1]).as_deref(), Some(&b"two"[..]));
    assert_eq!(image.id, Digest::of(recipe.config.to_string().as_bytes()));
    let address = registry.address;
    assert_eq!(image.tags, [format!("{address}/test/app:1")]);
    assert_eq!(image.digests, [format!("{address}/test/app@{}", image.manifest)]);
    assert_eq!(image.config.cmd, ["/bin/true"]);
    assert_eq!(image.annotations["a"], "b");
    assert!(image.bytes > 11 && image.pulled_at > 0);
    assert!(bed.store.is_complete(&image));
    assert_eq!(bed.store.lowers(&image).unwrap().len(), 3);
    bed.layers.hiding.lock().unwrap().insert(chain[1].clone());
    assert_eq!(bed.store.lowers(&image).unwrap().len(), 2, "nothing below a layer that hides it");
    drop(lease);
}

#[tokio::test]
async fn a_second_pull_asks_only_what_the_name_means() {
    let registry = Registry::honest(Recipe::new(&[b"one", b"two"]).shelf()).await;
    let bed = Bed::new();
    let first = bed.pull(&name(registry.address)).await.unwrap();
    let asked = registry.asked().len();
    let second = bed.pull(&name(registry.address)).await.unwrap();
    assert_eq!(registry.asked().len(), asked + 1);
    assert_eq!(first.image.layers, second.image.layers);
}

#[tokio::test]
async fn docker_images_and_gzip_are_read_too() {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"content").unwrap();
    let packed = gzip.finish().unwrap();
    let mut recipe = Recipe::new(&[b"content"]);
    recipe.media_type = media::DOCKER_MANIFEST;
    recipe.layers = vec![packed.clone()];
    let config = recipe.config.to_string();
    recipe.manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::DOCKER_MANIFEST,
        "config": descriptor("application/vnd.docker.container.image.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", &packed)],
    });
    let registry = Registry::honest(recipe.shelf()).await;
    let bed = Bed::new();
    let image = bed.pull(&name(registry.address)).await.unwrap().image;
    assert_eq!(image.layers[0].digest, Digest::of(&packed));
    assert_eq!(image.layers[0].diff_id, Digest::of(b"content"));
}

#[tokio::test]
async fn an_index_leads_to_this_machines_manifest() {
    let mut shelf = Shelf::default();
    let manifest = Recipe::new(&[b"one"]).shelve(&mut shelf);
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut entry = descriptor(media::OCI_MANIFEST, &manifest);
    entry["platform"] = json!({ "os": "linux", "architecture": arch });
    let mut other = descriptor(media::OCI_MANIFEST, b"never fetched");
    other["platform"] = json!({ "os": "linux", "architecture": "vax" });
    let inner = json!({ "schemaVersion": 2, "manifests": [other, entry] }).to_string();
    shelf.manifest("inner", media::OCI_INDEX, inner.as_bytes());
    let mut nested = descriptor(media::OCI_INDEX, inner.as_bytes());
    nested["platform"] = json!({ "os": "linux", "architecture": arch });
    let outer = json!({ "schemaVersion": 2, "manifests": [nested] }).to_string();
    let top = shelf.manifest("2", media::OCI_INDEX, outer.as_bytes());
    let registry = Registry::honest(shelf).await;

    let bed = Bed::new();
    let image = bed.pull(&format!("{}/test/app:2", registry.address)).await.unwrap().image;
    assert_eq!(image.manifest, Digest::of(&manifest));
    assert_eq!(image.digests, [format!("{}/test/app@{top}", registry.address)]);
    assert_eq!(registry.count("/manifests/"), 3);
    let by_digest =
        bed.pull(&format!("{}/test/app:x@{top}", registry.address)).await.unwrap().image;
    assert_eq!(by_digest.id, image.id);
    assert!(by_digest.tags.is_empty(), "the tag was not looked at");
}

#[tokio::test]
async fn images_without_layers_and_with_a_layer_twice_are_fine() {
    for layers in [&[][..], &[&b"same"[..], b"same"]] {
        let registry = Registry::honest(Recipe::new(layers).shelf()).await;
        let bed = Bed::new();
        let image = bed.pull(&name(registry.address)).await.unwrap().image;
        assert_eq!(bed.layers.committed().len(), layers.len());
        assert!(bed.store.is_complete(&image));
    }
}

#[tokio::test]
async fn progress_is_told_to_its_end() {
    let registry = Registry::honest(Recipe::new(&[b"one", &noise(1 << 20)]).shelf()).await;
    let bed = Bed::new();
    let tell = progress();
    let states = tell.subscribe();
    let request = PullRequest { reference: name(registry.address).parse().unwrap(), auth: None };
    let pulled = bed.store.pull(request.clone(), tell).await.unwrap();
    let last = states.borrow().clone();
    assert_eq!(last.resolved.as_ref(), pulled.image.digests.first());
    assert!(last.layers.iter().all(|l| l.state == LayerState::Unpacked && l.done == l.total));
    let tell = progress();
    let states = tell.subscribe();
    bed.store.pull(request, tell).await.unwrap();
    assert!(
        states.borrow().layers.iter().all(|l| l.state == LayerState::Exists && l.done == l.total)
    );
}

#[tokio::test]
async fn equal_pulls_and_equal_layers_are_fetched_once() {
    let (shared, mut shelf) = (noise(1 << 20), Shelf::default());
    Recipe::new(&[&shared, b"a"]).shelve(&mut shelf);
    let two = Recipe::new(&[&shared, b"b"]);
    let mut other = Shelf::default();
    let manifest = two.shelve(&mut other);
    for blob in [&b"b"[..], two.config.to_string().as_bytes()] {
        shelf.blob(blob);
    }
    shelf.manifest("2", media::OCI_MANIFEST, &manifest);
    let registry = Registry::honest(shelf).await;
    let bed = Bed::new();
    let (one, two) = (name(registry.address), format!("{}/test/app:2", registry.address));
    let (first, second, third) = tokio::join!(bed.pull(&one), bed.pull(&one), bed.pull(&two));
    let (first, second, third) = (first.unwrap(), second.unwrap(), third.unwrap());
    assert_eq!(first.image, second.image);
    assert_eq!(first.image.layers[0], third.image.layers[0]);
    assert_eq!(registry.count(Digest::of(&shared).hex()), 1);
    assert_eq!(registry.count("/manifests/1"), 1);
    assert_eq!(bed.layers.committed().len(), 3);
}

/// A registry whose layer stops half-way, so that a pull of it lasts.
async fn slow() -> (Registry, Recipe) {
    let recipe = Recipe::large(1 << 20);
    let shelf = recipe.shelf();
    let (layer, honest) = (recipe.layers[0].clone(), shelf.clone());
    let registry = Registry::start(shelf, move |asked, before| {
        let is_layer = asked.path.contains(Digest::of(&layer).hex());
        (is_layer && before == 0).then(|| honest.answer(asked).silent(1 << 19))
    });
    (registry.await, recipe)
}

async fn begun(bed: &Bed) {
    while bed.layers.begun() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn the_survivor_of_two_pulls_gets_the_image() {
    let (registry, _recipe) = slow().await;
    let bed = Bed::new();
    let app = name(registry.address);
    let mut leaver = Box::pin(bed.pull(&app));
    let mut survivor = Box::pin(bed.pull(&app));
    tokio::select! {
        _ = &mut leaver => panic!("the layer is slow"),
        _ = &mut survivor => panic!("the layer is slow"),
        () = begun(&bed) => {}
    }
    drop(leaver);
    let pulled = survivor.await.unwrap();
    assert!(bed.store.is_complete(&pulled.image));
    assert_eq!(bed.layers.begun(), 1);
}

#[tokio::test]
async fn a_pull_nobody_waits_for_is_given_up_at_once() {
    let (registry, _recipe) = slow().await;
    let bed = Bed::new();
    let app = name(registry.address);
    {
        let one = bed.pull(&app);
        let two = bed.pull(&app);
        tokio::select! {
            _ = async { tokio::join!(one, two) } => panic!("the layer is slow"),
            () = begun(&bed) => {}
        }
    }
    bed.idle().await;
    assert_eq!(bed.layers.committed(), []);
    let again = bed.pull(&app).await.unwrap();
    assert!(bed.store.is_complete(&again.image));
}

#[tokio::test]
async fn the_collector_spares_what_is_kept_or_leased() {
    let mut shelf = Recipe::new(&[b"base", b"a"]).shelf();
    let other = Recipe::new(&[b"base", b"b"]);
    let mut rest = Shelf::default();
    let manifest = other.shelve(&mut rest);
    shelf.blob(b"b");
    shelf.blob(other.config.to_string().as_bytes());
    shelf.manifest("2", media::OCI_MANIFEST, &manifest);
    let registry = Registry::honest(shelf).await;
    let bed = Bed::new();
    let one = bed.pull(&name(registry.address)).await.unwrap();
    let two = bed.pull(&format!("{}/test/app:2", registry.address)).await.unwrap();

    assert_eq!(bed.store.collect(Vec::new).unwrap(), Reclaimed::default(), "both are leased");
    let kept = Arc::new(one.image.clone());
    drop(one.lease);
    // The lease of the second goes in the middle of the collection.
    let (second, lease) = (two.image, two.lease);
    let reclaimed = bed.store.collect(|| {
        drop(lease);
        vec![Arc::clone(&kept)]
    });
    assert_eq!(reclaimed.unwrap(), Reclaimed::default());
    let reclaimed = bed.store.collect(|| vec![Arc::clone(&kept)]).unwrap();
    assert_eq!((reclaimed.layers, reclaimed.documents), (1, 2));
    assert!(bed.store.is_complete(&kept), "the base is shared");
    assert!(!bed.store.is_complete(&second));
    let reclaimed = bed.store.collect(Vec::new).unwrap();
    assert_eq!((reclaimed.layers, reclaimed.documents), (2, 2));
    assert_eq!(bed.store.usage(), Usage::default());
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_no_image() {
    let registry = Registry::honest(Recipe::new(&[b"one"]).shelf()).await;
    let bed = Bed::new();
    *bed.layers.full.lock().unwrap() = true;
    assert_eq!(bed.fault(&name(registry.address)).await, PullFault::Disk);
    *bed.layers.full.lock().unwrap() = false;
    bed.pull(&name(registry.address)).await.unwrap();
}

#[tokio::test]
async fn credentials_are_part_of_what_makes_pulls_equal() {
    let registry = Registry::start(Recipe::new(&[b"one"]).shelf(), |asked, _| {
        let open = asked.header("authorization") == "Basic bWU6c2VjcmV0";
        (!open).then(|| Reply::status(401).header("WWW-Authenticate", "Basic realm=x"))
    });
    let registry = registry.await;
    let bed = Bed::new();
    let app = name(registry.address);
    let auth =
        |password: &str| Some(Auth::Basic { username: "me".into(), password: password.into() });
    let (good, bad, none) = tokio::join!(
        bed.pull_as(&app, auth("secret")),
        bed.pull_as(&app, auth("guess")),
        bed.pull(&app)
    );
    good.unwrap();
    for refused in [bad, none] {
        assert_eq!(refused.unwrap_err().fault(), PullFault::Unauthorized);
    }
}
