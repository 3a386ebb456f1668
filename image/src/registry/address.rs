//! Which addresses the client talks to, and which of them may see credentials.

use super::error::RegistryError;
use reqwest::Url;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Docker Hub's registry answers at another name than its images carry.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// How far away a URL's host is, as far as its text says. Names that resolve to private addresses count as public:
/// there TLS proves that the answer is not from a machine that merely happens to live at that address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Loopback,
    /// Link-local, unspecified, multicast: metadata services and other things that are no registry.
    Neighbour,
    Private,
    Public,
}

/// Where a registry's API begins: `https://host[:port]/`, or http on loopback and for hosts in `insecure`, except at
/// the port of https.
///
/// # Errors
///
/// [`RegistryError::Address`] when the name gives no URL.
pub(super) fn base(registry: &str, insecure: &[String]) -> Result<Url, RegistryError> {
    let host = if registry == "docker.io" { DOCKER_HUB_HOST } else { registry };
    let bad = || RegistryError::Address(registry.to_owned());
    let https = Url::parse(&format!("https://{host}/")).map_err(|_| bad())?;
    let plain = reach(&https) == Reach::Loopback || insecure.iter().any(|entry| entry == registry);
    if plain && !host.ends_with(":443") {
        return Url::parse(&format!("http://{host}/")).map_err(|_| bad());
    }
    Ok(https)
}

/// Whether both have the same scheme, host and port.
pub(super) fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

/// Whether both have the same host, at whatever port.
pub(super) fn same_host(one: &Url, other: &Url) -> bool {
    one.host() == other.host()
}

/// Whether a proxy from the environment has no business with this host.
pub(super) fn is_loopback(url: &Url) -> bool {
    reach(url) == Reach::Loopback
}

/// Where a redirect of `from` to `location` leads, for a pull from the registry at `base`.
///
/// # Errors
///
/// [`RegistryError::Redirect`] for a step from https to http, another scheme, or to an address of this host or its
/// link when the registry is elsewhere.
pub(super) fn redirect(base: &Url, from: &Url, location: &str) -> Result<Url, RegistryError> {
    let refuse = |why| RegistryError::Redirect { from: show(from), why };
    let mut to = from.join(location).map_err(|_| refuse("its target is no URL"))?;
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") => return Err(refuse("it leaves TLS")),
        _ => return Err(refuse("its target is neither http nor https")),
    }
    if let Err(why) = outside_ok(base, &to) {
        return Err(refuse(why));
    }
    // A URL's user and password would become credentials of the request.
    if to.set_username("").is_err() || to.set_password(None).is_err() {
        return Err(refuse("its target has no host"));
    }
    Ok(to)
}

/// The token server a registry names in its challenge, checked.
#[derive(Debug)]
pub(super) struct Realm {
    pub(super) url: Url,
    /// Whether the caller's credentials for the registry may be shown to it.
    pub(super) trusted: bool,
}

impl Realm {
    /// # Errors
    ///
    /// [`RegistryError::Realm`] for a realm that is not https, or on this host, its link or a private network, unless
    /// the registry itself is there.
    pub(super) fn check(
        base: &Url,
        realm: &str,
        insecure: &[String],
    ) -> Result<Self, RegistryError> {
        let refuse = |why| RegistryError::Realm { realm: crate::document::excerpt(realm), why };
        let url = Url::parse(realm).map_err(|_| refuse("it is no URL"))?;
        let same_host = url.host() == base.host();
        let configured = insecure.iter().any(|entry| entry_names(entry, &url));
        match url.scheme() {
            "https" => {}
            "http"
                if base.scheme() == "http"
                    && (same_host || configured || both_loopback(base, &url)) => {}
            _ => return Err(refuse("it is not https")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("it contains credentials"));
        }
        if !same_host && !configured {
            outside_ok(base, &url).map_err(refuse)?;
            if reach(&url) == Reach::Private {
                return Err(refuse("it is on a private network and the registry is elsewhere"));
            }
        }
        let trusted = same_host || configured || both_loopback(base, &url) || same_site(base, &url);
        Ok(Self { url, trusted })
    }
}

/// A URL for messages: what is behind `?` may be a signature that opens the blob.
pub(super) fn show(url: &Url) -> String {
    crate::document::excerpt(&format!("{}{}", url.origin().ascii_serialization(), url.path()))
}

