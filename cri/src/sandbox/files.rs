//! The files of a pod that its containers see: hosts, hostname, resolv.conf.
//!
//! They live on the host, outside every root file system, and reach a container as bind mounts; so nothing in an image
//! can turn a write to them into a write elsewhere.

use super::{SandboxError, is_host, namespace_options};
use cri_api::runtime::v1::{DnsConfig, PodSandboxConfig};
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Where the files of a pod are.
pub(crate) fn paths(dir: &Path) -> cri_spec::SandboxFiles {
    cri_spec::SandboxFiles {
        hosts: Some(dir.join("hosts")),
        hostname: Some(dir.join("hostname")),
        resolv_conf: Some(dir.join("resolv.conf")),
    }
}

/// Writes the files of a pod into `dir`.
pub(super) fn write(
    dir: &Path,
    config: &PodSandboxConfig,
    hostname: &str,
    address: Option<IpAddr>,
) -> Result<(), SandboxError> {
    let of_host = |name: &str| PathBuf::from("/etc").join(name);
    let hosts = if is_host(namespace_options(config).network) {
        read(&of_host("hosts"))?
    } else {
        hosts(hostname, address)
    };
    // A configuration that says nothing is none.
    let own = config.dns_config.as_ref().map(resolv_conf).transpose()?;
    let resolv = match own.filter(|text| !text.is_empty()) {
        Some(text) => text,
        None => read(&of_host("resolv.conf"))?,
    };
    for (name, content) in
        [("hosts", hosts), ("hostname", format!("{hostname}\n")), ("resolv.conf", resolv)]
    {
        let path = dir.join(name);
        // Not fsynced: after a power loss no pod is left that would read them.
        put(&path, &content).map_err(|source| SandboxError::Files {
            step: "write",
            path,
            source,
        })?;
    }
    Ok(())
}

fn put(path: &Path, content: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(content.as_bytes())?;
    // The umask of the daemon keeps others out; a container's users need to read these.
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644))?;
    Ok(())
}

/// A file of the host, or nothing where the host has none.
fn read(path: &Path) -> Result<String, SandboxError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(SandboxError::Files { step: "read", path: path.to_owned(), source }),
    }
}

fn hosts(hostname: &str, address: Option<IpAddr>) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    if let Some(address) = address {
        writeln!(text, "{address}\t{hostname}").expect("a string takes every write");
    }
    text
}

/// `resolv.conf(5)` from what the pod asks for.
///
/// Every value becomes part of a line that we write, so one that would end the line or begin another is refused
/// (CVE-2022-4318 is the same mistake in another file).
fn resolv_conf(dns: &DnsConfig) -> Result<String, SandboxError> {
    for value in dns.servers.iter().chain(&dns.searches).chain(&dns.options) {
        if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(SandboxError::Invalid(format!("dns_config: {value:?} is no single word")));
        }
    }
    let mut text = String::new();
    let mut line = |key: &str, values: &[String]| {
        if !values.is_empty() {
            writeln!(text, "{key} {}", values.join(" ")).expect("a string takes every write");
        }
    };
    line("search", &dns.searches);
    for server in &dns.servers {
        line("nameserver", std::slice::from_ref(server));
    }
    line("options", &dns.options);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_configuration_becomes_lines() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let dns = DnsConfig {
            servers: words(&["10.0.0.10", "1.1.1.1"]),
            searches: words(&["default.svc", "svc"]),
            options: words(&["ndots:5"]),
        };
        assert_eq!(
            resolv_conf(&dns).unwrap(),
            "search default.svc svc\nnameserver 10.0.0.10\nnameserver 1.1.1.1\noptions ndots:5\n"
        );
    }

    #[test]
    fn a_value_cannot_bring_a_line_of_its_own() {
        for bad in ["10.0.0.1\nnameserver 6.6.6.6", "a b", "", "a\r", "a\0"] {
            let dns = DnsConfig { servers: vec![bad.into()], ..Default::default() };
            assert!(resolv_conf(&dns).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pod_knows_itself_by_its_name() {
        let text = hosts("web", Some("10.88.0.2".parse().unwrap()));
        assert!(text.ends_with("10.88.0.2\tweb\n"), "{text}");
    }
}
