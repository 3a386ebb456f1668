//! The values of the options of `run`, as people write them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use cri_api::runtime::v1::{Int64Value, KeyValue, Mount, MountPropagation, PortMapping, Protocol};

use crate::error::OptionError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Network {
    Pod,
    Host,
}

/// `NAME=VALUE`, or `NAME` for the value it has here; `None` when it has none. `here` looks it up.
pub(super) fn variable(
    text: &str,
    here: impl FnOnce(&str) -> Option<Vec<u8>>,
) -> Result<Option<KeyValue>, OptionError> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.as_bytes().to_vec())),
        None => (text, here(text)),
    };
    if key.is_empty() {
        return Err(OptionError::Form("NAME=VALUE or NAME"));
    }
    Ok(value.map(|value| KeyValue { key: key.into(), value }))
}

/// `HOST:CONTAINER[:OPTIONS]`; a relative path of the host is one below `directory`.
pub(super) fn volume(text: &str, directory: &Path) -> Result<Mount, OptionError> {
    let mut parts = text.split(':');
    let (Some(host), Some(container)) = (parts.next(), parts.next()) else {
        return Err(OptionError::Form("HOST:CONTAINER[:ro]"));
    };
    let options = parts.next().unwrap_or_default();
    if parts.next().is_some() {
        return Err(OptionError::Form("HOST:CONTAINER[:ro]"));
    }
    if !container.starts_with('/') || container.trim_end_matches('/').is_empty() {
        return Err(OptionError::ContainerPath);
    }
    let mut mount = Mount {
        host_path: host_path(host, directory)?,
        container_path: container.into(),
        ..Default::default()
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" => mount.readonly = false,
            "ro" => mount.readonly = true,
            "rro" => (mount.readonly, mount.recursive_read_only) = (true, true),
            "private" | "rprivate" => mount.set_propagation(MountPropagation::PropagationPrivate),
            "rslave" => mount.set_propagation(MountPropagation::PropagationHostToContainer),
            "rshared" => mount.set_propagation(MountPropagation::PropagationBidirectional),
            other => return Err(OptionError::MountOption(other.into())),
        }
    }
    Ok(mount)
}

fn host_path(text: &str, directory: &Path) -> Result<String, OptionError> {
    let is_path =
        text.starts_with('/') || text == "." || text.starts_with("./") || text.starts_with("../");
    if !is_path {
        return Err(OptionError::HostPath);
    }
    // Only "." goes; ".." stays for the kernel, which knows about links.
    let path: PathBuf = directory.join(text).components().collect();
    path.into_os_string().into_string().map_err(|_| OptionError::HostPath)
}

/// `[IP:]HOST:CONTAINER[/PROTOCOL]`; an IPv6 address is in brackets.
pub(super) fn port(text: &str) -> Result<PortMapping, OptionError> {
    let malformed = || OptionError::Form("[IP:]HOST:CONTAINER[/tcp|udp|sctp]");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(OptionError::Protocol(other.into())),
    };
    let (rest, container) = ports.rsplit_once(':').ok_or_else(malformed)?;
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) => (Some(address), host),
        None => (None, rest),
    };
    let address = address.map(|text| {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let parsed: Result<IpAddr, _> = bare.unwrap_or(text).parse();
        match parsed {
            // Without brackets, an IPv6 address could end in a port.
            Ok(address) if address.is_ipv6() == bare.is_some() => Ok(address.to_string()),
            Ok(_) | Err(_) => Err(OptionError::Address(text.into())),
        }
    });
    Ok(PortMapping {
        protocol: protocol.into(),
        container_port: port_number(container)?,
        host_port: port_number(host)?,
        host_ip: address.transpose()?.unwrap_or_default(),
    })
}

fn port_number(text: &str) -> Result<i32, OptionError> {
    match text.parse::<u16>() {
        Ok(number) if number > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(number.into())
        }
        Ok(_) | Err(_) => Err(OptionError::Port(text.into())),
    }
}