/// Whether `server`, as clients write a registry (`quay.io`, `https://index.docker.io/v1/`), names the host of `api`.
pub(super) fn names(server: &str, api: &Url) -> bool {
    let full = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
    let Ok(server) = Url::parse(&full) else { return false };
    let docker_hub = ["docker.io", "index.docker.io", DOCKER_HUB_HOST];
    let is_hub = |url: &Url| url.host_str().is_some_and(|host| docker_hub.contains(&host));
    let port = |url: &Url| url.port();
    (server.host() == api.host() && port(&server) == port(api)) || is_hub(&server) && is_hub(api)
}

fn outside_ok(base: &Url, to: &Url) -> Result<(), &'static str> {
    match reach(to) {
        Reach::Loopback if reach(base) != Reach::Loopback => Err("it leads to this host"),
        Reach::Neighbour if to.host() != base.host() => Err("it leads to a link-local address"),
        Reach::Loopback | Reach::Neighbour | Reach::Private | Reach::Public => Ok(()),
    }
}

fn both_loopback(one: &Url, other: &Url) -> bool {
    reach(one) == Reach::Loopback && reach(other) == Reach::Loopback
}

fn entry_names(entry: &str, url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    entry == host
        || url.port_or_known_default().is_some_and(|port| entry == format!("{host}:{port}"))
}

/// Whether a registry and a token server have one owner, as far as their names say: `registry-1.docker.io` and
/// `auth.docker.io`, `registry.gitlab.com` and `gitlab.com`. Below a suffix where anybody gets a name (`co.uk`,
/// `github.io`) each name is an owner of its own.
fn same_site(registry: &Url, realm: &Url) -> bool {
    let (Some(registry), Some(realm)) = (registry.domain(), realm.domain()) else { return false };
    let site = |host: &str| {
        let host = host.trim_end_matches('.');
        // Registries of this kind give a name to every customer, and are not in the list of such suffixes.
        let shared = SHARED_BY_CUSTOMERS.iter().any(|suffix| below(host, suffix));
        let site = if shared { Some(host) } else { psl::domain_str(host) };
        site.map(str::to_owned)
    };
    below(realm, registry) || site(registry).is_some_and(|owner| site(realm) == Some(owner))
}

const SHARED_BY_CUSTOMERS: [&str; 4] = ["azurecr.io", "jfrog.io", "pkg.dev", "amazonaws.com"];

