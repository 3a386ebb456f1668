//! Registries that break, lie, or want more than they should.

use super::scripted::{Asked, Reply};
use super::*;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A pull of `recipe` from a registry that answers for its first layer as `script` says.
async fn with_layer(
    recipe: &Recipe,
    script: impl Fn(&Asked, usize, Reply) -> Reply + Send + Sync + 'static,
) -> (Registry, Bed) {
    let shelf = recipe.shelf();
    let (honest, layer) = (shelf.clone(), Digest::of(&recipe.layers[0]));
    let registry = Registry::start(shelf, move |asked, before| {
        let is_layer = asked.path.contains(layer.hex());
        is_layer.then(|| script(asked, before, honest.answer(asked)))
    });
    (registry.await, Bed::new())
}

#[tokio::test]
async fn wrong_bytes_are_never_an_image() {
    let recipe = Recipe::large(100_000);
    let wrong = |change: fn(&mut Vec<u8>)| {
        let mut bytes = recipe.layers[0].clone();
        change(&mut bytes);
        bytes
    };
    let flipped = wrong(|bytes| bytes[99_999] ^= 1);
    let longer = wrong(|bytes| bytes.push(0));
    let shorter = wrong(|bytes| bytes.truncate(99_999));
    let cases = [
        ("a bit flipped", Reply::ok(&flipped)),
        ("a byte more", Reply::ok(&longer)),
        ("a byte more, without a length", Reply::ok(&longer).chunked()),
        ("a byte less", Reply::ok(&shorter)),
        ("without end", Reply::ok(b"").endless()),
        ("nothing", Reply::ok(b"")),
    ];
    for (name_of_case, reply) in cases {
        let (registry, bed) = with_layer(&recipe, move |_, _, _| reply.clone()).await;
        let fault = bed.fault(&name(registry.address)).await;
        assert_eq!(fault, PullFault::InvalidContent, "{name_of_case}");
    }
}

#[tokio::test]
async fn a_layer_must_unpack_to_what_the_configuration_says() {
    let mut recipe = Recipe::new(&[b"one", b"two"]);
    recipe.config["rootfs"]["diff_ids"][1] = json!(Digest::of(b"other"));
    let registry = Registry::honest(recipe.shelf()).await;
    let bed = Bed::new();
    let err = bed.pull(&name(registry.address)).await.unwrap_err();
    assert_eq!(err.fault(), PullFault::InvalidContent);
    assert!(chain(&err).contains(Digest::of(b"other").as_str()), "{}", chain(&err));
    bed.idle().await;
    let top = ChainId::chain(&[Digest::of(b"one"), Digest::of(b"other")]).remove(1);
    assert!(bed.layers.content(&top).is_none());
}

