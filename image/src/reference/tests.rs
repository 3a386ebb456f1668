use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn names_are_normalised_like_docker_does() {
    let digest = format!("sha256:{HEX}");
    let cases = [
        ("a bare name", "busybox".to_owned(), "docker.io/library/busybox:latest".to_owned()),
        ("a tag", "busybox:1.36".into(), "docker.io/library/busybox:1.36".into()),
        ("a user", "user/app".into(), "docker.io/user/app:latest".into()),
        (
            "Docker Hub by its old name",
            "index.docker.io/busybox".into(),
            "docker.io/library/busybox:latest".into(),
        ),
        (
            "a dot without a slash is no registry",
            "test.com:5000".into(),
            "docker.io/library/test.com:5000".into(),
        ),
        ("a registry", "registry.k8s.io/pause:3.10".into(), "registry.k8s.io/pause:3.10".into()),
        ("a port", "test:5000/repo".into(), "test:5000/repo:latest".into()),
        ("localhost needs no dot", "localhost/app".into(), "localhost/app:latest".into()),
        ("upper case in a registry", "Quay.IO/a/b".into(), "quay.io/a/b:latest".into()),
        ("IPv6", "[::1]:5000/app:x".into(), "[::1]:5000/app:x".into()),
        ("separators", "a/b.c_d__e---f".into(), "docker.io/a/b.c_d__e---f:latest".into()),
        ("a digest", format!("busybox@{digest}"), format!("docker.io/library/busybox@{digest}")),
        ("tag and digest", format!("q.io/a:1@{digest}"), format!("q.io/a:1@{digest}")),
        ("an upper-case tag", "a/b:V1_x.y-Z".into(), "docker.io/a/b:V1_x.y-Z".into()),
        (
            "a tag of 128",
            format!("a/b:{}", "t".repeat(128)),
            format!("docker.io/a/b:{}", "t".repeat(128)),
        ),
    ];
    for (name, text, want) in cases {
        let got: Reference = text.parse().unwrap_or_else(|err| panic!("{name}: {err}"));
        assert_eq!(got.to_string(), want, "{name}");
        assert_eq!(got.to_string().parse::<Reference>().unwrap(), got, "{name}: round trip");
    }
}

#[test]
fn what_is_no_name_is_refused() {
    let cases = [
        ("nothing", String::new()),
        ("only a tag", ":tag".into()),
        ("only a digest", format!("@sha256:{HEX}")),
        ("upper case in the path", "docker.io/User/app".into()),
        ("upper case without a slash", "Busybox".into()),
        ("upper case in what is no registry", "LOCAL/app".into()),
        ("an image id", HEX.into()),
        ("a short digest", "a@sha256:0123".into()),
        ("an unknown algorithm", format!("a@md5:{HEX}")),
        ("two digests", format!("a@sha256:{HEX}@sha256:{HEX}")),
        ("an option", "--upload-pack".into()),
        ("a dash first", "-a/b".into()),
        ("dot dot", "../etc/passwd".into()),
        ("dot dot inside", "a.b/../etc".into()),
        ("an absolute path", "/etc/passwd".into()),
        ("an empty component", "a//b".into()),
        ("a trailing slash", "a/".into()),
        ("three underscores", "a___b".into()),
        ("two dots", "a..b".into()),
        ("mixed separators", "a._b".into()),
        ("a space", "a b".into()),
        ("a line end", "a\n".into()),
        ("NUL", "a\0".into()),
        ("unicode", "bücher".into()),
        ("a query", "a.b/c?x=y".into()),
        ("user info in the registry", "user:pw@a.b/c".into()),
        ("an empty tag", "a:".into()),
        ("a tag of 129", format!("a:{}", "t".repeat(129))),
        ("a tag with a leading dot", "a:.b".into()),
        ("a port that is none", "a.b:99999/c".into()),
        ("a signed port", "a.b:+80/c".into()),
        ("no port after the colon", "a.b:/c".into()),
        ("a label that ends in a dash", "a-.b/c".into()),
        ("bad IPv6", "[::g]:5000/app".into()),
        ("text after IPv6", "[::1]x/app".into()),
        ("256 bytes", format!("a/{}", "b".repeat(254))),
        ("a megabyte", "a".repeat(1 << 20)),
    ];
    for (name, text) in cases {
        assert!(text.parse::<Reference>().is_err(), "{name}");
    }
}

#[test]
fn parts_are_what_requests_and_records_need() {
    let by_tag: Reference = "busybox".parse().unwrap();
    assert_eq!((by_tag.registry(), by_tag.repository()), ("docker.io", "library/busybox"));
    assert_eq!((by_tag.tag(), by_tag.digest()), (Some("latest"), None));
    assert_eq!(by_tag.tagged().as_deref(), Some("docker.io/library/busybox:latest"));
    let by_digest: Reference = format!("busybox:1@sha256:{HEX}").parse().unwrap();
    assert_eq!(by_digest.tagged(), None, "nobody has looked what the tag points to");
    assert_eq!(
        by_digest.at(by_digest.digest().unwrap()),
        format!("docker.io/library/busybox@sha256:{HEX}")
    );
}

/// The parser of oci-spec is a port of Docker's expressions and so an independent judge.
#[test]
fn an_independent_parser_agrees() {
    const PIECES: [&str; 22] = [
        "a",
        "b0",
        "A",
        ".",
        "..",
        "-",
        "--",
        "_",
        "__",
        "___",
        "/",
        ":",
        "@",
        "localhost",
        "index.docker.io",
        "docker.io",
        "5000",
        "99999",
        "sha256:",
        HEX,
        "x.y",
        "é",
    ];
    let mut seed = 1_u64;
    let mut next = |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % bound
    };
    let mut accepted = 0;
    for _ in 0..50_000 {
        let text: String = (0..=next(7)).map(|_| PIECES[next(PIECES.len())]).collect();
        let ours = text.parse::<Reference>();
        let theirs = oci_spec::distribution::Reference::try_from(text.as_str());
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => {
                accepted += 1;
                if ours.registry() == theirs.registry() {
                    assert_eq!(ours.to_string(), theirs.whole(), "{text:?}");
                } else {
                    // Known: we lowercase registries.
                    assert!(text.contains('A'), "{text:?}");
                }
                assert_eq!(
                    ours.to_string().parse::<Reference>().unwrap(),
                    ours,
                    "{text:?}: round trip"
                );
            }
            (Ok(ours), Err(_)) => assert!(text.contains('A'), "{text:?} is {ours} for us only"),
            // Known: we check ports and refuse names that look like ids; their tags may be any Unicode letters, and
            // their repositories begin in upper case where that might have been a registry.
            (Err(_), Ok(_)) => {
                let known = ["5000", "99999", HEX, "é", "A"];
                assert!(known.iter().any(|piece| text.contains(piece)), "{text:?}");
            }
            (Err(_), Err(_)) => {}
        }
    }
    assert!(accepted > 1_000, "only {accepted} of the random names were names");
}