fn below(host: &str, site: &str) -> bool {
    host.strip_suffix(site).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn reach(url: &Url) -> Reach {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    match host.parse() {
        Ok(IpAddr::V4(address)) => reach_v4(address),
        Ok(IpAddr::V6(address)) => reach_v6(address),
        Err(_) if host == "localhost" || host.ends_with(".localhost") => Reach::Loopback,
        Err(_) => Reach::Public,
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let [first, second, ..] = address.octets();
    if address.is_loopback() {
        Reach::Loopback
    } else if address.is_link_local()
        || first == 0
        || address.is_multicast()
        || address.is_broadcast()
    {
        Reach::Neighbour
    } else if address.is_private() || (first == 100 && second & 0xc0 == 64) {
        Reach::Private
    } else {
        Reach::Public
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if let Some(v4) = address.to_ipv4_mapped() {
        reach_v4(v4)
    } else if address.is_loopback() {
        Reach::Loopback
    } else if address.is_unicast_link_local() || address.is_unspecified() || address.is_multicast()
    {
        Reach::Neighbour
    } else if address.is_unique_local() {
        Reach::Private
    } else {
        Reach::Public
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn http_is_for_loopback_and_configured_hosts() {
        let cases = [
            ("docker.io", "https://registry-1.docker.io/"),
            ("quay.io", "https://quay.io/"),
            ("localhost", "http://localhost/"),
            ("localhost:5000", "http://localhost:5000/"),
            ("localhost:443", "https://localhost/"),
            ("[::1]", "http://[::1]/"),
            ("127.0.0.2:5000", "http://127.0.0.2:5000/"),
            ("[::1]:5000", "http://[::1]:5000/"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/"),
            ("plain.example:80", "http://plain.example/"),
            ("plain.example", "https://plain.example/"),
            ("localhost.evil.example", "https://localhost.evil.example/"),
        ];
        for (registry, want) in cases {
            let got = base(registry, &["plain.example:80".to_owned()]).unwrap();
            assert_eq!(got.as_str(), want, "{registry}");
        }
    }

    #[test]
    fn redirects_never_leave_tls_or_reach_into_the_host() {
        let public = "https://registry.example/v2/a/blobs/x";
        let local = "http://127.0.0.1:5000/v2/a/blobs/x";
        let cases = [
            ("same origin", public, "/elsewhere", true),
            ("a store elsewhere", public, "https://cdn.example/x?signature=1", true),
            ("a private store", public, "https://10.0.0.1/x", true),
            ("https to http", public, "http://registry.example/x", false),
            ("link-local", public, "https://169.254.169.254/latest", false),
            ("link-local in IPv6", public, "https://[fe80::1]/", false),
            ("mapped into IPv6", public, "https://[::ffff:169.254.169.254]/", false),
            ("written as a number", public, "https://2852039166/", false),
            ("loopback", public, "https://127.0.0.1/x", false),
            ("loopback by name", public, "https://localhost/x", false),
            ("the unspecified address", public, "https://0.0.0.0/x", false),
            ("a file", public, "file:///etc/passwd", false),
            ("no URL", public, "https://", false),
            ("http between loopback ports", local, "http://127.0.0.1:6000/x", true),
            ("http to link-local", local, "http://169.254.169.254/", false),
        ];
        for (name, from, location, good) in cases {
            let from = url(from);
            assert_eq!(redirect(&from, &from, location).is_ok(), good, "{name}");
        }
        let to = redirect(&url(public), &url(public), "https://me:secret@cdn.example/").unwrap();
        assert_eq!(to.as_str(), "https://cdn.example/");
    }

    #[test]
    fn token_servers_are_checked_before_they_see_anything() {
        let cases = [
            ("Docker Hub", "docker.io", "https://auth.docker.io/token", "trusted"),
            ("GitLab", "registry.gitlab.com", "https://gitlab.com/jwt/auth", "trusted"),
            ("the registry itself", "ghcr.io", "https://ghcr.io/token", "trusted"),
            ("below the registry", "ghcr.io", "https://auth.ghcr.io/token", "trusted"),
            ("another port of it", "10.0.0.1:5000", "https://10.0.0.1:8443/token", "trusted"),
            ("another site", "quay.io", "https://evil.example/token", "untrusted"),
            (
                "a neighbour below a public suffix",
                "registry.co.uk",
                "https://evil.co.uk/token",
                "untrusted",
            ),
            (
                "a neighbour at the same host of pages",
                "me.github.io",
                "https://you.github.io/token",
                "untrusted",
            ),
            (
                "another customer of the same registry",
                "me.azurecr.io",
                "https://you.azurecr.io/token",
                "untrusted",
            ),
            (
                "one owner below a public suffix",
                "registry.shop.co.uk",
                "https://auth.shop.co.uk/token",
                "trusted",
            ),
            (
                "another site in one top-level domain",
                "ghcr.io",
                "https://evil.io/token",
                "untrusted",
            ),
            (
                "a name that only ends alike",
                "registry.gitlab.com",
                "https://notgitlab.com/",
                "untrusted",
            ),
            ("http", "quay.io", "http://quay.io/token", "refused"),
            ("link-local", "quay.io", "https://169.254.169.254/", "refused"),
            ("loopback", "quay.io", "https://127.0.0.1/", "refused"),
            ("loopback in IPv6", "quay.io", "https://[::1]/", "refused"),
            ("private", "quay.io", "https://10.0.0.1/", "refused"),
            ("private but configured", "quay.io", "https://10.9.9.9/", "trusted"),
            ("with credentials", "quay.io", "https://a:b@quay.io/", "refused"),
            ("no URL", "quay.io", "token", "refused"),
            ("another scheme", "quay.io", "ftp://quay.io/", "refused"),
            ("loopback for loopback", "localhost:5000", "http://127.0.0.1:6000/token", "trusted"),
            ("the internet for loopback", "localhost:5000", "http://evil.example/token", "refused"),
        ];
        for (name, registry, realm, want) in cases {
            let insecure = ["10.9.9.9".to_owned()];
            let got = match Realm::check(&base(registry, &insecure).unwrap(), realm, &insecure) {
                Ok(Realm { trusted: true, .. }) => "trusted",
                Ok(Realm { trusted: false, .. }) => "untrusted",
                Err(_) => "refused",
            };
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn messages_show_no_signature() {
        assert_eq!(show(&url("https://cdn.example/a?X-Signature=secret")), "https://cdn.example/a");
    }
}