/// Who the container runs as.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: Option<Int64Value>,
    pub(super) gid: Option<Int64Value>,
}

/// `USER[:GROUP]`, where the user may be a name of the image's /etc/passwd.
pub(super) fn user(text: &str) -> Result<User, OptionError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let number = |text: &str| text.parse::<u32>().ok().map(|id| Int64Value { value: id.into() });
    let gid = group.map(|group| number(group).ok_or(OptionError::GroupName)).transpose()?;
    match number(user) {
        Some(uid) => Ok(User { name: String::new(), uid: Some(uid), gid }),
        None if user.is_empty() => Err(OptionError::Form("USER[:GROUP]")),
        None => Ok(User { name: user.into(), uid: None, gid }),
    }
}

/// Bytes: a number, perhaps with a unit that counts in 1024s.
pub(super) fn memory(text: &str) -> Result<i64, OptionError> {
    let malformed = || OptionError::Form("256m or 1g");
    let lower = text.to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(malformed()),
    };
    let number: f64 = number.parse().map_err(|_| malformed())?;
    let bytes = number * f64::from(1u32 << 10).powi(shift / 10);
    // 2^62 B is more than any machine has, and every i64 below it is exact enough.
    if !(1.0..4.6e18).contains(&bytes) {
        return Err(OptionError::NotPositive);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range has just been checked")]
    Ok(bytes as i64)
}

/// The CPU time a container may use in each period, in microseconds.
pub(super) const CPU_PERIOD_US: i64 = 100_000;

/// The quota that goes with [`CPU_PERIOD_US`], in microseconds.
pub(super) fn cpu_quota_us(text: &str) -> Result<i64, OptionError> {
    let cpus: f64 = text.parse().map_err(|_| OptionError::Form("0.5 or 2"))?;
    // The kernel refuses less than a millisecond (tg_set_cfs_bandwidth).
    if !(0.01..=1_000_000.0).contains(&cpus) {
        return Err(OptionError::NotPositive);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range has just been checked")]
    Ok((cpus * 100_000.0).round() as i64)
}

/// A name that can also be a host name and a part of a path (RFC 1123).
pub(super) fn name(text: &str) -> Result<String, OptionError> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = (1..=63).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_name { Ok(text.to_owned()) } else { Err(OptionError::Name) }
}

