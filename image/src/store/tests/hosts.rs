//! Which hosts are asked for what, and who learns what.

use super::scripted::Reply;
use super::*;
use std::path::Path;

fn hosts_file(root: &Path, registry: &str, text: &str) {
    let directory = root.join("certs.d").join(registry);
    std::fs::create_dir_all(&directory).unwrap();
    sys::durable::replace(&directory.join("hosts.toml"), text.as_bytes(), 0o600).unwrap();
}

/// A bed that reads hosts.toml below its own directory.
fn bed() -> Bed {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("certs.d");
    let registries = Registries { insecure: Vec::new(), config_path: Some(path) };
    Bed::with(root, Arc::default(), (registries, Trust::default()), Duration::ZERO)
}

#[tokio::test]
async fn configured_headers_stay_with_their_host() {
    let recipe = Recipe::new(&[b"one"]);
    let store = Registry::honest(recipe.shelf()).await;
    let (address, layer) = (store.address, recipe.layers[0].clone());
    let registry = Registry::start(recipe.shelf(), move |asked, _| {
        // Blobs are elsewhere, as with many a registry.
        let elsewhere = format!("http://{address}{}", asked.path);
        let is_layer = asked.path.contains(Digest::of(&layer).hex());
        is_layer.then(|| Reply::status(307).header("Location", &elsewhere))
    });
    let registry = registry.await;
    let bed = bed();
    let host = registry.address.to_string();
    let text = format!("server = \"http://{host}\"\n[header]\nx-secret = \"mine\"\n");
    hosts_file(bed.root.path(), &host, &text);
    bed.pull(&name(registry.address)).await.unwrap();
    assert!(registry.asked().iter().all(|asked| asked.header("x-secret") == "mine"));
    assert_eq!(store.asked().len(), 1);
    assert_eq!(store.asked()[0].header("x-secret"), "");
}

#[tokio::test]
async fn a_mirror_that_cannot_resolve_is_asked_by_digest_only() {
    let shelf = Recipe::new(&[b"one", b"two"]).shelf();
    let (mirror, registry) = (Registry::honest(shelf.clone()).await, Registry::honest(shelf).await);
    let bed = bed();
    let (host, cache) = (registry.address.to_string(), mirror.address);
    let text = format!(
        "server = \"http://{host}\"\n[host.\"http://{cache}\"]\ncapabilities = [\"pull\"]\n"
    );
    hosts_file(bed.root.path(), &host, &text);
    bed.pull(&name(registry.address)).await.unwrap();
    assert_eq!((mirror.count("/manifests/"), registry.count("/manifests/")), (0, 1));
    assert_eq!((mirror.count("/blobs/"), registry.count("/blobs/")), (3, 0));
}

#[tokio::test]
async fn a_mirror_that_breaks_off_is_left_for_the_next_and_the_bytes_are_kept() {
    let recipe = Recipe::large(3 << 20);
    let (shelf, layer) = (recipe.shelf(), recipe.layers[0].clone());
    let honest = shelf.clone();
    let mirror = Registry::start(shelf.clone(), move |asked, before| {
        let is_layer = asked.path.contains(Digest::of(&layer).hex());
        is_layer.then(|| match before {
            0 => honest.answer(asked).cut(2_000_000),
            _ => Reply::status(500),
        })
    });
    let (mirror, registry) = (mirror.await, Registry::honest(shelf).await);
    let bed = bed();
    let host = registry.address.to_string();
    let text = format!("server = \"http://{host}\"\n[host.\"http://{}\"]\n", mirror.address);
    hosts_file(bed.root.path(), &host, &text);
    bed.pull(&name(registry.address)).await.unwrap();
    let asked = registry.asked();
    let range = asked.iter().find_map(scripted::Asked::range_start);
    assert_eq!(range, Some(2_000_000));
}

