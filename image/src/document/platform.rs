//! Which entry of an index runs on this machine.

use super::manifest::{Descriptor, Platform};
use std::fmt;

/// An operating system and a processor in Go's spelling, as indexes have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    os: &'static str,
    architecture: &'static str,
    /// The highest variant that runs here; 0 where the architecture has none.
    variant: u32,
}

impl Host {
    /// The machine this was built for.
    pub(crate) fn this() -> Self {
        let mut host = Self::of(std::env::consts::ARCH, cfg!(target_endian = "little"));
        host.variant = match host.architecture {
            "amd64" => x86_level(),
            // A 32-bit build for version 6 runs on later machines too, and cannot tell.
            "arm" if !cfg!(target_feature = "v7") => 6,
            _ => host.variant,
        };
        host
    }

    fn of(rust_arch: &'static str, little_endian: bool) -> Self {
        let (architecture, variant) = match rust_arch {
            "x86_64" => ("amd64", 1),
            "x86" => ("386", 0),
            "aarch64" => ("arm64", 8),
            "arm" => ("arm", 7),
            "powerpc64" if little_endian => ("ppc64le", 0),
            "powerpc64" => ("ppc64", 0),
            "loongarch64" => ("loong64", 0),
            other => (other, 0),
        };
        Self { os: "linux", architecture, variant }
    }

    /// The best entry for this machine: the highest variant that runs here, of equals the first. An entry without a
    /// platform counts only where it is the only one.
    pub(crate) fn choose<'a>(&self, entries: &'a [Descriptor]) -> Option<&'a Descriptor> {
        if let [only] = entries
            && only.platform.is_none()
        {
            return Some(only);
        }
        let rank = |entry: &&'a Descriptor| entry.platform.as_ref().and_then(|p| self.rank(p));
        // `max_by_key` would take the last of equals.
        entries.iter().rev().filter(|entry| rank(entry).is_some()).max_by_key(|entry| rank(entry))
    }

    /// Whether a configuration with these fields runs here. Old images leave the fields empty.
    pub(crate) fn runs(&self, os: &str, architecture: &str) -> bool {
        (os.is_empty() || os == self.os)
            && (architecture.is_empty() || normal(architecture) == self.architecture)
    }

    fn rank(&self, platform: &Platform) -> Option<u32> {
        if platform.os != self.os || normal(&platform.architecture) != self.architecture {
            return None;
        }
        let variant = match platform.variant.as_deref().unwrap_or("") {
            // What an entry without a variant needs: the least on x86, version 8 on 64-bit ARM, 7 on 32-bit.
            "" if self.architecture == "amd64" => 1,
            "" => self.variant,
            text => text.trim_start_matches('v').parse().ok()?,
        };
        (variant <= self.variant).then_some(variant)
    }
}

/// The level of this processor: x86-64 psABI, "Micro-Architecture Levels".
#[cfg(target_arch = "x86_64")]
fn x86_level() -> u32 {
    macro_rules! all {
        ($($feature:tt)+) => { $(std::arch::is_x86_feature_detected!($feature))&&+ };
    }
    if !all!("cmpxchg16b" "popcnt" "sse3" "ssse3" "sse4.1" "sse4.2") {
        1
    } else if !all!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe" "xsave") {
        2
    } else if !all!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl") {
        3
    } else {
        4
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_level() -> u32 {
    1
}

/// Names that some builders use for the same thing.
fn normal(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" => "386",
        "armhf" => "arm",
        other => other,
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn entry(platform: &str) -> Descriptor {
        let mut parts = platform.split('/').map(str::to_owned);
        let platform = parts.next().filter(|os| !os.is_empty()).map(|os| Platform {
            os,
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next(),
        });
        Descriptor {
            media_type: super::super::media::OCI_MANIFEST.into(),
            digest: Digest::of(b""),
            size: 0,
            urls: Vec::new(),
            annotations: Default::default(),
            platform,
        }
    }

    #[test]
    fn the_best_entry_for_the_machine_is_chosen() {
        let cases: [(&str, &str, &[&str], Option<usize>); 14] = [
            ("the only match", "x86_64", &["linux/arm64", "linux/amd64"], Some(1)),
            ("no match", "x86_64", &["linux/arm64", "windows/amd64"], None),
            (
                "an attestation is no platform",
                "x86_64",
                &["unknown/unknown", "linux/amd64"],
                Some(1),
            ),
            ("the first of equals", "x86_64", &["linux/amd64", "linux/amd64"], Some(0)),
            (
                "no instructions we may not have",
                "x86_64",
                &["linux/amd64/v3", "linux/amd64"],
                Some(1),
            ),
            ("only instructions we may not have", "x86_64", &["linux/amd64/v3"], None),
            (
                "ARM without a variant is version 8",
                "aarch64",
                &["linux/arm/v7", "linux/arm64"],
                Some(1),
            ),
            ("ARM version 8 by name", "aarch64", &["linux/arm64/v9", "linux/arm64/v8"], Some(1)),
            (
                "the highest that runs",
                "arm",
                &["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"],
                Some(1),
            ),
            ("the next lower", "arm", &["linux/arm64/v8", "linux/arm/v6", "linux/arm/v5"], Some(1)),
            ("a variant that is none", "arm", &["linux/arm/hard"], None),
            ("the only one, without a platform", "x86_64", &[""], Some(0)),
            ("one of two without a platform", "x86_64", &["", "linux/arm64"], None),
            ("none at all", "x86_64", &[], None),
        ];
        for (name, arch, platforms, want) in cases {
            let entries: Vec<Descriptor> = platforms.iter().map(|p| entry(p)).collect();
            let got = Host::of(arch, true).choose(&entries);
            let want = want.map(|index| &entries[index]);
            assert!(got.map(std::ptr::from_ref) == want.map(std::ptr::from_ref), "{name}");
        }
    }

    #[test]
    fn levels_of_x86_are_chosen_by_what_the_processor_has() {
        let entries =
            ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4", "linux/amd64/v3"].map(entry);
        for (level, want) in [(1, 0), (2, 1), (3, 3), (4, 2)] {
            let host = Host { variant: level, ..Host::of("x86_64", true) };
            let got = host.choose(&entries).map(std::ptr::from_ref);
            assert_eq!(got, Some(std::ptr::from_ref(&entries[want])), "level {level}");
        }
        assert!((1..=4).contains(&x86_level()));
    }

    #[test]
    fn a_configuration_for_another_machine_is_noticed() {
        let host = Host::of("x86_64", true);
        assert!(host.runs("linux", "amd64") && host.runs("linux", "x86_64") && host.runs("", ""));
        assert!(!host.runs("windows", "amd64") && !host.runs("linux", "arm64"));
        assert_eq!(Host::of("powerpc64", true).to_string(), "linux/ppc64le");
        assert_eq!(Host::of("s390x", false).to_string(), "linux/s390x");
    }
}