#[tokio::test]
async fn packing_must_be_what_the_media_type_says() {
    for start in [&[0x1f, 0x8b, 8, 0, 0][..], &[0x28, 0xb5, 0x2f, 0xfd, 0]] {
        let registry = Registry::honest(Recipe::new(&[start]).shelf()).await;
        assert_eq!(Bed::new().fault(&name(registry.address)).await, PullFault::InvalidContent);
    }
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_stopped() {
    let recipe = Recipe::large(3_000_000);
    for cut_at in [0, 1, 1_234_567, 2_999_999, 3_000_000] {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let (registry, bed) = with_layer(&recipe, move |asked, before, honest| {
            let start = asked.range_start().unwrap_or(0);
            let end = if before == 0 { cut_at } else { 3_000_000 };
            count.fetch_add(end - start, Ordering::SeqCst);
            if before == 0 { honest.cut(cut_at) } else { honest }
        })
        .await;
        bed.pull(&name(registry.address)).await.unwrap();
        let sent = sent.load(Ordering::SeqCst);
        assert!(sent <= 3_150_000, "cut at {cut_at}: {sent} bytes were sent");
        assert_eq!(bed.layers.begun(), 1, "cut at {cut_at}");
    }
}

#[tokio::test]
async fn a_download_that_is_cut_for_ever_ends() {
    let recipe = Recipe::large(300_000);
    let (registry, bed) = with_layer(&recipe, |_, _, honest| honest.cut(10)).await;
    assert_eq!(bed.fault(&name(registry.address)).await, PullFault::Unavailable);
    assert_eq!(registry.count(Digest::of(&recipe.layers[0]).hex()), 6);
}

#[tokio::test]
async fn a_silent_registry_is_asked_again_and_then_given_up() {
    let recipe = Recipe::large(300_000);
    let (registry, bed) =
        with_layer(
            &recipe,
            |_, before, honest| {
                if before == 0 { honest.silent(100_000) } else { honest }
            },
        )
        .await;
    bed.pull(&name(registry.address)).await.unwrap();
    let registry = Registry::start(recipe.shelf(), |_, _| Some(Reply::nothing())).await;
    assert_eq!(Bed::new().fault(&name(registry.address)).await, PullFault::Unavailable);
}

#[tokio::test]
async fn wrong_ranges_never_become_a_layer() {
    let recipe = Recipe::large(500_000);
    // Without ranges the bytes come again from the start.
    let whole = recipe.layers[0].clone();
    let (registry, bed) =
        with_layer(
            &recipe,
            move |_, before, honest| {
                if before == 0 { honest.cut(200_000) } else { Reply::ok(&whole) }
            },
        )
        .await;
    bed.pull(&name(registry.address)).await.unwrap();
    assert_eq!(bed.layers.begun(), 1);
    // A range that is not the one asked for: the layer is fetched anew.
    let (registry, bed) =
        with_layer(&recipe, |asked, before, honest| match (before, asked.range_start()) {
            (0, _) => honest.cut(200_000),
            (_, Some(_)) => Reply::status(206).header("Content-Range", "bytes 1-499999/500000"),
            (_, None) => honest,
        })
        .await;
    bed.pull(&name(registry.address)).await.unwrap();
    assert_eq!(bed.layers.begun(), 2);
    // The right range of other bytes: hashed, found out, fetched anew.
    let (registry, bed) =
        with_layer(&recipe, |asked, before, honest| match (before, asked.range_start()) {
            (0, _) => honest.cut(200_000),
            (_, Some(start)) => Reply::status(206)
                .header("Content-Range", &format!("bytes {start}-499999/500000"))
                .body(&vec![7; 500_000 - start]),
            (_, None) => honest,
        })
        .await;
    bed.pull(&name(registry.address)).await.unwrap();
    assert_eq!(bed.layers.begun(), 2);
    bed.idle().await;
}

#[tokio::test]
async fn lies_in_manifests_are_found_out() {
    let recipe = Recipe::new(&[b"one"]);
    let honest = recipe.shelf();
    let manifest = recipe.shelve(&mut honest.clone());
    let typed =
        |bytes: &[u8], media_type: &str| Reply::ok(bytes).header("Content-Type", media_type);
    let good = || typed(&manifest, media::OCI_MANIFEST);
    let mut twice = manifest.clone();
    twice.truncate(twice.len() - 1);
    twice.extend_from_slice(br#","layers":[]}"#);
    let cases = [
        ("announced as an index", typed(&manifest, media::OCI_INDEX), PullFault::InvalidContent),
        (
            "announced as Docker's, but it says otherwise",
            typed(br#"{"schemaVersion":2,"mediaType":"x"}"#, media::OCI_MANIFEST),
            PullFault::InvalidContent,
        ),
        ("announced as text", typed(&manifest, "text/plain"), PullFault::InvalidContent),
        ("not announced", Reply::ok(&manifest), PullFault::InvalidContent),
        ("a key twice", typed(&twice, media::OCI_MANIFEST), PullFault::InvalidContent),
        ("not JSON", typed(b"<html>", media::OCI_MANIFEST), PullFault::InvalidContent),
        (
            "another digest announced",
            good().header("Docker-Content-Digest", Digest::of(b"x").as_str()),
            PullFault::InvalidContent,
        ),
        (
            "without end",
            Reply::ok(b"").header("Content-Type", media::OCI_MANIFEST).endless(),
            PullFault::Limit,
        ),
        ("5 MiB", typed(&vec![b' '; 5 << 20], media::OCI_MANIFEST), PullFault::Limit),
        (
            "schema 1",
            typed(b"{}", "application/vnd.docker.distribution.manifest.v1+json"),
            PullFault::Refused,
        ),
    ];
    for (name_of_case, reply, want) in cases {
        let registry = Registry::start(honest.clone(), move |asked, _| {
            asked.path.contains("/manifests/").then(|| reply.clone())
        });
        let registry = registry.await;
        assert_eq!(Bed::new().fault(&name(registry.address)).await, want, "{name_of_case}");
    }
    // Asked for by digest, other bytes are no answer, however good.
    let registry = Registry::start(honest.clone(), {
        let reply = good();
        move |asked, _| asked.path.contains("/manifests/").then(|| reply.clone())
    });
    let registry = registry.await;
    let other = format!("{}/test/app@{}", registry.address, Digest::of(b"other"));
    assert_eq!(Bed::new().fault(&other).await, PullFault::InvalidContent);
}

#[tokio::test]
async fn what_this_node_does_not_take_is_refused() {
    let evil = json!(["http://169.254.169.254/layer"]);
    let mut foreign = Recipe::new(&[b"one"]);
    foreign.manifest["layers"][0]["urls"] = evil;
    let mut vax = Recipe::new(&[b"one"]);
    vax.config["architecture"] = json!("vax");
    let mut huge = Recipe::new(&[b"one"]);
    huge.manifest["layers"][0]["size"] = json!(65_u64 << 30);
    let mut missing = Recipe::new(&[b"one"]);
    missing.layers.clear();
    let cases = [
        ("foreign layer", foreign, PullFault::Refused),
        ("another machine", vax, PullFault::Refused),
        ("65 GiB", huge, PullFault::Limit),
        ("a layer that is not there", missing, PullFault::NotFound),
    ];
    for (name_of_case, recipe, want) in cases {
        let registry = Registry::honest(recipe.shelf()).await;
        assert_eq!(Bed::new().fault(&name(registry.address)).await, want, "{name_of_case}");
    }
}

#[tokio::test]
async fn nested_indexes_end() {
    let mut shelf = Recipe::new(&[b"one"]).shelf();
    let manifest = Recipe::new(&[b"one"]).shelve(&mut Shelf::default());
    let (mut inner, mut kind) = (manifest, media::OCI_MANIFEST);
    for _ in 0..3 {
        let index =
            json!({ "schemaVersion": 2, "manifests": [descriptor(kind, &inner)] }).to_string();
        inner = index.into_bytes();
        kind = media::OCI_INDEX;
        shelf.manifest("deep", kind, &inner);
    }
    let registry = Registry::honest(shelf).await;
    let deep = format!("{}/test/app:deep", registry.address);
    assert_eq!(Bed::new().fault(&deep).await, PullFault::Limit);
    assert!(registry.asked().len() <= 3);
}

#[tokio::test]
async fn a_registry_that_is_busy_is_asked_again_but_not_for_ever() {
    for status in [429, 503, 408] {
        let registry = Registry::start(Recipe::new(&[b"one"]).shelf(), move |_, before| {
            let busy = Reply::status(status).header("Retry-After", "1000000000");
            (before < 2).then(|| busy.body(br#"{"errors":[]}"#))
        });
        Bed::new().pull(&name(registry.await.address)).await.unwrap();
    }
    let registry =
        Registry::start(Shelf::default(), |_, _| Some(Reply::status(500).endless())).await;
    assert_eq!(Bed::new().fault(&name(registry.address)).await, PullFault::Unavailable);
    assert_eq!(registry.asked().len(), 3);
    let registry = Registry::honest(Shelf::default()).await;
    assert_eq!(Bed::new().fault(&name(registry.address)).await, PullFault::NotFound);
    assert_eq!(registry.asked().len(), 1);
}

#[tokio::test]
async fn endless_headers_are_not_collected() {
    let headers =
        (0..10_000).fold(Reply::status(200), |reply, n| reply.header(&format!("x-{n}"), "y"));
    let registry = Registry::start(Shelf::default(), move |_, _| Some(headers.clone())).await;
    assert_eq!(Bed::new().fault(&name(registry.address)).await, PullFault::Unavailable);
}

#[tokio::test]
async fn an_address_without_a_registry_is_unavailable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(Bed::new().fault(&name(address)).await, PullFault::Unavailable);
}

/// A registry that wants the bearer token of the moment, with a token server on the same port. The token is `token-N`
/// after the Nth request to the token server; the registry takes the newest, and the first for `lasts` requests only.
async fn guarded(recipe: &Recipe, lasts: usize) -> Registry {
    let own = Arc::new(OnceLock::<SocketAddr>::new());
    let address = Arc::clone(&own);
    let (issued, used) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let registry = Registry::start(recipe.shelf(), move |asked, _| {
        if asked.path.starts_with("/token") {
            let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
            return Some(Reply::ok(
                format!(r#"{{"token":"token-{number}","expires_in":300}}"#).as_bytes(),
            ));
        }
        let number = issued.load(Ordering::SeqCst);
        let is_newest = asked.header("authorization") == format!("Bearer token-{number}");
        if is_newest && (number > 1 || used.fetch_add(1, Ordering::SeqCst) < lasts) {
            return None;
        }
        let realm =
            format!(r#"Bearer realm="http://{}/token",service="test""#, address.get().unwrap());
        Some(Reply::status(401).header("WWW-Authenticate", &realm))
    });
    let registry = registry.await;
    own.set(registry.address).unwrap();
    registry
}

#[tokio::test]
async fn tokens_are_fetched_once_and_again_when_they_expire() {
    let recipe = Recipe::new(&[b"one", b"two", b"three"]);
    let registry = guarded(&recipe, usize::MAX).await;
    let bed = Bed::new();
    bed.pull(&name(registry.address)).await.unwrap();
    bed.pull(&name(registry.address)).await.unwrap();
    assert_eq!(registry.count("/token"), 1);
    let asked = registry.asked();
    let token = asked.iter().find(|asked| asked.path.starts_with("/token")).unwrap();
    assert!(token.path.contains("service=test"), "{}", token.path);
    assert!(token.path.contains("scope=repository%3Atest%2Fapp%3Apull"), "{}", token.path);
    assert_eq!(token.header("authorization"), "", "nobody in particular asked");

    let registry = guarded(&recipe, 2).await;
    Bed::new().pull(&name(registry.address)).await.unwrap();
    assert_eq!(registry.count("/token"), 2, "the token expired in the middle");
}

#[tokio::test]
async fn credentials_go_to_the_token_server_in_the_form_it_knows() {
    let recipe = Recipe::new(&[b"one"]);
    let cases = [
        (
            Auth::Basic { username: "me".into(), password: "secret".into() },
            "GET",
            "Basic bWU6c2VjcmV0",
            "",
        ),
        (
            Auth::IdentityToken("refresh&me".into()),
            "POST",
            "",
            "grant_type=refresh_token&client_id=berth&refresh_token=refresh%26me",
        ),
    ];
    for (auth, method, header, body) in cases {
        let registry = guarded(&recipe, usize::MAX).await;
        Bed::new().pull_as(&name(registry.address), Some(auth)).await.unwrap();
        let asked = registry.asked();
        let token = asked.iter().find(|asked| asked.path.starts_with("/token")).unwrap();
        assert_eq!((token.method.as_str(), token.header("authorization")), (method, header));
        assert!(token.body.contains(body), "{}", token.body);
        let leaks = |asked: &&Asked| {
            !asked.path.starts_with("/token") && asked.header("authorization").starts_with("Basic")
        };
        assert_eq!(asked.iter().filter(leaks).count(), 0, "the registry gets the token only");
    }
    let registry = guarded(&recipe, usize::MAX).await;
    let token = Auth::RegistryToken("token-0".into());
    Bed::new().pull_as(&name(registry.address), Some(token)).await.unwrap();
    assert_eq!(registry.count("/token"), 0);
}

#[tokio::test]
async fn bad_token_servers_end_the_pull() {
    let cases = [
        ("link-local", "http://169.254.169.254/token", Reply::status(200), PullFault::Refused),
        ("no realm", "", Reply::status(200), PullFault::Refused),
        ("refused", "own", Reply::status(403), PullFault::Unauthorized),
        ("no token", "own", Reply::ok(b"{}"), PullFault::Unauthorized),
        (
            "a token with a line end",
            "own",
            Reply::ok(br#"{"token":"a\nb"}"#),
            PullFault::Unauthorized,
        ),
        ("no JSON", "own", Reply::ok(b"token"), PullFault::InvalidContent),
        ("without end", "own", Reply::ok(b"").endless(), PullFault::Limit),
        (
            "a redirect",
            "own",
            Reply::status(302).header("Location", "/elsewhere"),
            PullFault::Unavailable,
        ),
    ];
    for (name_of_case, realm, answer, want) in cases {
        let own = Arc::new(OnceLock::<SocketAddr>::new());
        let address = Arc::clone(&own);
        let registry = Registry::start(Shelf::default(), move |asked, _| {
            if asked.path.starts_with("/token") {
                return Some(answer.clone());
            }
            let own = format!("http://{}/token", address.get().unwrap());
            let realm = if realm == "own" { &own } else { realm };
            Some(
                Reply::status(401).header("WWW-Authenticate", &format!("Bearer realm=\"{realm}\"")),
            )
        });
        let registry = registry.await;
        own.set(registry.address).unwrap();
        let auth = Some(Auth::Basic { username: "me".into(), password: "secret".into() });
        let err = Bed::new().pull_as(&name(registry.address), auth).await.unwrap_err();
        assert_eq!(err.fault(), want, "{name_of_case}: {}", chain(&err));
        assert!(!chain(&err).contains("secret"));
        assert_eq!(registry.count("/elsewhere"), 0, "{name_of_case}");
    }
}

#[tokio::test]
async fn no_credential_crosses_to_another_origin() {
    let recipe = Recipe::large(10_000);
    let layer = Digest::of(&recipe.layers[0]);
    let store = Registry::start(recipe.shelf(), |asked, before| {
        // The first time it wants to know who is there (CVE-2020-15157).
        let nosy = || Reply::status(401).header("WWW-Authenticate", "Basic realm=x");
        (before == 0 && asked.path.contains("nosy")).then(nosy)
    })
    .await;
    for (target, want) in [("blobs", None), ("nosy", Some(PullFault::Unauthorized))] {
        let location = format!("http://{}/{target}/{layer}?signature=1", store.address);
        let plain = format!("http://{}/{target}/{layer}", store.address);
        let location = if target == "blobs" { plain } else { location };
        let layer = layer.clone();
        let registry = Registry::start(recipe.shelf(), move |asked, _| {
            if asked.header("authorization") != "Basic bWU6c2VjcmV0" {
                return Some(Reply::status(401).header("WWW-Authenticate", "Basic realm=x"));
            }
            let is_layer = asked.path.contains(layer.hex());
            is_layer.then(|| Reply::status(307).header("Location", &location))
        });
        let registry = registry.await;
        let auth = Some(Auth::Basic { username: "me".into(), password: "secret".into() });
        let result = Bed::new().pull_as(&name(registry.address), auth).await;
        assert_eq!(result.map_err(|err| err.fault()).err(), want, "{target}");
    }
    assert!(store.asked().len() >= 2);
    for asked in store.asked() {
        assert_eq!(asked.header("authorization"), "", "{}", asked.path);
    }
}

#[tokio::test]
async fn redirects_end() {
    let registry = Registry::start(Shelf::default(), |asked, _| {
        let next = format!("{}x", asked.path);
        Some(Reply::status(302).header("Location", &next))
    });
    let registry = registry.await;
    assert_eq!(Bed::new().fault(&name(registry.address)).await, PullFault::Refused);
    assert_eq!(registry.asked().len(), 6, "the request and five redirects");
    for location in ["http://169.254.169.254/latest/meta-data", "file:///etc/passwd", ""] {
        let registry = Registry::start(Shelf::default(), move |_, _| {
            Some(Reply::status(302).header("Location", location))
        });
        let registry = registry.await;
        assert_eq!(
            Bed::new().fault(&name(registry.address)).await,
            PullFault::Refused,
            "{location:?}"
        );
    }
}

#[tokio::test]
async fn a_registrys_words_reach_the_message_and_signatures_do_not() {
    let registry = Registry::honest(Shelf::default()).await;
    let err = Bed::new().pull(&name(registry.address)).await.unwrap_err();
    let text = chain(&err);
    assert!(text.starts_with(&format!("pull {}: ", name(registry.address))), "{text}");
    assert!(text.contains("MANIFEST_UNKNOWN"), "{text}");
}

#[tokio::test]
async fn many_broken_pulls_leave_nothing_behind() {
    let recipe = Recipe::large(50_000);
    let (registry, bed) = with_layer(&recipe, |_, _, _| Reply::ok(&[7; 50_000]).chunked()).await;
    for _ in 0..100 {
        assert_eq!(bed.fault(&name(registry.address)).await, PullFault::InvalidContent);
    }
}