#[tokio::test]
async fn credentials_for_one_host_are_shown_to_that_host_alone() {
    let shelf = Recipe::new(&[b"one"]).shelf();
    let guard = |asked: &scripted::Asked, _: usize| {
        let open = asked.header("authorization") == "Basic bWU6c2VjcmV0";
        (!open).then(|| Reply::status(401).header("WWW-Authenticate", "Basic realm=x"))
    };
    let mirror = Registry::start(shelf.clone(), guard).await;
    let registry = Registry::start(shelf, guard).await;
    let auth = Auth::Basic { username: "me".into(), password: "secret".into() };
    let shown = |registry: &Registry| {
        registry.asked().iter().any(|asked| !asked.header("authorization").is_empty())
    };
    for (server, to_mirror, to_registry) in [
        (None, false, true),
        (Some(registry.address.to_string()), false, true),
        (Some(mirror.address.to_string()), true, false),
        (Some("elsewhere.example".to_owned()), false, false),
    ] {
        let bed = bed();
        let host = registry.address.to_string();
        let text = format!("server = \"http://{host}\"\n[host.\"http://{}\"]\n", mirror.address);
        hosts_file(bed.root.path(), &host, &text);
        mirror.forget();
        registry.forget();
        let auth = Some(crate::Credentials { auth: auth.clone(), server: server.clone() });
        let request = PullRequest { reference: name(registry.address).parse().unwrap(), auth };
        let pulled = bed.store.pull(request, progress()).await;
        assert_eq!(pulled.is_ok(), to_mirror || to_registry, "{server:?}");
        assert_eq!((shown(&mirror), shown(&registry)), (to_mirror, to_registry), "{server:?}");
    }
}

#[tokio::test]
async fn a_registry_that_wants_to_be_left_alone_is_asked_again_later() {
    let recipe = Recipe::new(&[b"one"]);
    let registry = Registry::start(recipe.shelf(), |asked, before| {
        let is_first = asked.path.contains("/manifests/") && before == 0;
        is_first.then(|| Reply::status(429).header("Retry-After", "0"))
    });
    let registry = registry.await;
    Bed::new().pull(&name(registry.address)).await.unwrap();
    assert_eq!(registry.count("/manifests/"), 2);
}

/// The name to pull, for [`a_pull_in_another_process`].
const PULLED: &str = "BERTH_TEST_PULLED";

/// The environment is one for the whole process, so this is a process of its own.
#[tokio::test]
#[ignore = "the other half of proxies_of_the_environment_are_used"]
async fn a_pull_in_another_process() {
    let name = std::env::var(PULLED).unwrap();
    let insecure = vec![name.split('/').next().unwrap_or_default().to_owned()];
    let registries = Registries { insecure, config_path: None };
    let root = tempfile::tempdir().unwrap();
    let bed = Bed::with(root, Arc::default(), (registries, Trust::default()), Duration::ZERO);
    bed.pull(&name).await.unwrap();
}

/// Names and values of the environment.
type Variables<'a> = &'a [(&'a str, &'a str)];

#[tokio::test]
async fn proxies_of_the_environment_are_used() {
    let proxy = Registry::honest(Recipe::new(&[b"one"]).shelf()).await;
    let at = format!("http://{}", proxy.address);
    let cases: [(&str, &str, Variables<'_>, bool); 6] = [
        ("HTTP_PROXY", "plain.invalid:8080", &[("HTTP_PROXY", &at)], true),
        ("in small letters", "plain.invalid:8080", &[("http_proxy", &at)], true),
        ("ALL_PROXY", "plain.invalid:8080", &[("ALL_PROXY", &at)], true),
        (
            "an exception",
            "plain.invalid:8080",
            &[("HTTP_PROXY", &at), ("NO_PROXY", ".invalid")],
            false,
        ),
        (
            "a network",
            "127.9.9.9.invalid:80",
            &[("HTTP_PROXY", &at), ("NO_PROXY", "10.0.0.0/8")],
            true,
        ),
        (
            "in a network",
            "10.1.2.3:8080",
            &[("HTTP_PROXY", &at), ("NO_PROXY", "10.0.0.0/8")],
            false,
        ),
    ];
    for (name, registry, variables, want) in cases {
        proxy.forget();
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "--ignored", "store::tests::hosts::a_pull_in_another_process"]);
        for variable in
            ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"]
        {
            child.env_remove(variable);
        }
        child.env(PULLED, format!("{registry}/test/app:1")).envs(variables.iter().copied());
        let status = child.output().await.unwrap().status;
        assert_eq!(status.success(), want, "{name}");
        assert_eq!(!proxy.asked().is_empty(), want, "{name}");
    }
}
