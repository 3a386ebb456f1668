use super::*;
use std::fs;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(self, path: &str, text: &str) -> Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        sys::durable::replace(&path, text.as_bytes(), 0o600).unwrap();
        self
    }

    fn lookup(&self, registry: &str) -> Result<Vec<Host>, crate::registry::RegistryError> {
        lookup(Some(self.0.path()), registry, &[])
    }

    /// `api abilities mirror`, one for each host.
    fn shown(&self, registry: &str) -> Vec<String> {
        let show = |host: &Host| {
            let Abilities { pull, resolve, push } = host.abilities;
            let letters = [(pull, 'p'), (resolve, 'r'), (push, 'u')];
            let letters: String =
                letters.iter().filter(|(can, _)| *can).map(|(_, letter)| letter).collect();
            format!("{} {letters}{}", host.api, if host.is_mirror { " mirror" } else { "" })
        };
        self.lookup(registry).unwrap().iter().map(show).collect()
    }
}

#[test]
fn without_a_directory_the_registry_itself_is_asked() {
    let files = Files::new();
    assert_eq!(files.shown("docker.io"), ["https://registry-1.docker.io/v2/ pru"]);
    assert_eq!(files.shown("localhost:5000"), ["http://localhost:5000/v2/ pru"]);
    assert_eq!(lookup(None, "quay.io", &[]).unwrap().len(), 1);
}

#[test]
fn mirrors_come_in_the_order_of_the_file_and_the_registry_last() {
    let files = Files::new().put(
        "docker.io/hosts.toml",
        r#"
        server = "https://registry-1.docker.io"
        [host."https://z.example"]
          capabilities = ["pull", "resolve"]
        [host."http://a.example:5000/cache"]
          capabilities = ["pull"]
        [host."https://a.example:5000".header]
          x-key = "one"
        [host."https://m.example/api/docker/v2"]
        [host."https://o.example/other"]
          override_path = true
        "#,
    );
    assert_eq!(
        files.shown("docker.io"),
        [
            "https://z.example/v2/ pr mirror",
            "http://a.example:5000/cache/v2/ p mirror",
            "https://a.example:5000/v2/ pru mirror",
            "https://m.example/api/docker/v2/ pru mirror",
            "https://o.example/other/ pru mirror",
            "https://registry-1.docker.io/v2/ pru",
        ]
    );
}

#[test]
fn a_directory_is_found_by_port_by_name_or_by_default() {
    let one = |host: &str| format!("server = \"https://{host}\"\n");
    let files = Files::new()
        .put("a.example_5000_/hosts.toml", &one("with-port"))
        .put("b.example:5000/hosts.toml", &one("with-colon"))
        .put("_default/hosts.toml", "[host.\"https://cache.example\"]\n");
    assert_eq!(files.shown("a.example:5000")[0], "https://with-port/v2/ pru mirror");
    assert_eq!(files.shown("b.example:5000")[0], "https://with-colon/v2/ pru mirror");
    assert_eq!(
        files.shown("quay.io"),
        ["https://cache.example/v2/ pru mirror", "https://quay.io/v2/ pru"]
    );
}

#[test]
fn headers_times_and_verification_are_read() {
    let files = Files::new().put(
        "r.example/hosts.toml",
        "skip_verify = true\ndial_timeout = \"3s\"\n[header]\nAuthorization = \"Basic eA==\"\nx-two = [\"1\", \"2\"]\n",
    );
    let host = files.lookup("r.example").unwrap().remove(0);
    assert_eq!(host.dial_timeout, Some(Duration::from_secs(3)));
    assert!(!host.identity.verifies());
    assert_eq!(host.headers.get_all("x-two").iter().count(), 2);
    assert!(!format!("{host:?}").contains("eA=="), "no secret is shown");
}

#[test]
fn what_cannot_be_used_is_an_error_with_the_file_in_it() {
    let cases = [
        ("no TOML", "server = ["),
        ("another type", "skip_verify = \"yes\""),
        ("no address", "server = \"ftp://x\""),
        ("credentials in an address", "server = \"https://a:b@x\""),
        ("no capability", "capabilities = [\"fly\"]"),
        ("no time", "dial_timeout = \"soon\""),
        ("no header", "[header]\n\"a b\" = \"c\""),
        ("a missing file", "ca = \"missing.crt\""),
        ("no certificate", "ca = \"hosts.toml\""),
        ("a missing client", "client = [[\"missing.cert\", \"missing.key\"]]"),
    ];
    for (name, text) in cases {
        let err = Files::new().put("r.example/hosts.toml", text).lookup("r.example").unwrap_err();
        let chain: Vec<String> =
            std::iter::successors(Some(&err as &dyn std::error::Error), |err| err.source())
                .map(ToString::to_string)
                .collect();
        assert!(chain.join(": ").contains("r.example/"), "{name}: {chain:?}");
    }
}

#[test]
fn without_a_file_the_directory_is_read_as_docker_reads_it() {
    let key = rcgen::generate_simple_self_signed(["r.example".to_owned()]).unwrap();
    let (certificate, secret) = (key.cert.pem(), key.signing_key.serialize_pem());
    let files = Files::new()
        .put("r.example/ca.crt", &certificate)
        .put("r.example/client.cert", &certificate)
        .put("r.example/client.key", &secret)
        .put("r.example/readme", "");
    let host = files.lookup("r.example").unwrap().remove(0);
    assert_eq!((host.identity.authorities.len(), host.identity.clients.len()), (1, 1));
}
