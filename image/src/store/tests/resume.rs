//! What is here already is not fetched again: after a cut, after a failed pull, after a restart.

use super::scripted::Reply;
use super::*;

/// A registry that gives `first` bytes of the layer, once, and then nothing of it until `mended`.
async fn failing(recipe: &Recipe, first: usize) -> (Registry, Arc<Mutex<bool>>) {
    let mended = Arc::new(Mutex::new(false));
    let (layer, honest, is_mended) =
        (recipe.layers[0].clone(), recipe.shelf(), Arc::clone(&mended));
    let registry = Registry::start(recipe.shelf(), move |asked, before| {
        if !asked.path.contains(Digest::of(&layer).hex()) || *is_mended.lock().unwrap() {
            return None;
        }
        Some(match before {
            0 => honest.answer(asked).cut(first),
            _ => Reply::status(503),
        })
    });
    (registry.await, mended)
}

fn ranges(registry: &Registry, recipe: &Recipe) -> Vec<Option<usize>> {
    let layer = Digest::of(&recipe.layers[0]);
    let asked = registry.asked();
    asked
        .iter()
        .filter(|asked| asked.path.contains(layer.hex()))
        .map(scripted::Asked::range_start)
        .collect()
}

#[tokio::test]
async fn another_process_goes_on_where_the_first_one_was() {
    let recipe = Recipe::large(3 << 20);
    let (registry, mended) = failing(&recipe, 2_000_000).await;
    let app = name(registry.address);
    let bed = Bed::patient();
    assert_eq!(bed.pull(&app).await.unwrap_err().fault(), PullFault::Unavailable);
    bed.store.collect(Vec::new).unwrap();
    *mended.lock().unwrap() = true;
    let bed = bed.restarted();
    bed.store.keep_unfinished(&[]).unwrap();
    bed.store.collect(Vec::new).unwrap();
    let pulled = bed.pull(&app).await.unwrap();
    assert_eq!(bed.layers.content(&pulled.image.layers[0].chain_id).unwrap(), recipe.layers[0]);
    assert_eq!(ranges(&registry, &recipe).last(), Some(&Some(2_000_000)), "not a byte twice");
    assert_eq!(std::fs::read_dir(bed.root.path().join("blobs/ingest")).unwrap().count(), 0);
}

#[tokio::test]
async fn bytes_that_have_rotted_meanwhile_are_fetched_again() {
    let recipe = Recipe::large(3 << 20);
    let (registry, mended) = failing(&recipe, 2_000_000).await;
    let app = name(registry.address);
    let bed = Bed::patient();
    bed.pull(&app).await.unwrap_err();
    *mended.lock().unwrap() = true;
    let ingest = bed.root.path().join("blobs/ingest");
    let file = std::fs::read_dir(&ingest).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[1_000_000] ^= 1;
    sys::durable::replace(&file, &bytes, 0o600).unwrap();
    let pulled = bed.restarted().pull(&app).await.unwrap();
    assert_eq!(pulled.image.layers[0].digest, Digest::of(&recipe.layers[0]));
    assert_eq!(ranges(&registry, &recipe).last(), Some(&None), "from the start");
}

#[tokio::test]
async fn nothing_stays_of_content_that_is_wrong_or_unwanted() {
    let recipe = Recipe::large(1 << 20);
    let layer = recipe.layers[0].clone();
    let mut lie = layer.clone();
    lie[500_000] ^= 1;
    let registry = Registry::start(recipe.shelf(), move |asked, _| {
        asked.path.contains(Digest::of(&layer).hex()).then(|| Reply::ok(&lie))
    });
    let registry = registry.await;
    let bed = Bed::patient();
    let err = bed.pull(&name(registry.address)).await.unwrap_err();
    assert_eq!(err.fault(), PullFault::InvalidContent);
    bed.store.collect(Vec::new).unwrap();
    assert_eq!(std::fs::read_dir(bed.root.path().join("blobs/ingest")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_kept_unfinished_for_no_time_is_collected() {
    let recipe = Recipe::large(1 << 20);
    let (registry, _mended) = failing(&recipe, 600_000).await;
    let bed = Bed::new();
    bed.pull(&name(registry.address)).await.unwrap_err();
    bed.store.collect(Vec::new).unwrap();
    assert_eq!(std::fs::read_dir(bed.root.path().join("blobs/ingest")).unwrap().count(), 0);
}

#[tokio::test]
async fn after_a_restart_what_an_image_claims_is_freed_with_it_and_the_rest_lingers() {
    for is_claimed in [true, false] {
        let registry = Registry::honest(Recipe::new(&[b"base", b"a"]).shelf()).await;
        let bed = Bed::new();
        let image = Arc::new(bed.pull(&name(registry.address)).await.unwrap().image);
        let bed = bed.restarted();
        let claimed: &[_] = if is_claimed { &[Arc::clone(&image)] } else { &[] };
        bed.store.keep_unfinished(claimed).unwrap();
        let reclaimed = bed.store.collect(Vec::new).unwrap();
        let want = if is_claimed { (2, 2) } else { (0, 0) };
        assert_eq!((reclaimed.layers, reclaimed.documents), want);
        assert_eq!(bed.store.is_complete(&image), !is_claimed);
        assert_eq!(bed.store.is_held(&image), !is_claimed);
    }
}

#[tokio::test]
async fn an_artifact_is_a_layer_for_each_of_its_files() {
    let mut recipe = Recipe::new(&[b"weights", b"more"]);
    recipe.manifest["config"] = descriptor("application/vnd.oci.empty.v1+json", b"{}");
    recipe.manifest["layers"][0]["annotations"] =
        json!({ "org.opencontainers.image.title": "model.bin" });
    let mut shelf = recipe.shelf();
    shelf.blob(b"{}");
    let registry = Registry::honest(shelf).await;
    let bed = Bed::new();
    let image = bed.pull(&name(registry.address)).await.unwrap().image;
    assert_eq!(image.id, image.manifest);
    assert_eq!(image.artifact.as_ref().unwrap().kind, "application/vnd.oci.empty.v1+json");
    let archive = bed.layers.content(&image.layers[0].chain_id).unwrap();
    let mut archive = tar::Archive::new(archive.as_slice());
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!((entry.path().unwrap().to_str(), entry.size()), (Some("model.bin"), 7));
    assert!(bed.store.is_complete(&image));
}