/// What a pod of this image is called: the last part of its name, as far as that can be one.
pub(super) fn name_after(image: &str, suffix: &str) -> String {
    let without_digest = image.split('@').next().unwrap_or(image);
    let last = without_digest.rsplit('/').next().unwrap_or(without_digest);
    let base = last.split(':').next().unwrap_or(last).to_ascii_lowercase();
    let clean: String =
        base.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(50).collect();
    let clean = clean.trim_matches('-');
    format!("{}-{suffix}", if clean.is_empty() { "pod" } else { clean })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_a_value_or_take_that_from_here() {
        let read = |text| {
            let here = |name: &str| (name == "HOME").then(|| b"/root".to_vec());
            let pair = variable(text, here)?;
            Ok(pair.map(|pair| format!("{}={}", pair.key, String::from_utf8_lossy(&pair.value))))
        };
        let cases = [
            ("A=1", Ok(Some("A=1"))),
            ("A=b=c d", Ok(Some("A=b=c d"))),
            ("A=", Ok(Some("A="))),
            ("HOME", Ok(Some("HOME=/root"))),
            ("NOT_HERE", Ok(None)),
            ("=1", Err(OptionError::Form("NAME=VALUE or NAME"))),
        ];
        for (text, want) in cases {
            assert_eq!(read(text), want.map(|pair| pair.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn volumes_are_host_paths_with_options() {
        let read = |text| {
            volume(text, Path::new("/srv")).map(|mount| {
                let flags = [(mount.readonly, " ro"), (mount.recursive_read_only, " rro")];
                let flags: String =
                    flags.iter().filter(|(is_set, _)| *is_set).map(|(_, word)| *word).collect();
                format!("{} {}{flags} {}", mount.host_path, mount.container_path, mount.propagation)
            })
        };
        let cases = [
            ("/a:/b", "/a /b 0"),
            ("/a:/b:ro", "/a /b ro 0"),
            ("/a:/b:rw", "/a /b 0"),
            ("/a:/b:rro", "/a /b ro rro 0"),
            ("/a:/b:ro,rslave", "/a /b ro 1"),
            ("/a:/b:rshared", "/a /b 2"),
            ("./data:/b", "/srv/data /b 0"),
            (".:/b", "/srv /b 0"),
            ("../x:/b", "/srv/../x /b 0"),
        ];
        for (text, want) in cases {
            assert_eq!(read(text).unwrap(), want, "{text}");
        }
        for text in ["/a", "name:/b", "/a:b", "/a:/", "/a:/b:rx", "/a:/b:ro:x", ":/b", "~/a:/b"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_have_an_address_and_a_protocol_if_need_be() {
        let read = |text| {
            port(text).map(|port| {
                let (protocol, ip) = (port.protocol().as_str_name(), port.host_ip);
                format!("{protocol} {ip} {} {}", port.host_port, port.container_port)
            })
        };
        let cases = [
            ("8080:80", "TCP  8080 80"),
            ("53:53/udp", "UDP  53 53"),
            ("127.0.0.1:8080:80", "TCP 127.0.0.1 8080 80"),
            ("[::1]:8080:80/sctp", "SCTP ::1 8080 80"),
        ];
        for (text, want) in cases {
            assert_eq!(read(text).unwrap(), want, "{text}");
        }
        let refused = [
            "80",
            "0:80",
            "80:0",
            "65536:80",
            "a:80",
            "80:80/icmp",
            "::1:80:80",
            "[127.0.0.1]:80:80",
            "host:80:80",
            "+8:80",
            "",
        ];
        for text in refused {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn users_go_by_name_or_number() {
        let id = |value| Some(Int64Value { value });
        let cases = [
            ("1000", Ok(User { uid: id(1000), ..User::default() })),
            ("1000:50", Ok(User { uid: id(1000), gid: id(50), ..User::default() })),
            ("www", Ok(User { name: "www".into(), ..User::default() })),
            ("www:50", Ok(User { name: "www".into(), gid: id(50), ..User::default() })),
            ("www:www", Err(OptionError::GroupName)),
            (":50", Err(OptionError::Form("USER[:GROUP]"))),
        ];
        for (text, want) in cases {
            assert_eq!(user(text), want, "{text}");
        }
    }

    #[test]
    fn sizes_count_in_1024s() {
        let cases = [
            ("1048576", Some(1 << 20)),
            ("256m", Some(256 << 20)),
            ("256M", Some(256 << 20)),
            ("256MiB", Some(256 << 20)),
            ("256mb", Some(256 << 20)),
            ("1.5g", Some(3 << 29)),
            ("64k", Some(64 << 10)),
            ("100b", Some(100)),
            ("0", None),
            ("m", None),
            ("12x", None),
            ("-1", None),
            ("9999999999t", None),
        ];
        for (text, want) in cases {
            assert_eq!(memory(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn cpus_become_a_quota() {
        for (text, want) in [
            ("1", Some(100_000)),
            ("0.5", Some(50_000)),
            ("2.25", Some(225_000)),
            ("0", None),
            ("x", None),
            ("nan", None),
        ] {
            assert_eq!(cpu_quota_us(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn pods_are_called_after_their_image() {
        let cases = [
            ("busybox", "busybox-x"),
            ("registry:5000/team/My_App:1.2", "my-app-x"),
            ("alpine@sha256:0123", "alpine-x"),
            ("a/b/", "pod-x"),
        ];
        for (image, want) in cases {
            assert_eq!(name_after(image, "x"), want, "{image}");
            assert!(name(&name_after(image, "x")).is_ok());
        }
        for text in ["", "-a", "a-", "A", "a.b", "a/b", "..", &"a".repeat(64)] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
