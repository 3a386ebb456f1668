//! Capability sets of a container.
//!
//! The bounding, permitted and effective sets are one set, for every user, as containerd writes them. A user other
//! than root keeps nothing of it: the kernel clears permitted and effective at the `execve` of a program without file
//! capabilities (`capabilities(7)`). Only what the request adds to the ambient set survives there. The inheritable set
//! holds what the ambient set needs and nothing else (CVE-2022-24769).

use crate::confinement::{is_privileged, security_context};
use crate::error::SpecError;
use crate::input::Input;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use std::str::FromStr;

/// What a container may do that the request says nothing about.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// All capabilities; each one's place is its number in `<linux/capability.h>`.
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

const FIELD: &str = "linux.security_context.capabilities";

/// The sets of the container, cut to what the daemon has itself.
pub(crate) fn sets(input: &Input<'_>) -> Result<LinuxCapabilities, SpecError> {
    let available = |capability: &Capability| bit(*capability) & input.host.capabilities != 0;
    let wish = Wish::read(input)?;
    let granted = wish.granted(is_privileged(input.container));
    let granted: Capabilities = granted.into_iter().filter(available).collect();
    let ambient: Capabilities = wish.ambient.into_iter().filter(available).collect();

    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(granted.clone()))
        .set_permitted(Some(granted.clone()))
        .set_effective(Some(granted))
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    Ok(sets)
}

/// The set as the kernel counts it: bit N is capability N.
pub(crate) fn bits(set: Option<&Capabilities>) -> u64 {
    set.into_iter().flatten().fold(0, |bits, capability| bits | bit(*capability))
}

fn bit(capability: Capability) -> u64 {
    let number = ALL.iter().position(|known| *known == capability);
    1 << number.expect("every capability has a number")
}

/// What a request adds and drops, names resolved.
#[derive(Default)]
struct Wish {
    add_all: bool,
    add: Vec<Capability>,
    drop_all: bool,
    drop: Vec<Capability>,
    ambient: Vec<Capability>,
}

impl Wish {
    fn read(input: &Input<'_>) -> Result<Self, SpecError> {
        let Some(request) =
            security_context(input.container).and_then(|context| context.capabilities.as_ref())
        else {
            return Ok(Self::default());
        };
        let (add_all, add) = resolve("add_capabilities", &request.add_capabilities)?;
        let (drop_all, drop) = resolve("drop_capabilities", &request.drop_capabilities)?;
        let (ambient_all, mut ambient) =
            resolve("add_ambient_capabilities", &request.add_ambient_capabilities)?;
        if ambient_all {
            ambient = ALL.to_vec();
        }
        Ok(Self { add_all, add, drop_all, drop, ambient })
    }

    /// `ALL` comes first, so that single names still count: add `ALL`, drop `CHOWN` is everything but `CHOWN`, and
    /// drop `ALL`, add `CHOWN` is just that.
    fn granted(&self, privileged: bool) -> Capabilities {
        if privileged {
            return ALL.into_iter().collect();
        }
        let mut granted: Capabilities = match (self.drop_all, self.add_all) {
            (true, _) => Capabilities::new(),
            (false, true) => ALL.into_iter().collect(),
            (false, false) => DEFAULT.into_iter().collect(),
        };
        granted.extend(&self.add);
        for capability in &self.drop {
            granted.remove(capability);
        }
        // A process cannot hold in its ambient set what it does not have.
        granted.extend(&self.ambient);
        granted
    }
}

/// Whether `ALL` is among the names, and the capabilities behind the others.
fn resolve(list: &str, names: &[String]) -> Result<(bool, Vec<Capability>), SpecError> {
    let mut all = false;
    let mut resolved = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let upper = name.to_ascii_uppercase();
        match upper.strip_prefix("CAP_").unwrap_or(&upper) {
            "ALL" => all = true,
            short => resolved.push(Capability::from_str(short).map_err(|_| {
                SpecError::invalid(format!("{FIELD}.{list}[{at}]"), name, "is no capability")
            })?),
        }
    }
    Ok((all, resolved))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Request;
    use cri_api::runtime::v1;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(bit(Capability::Chown), 1);
        assert_eq!(bit(Capability::SysAdmin), 1 << 21);
        assert_eq!(bit(Capability::Setfcap), 1 << 31);
        assert_eq!(bit(Capability::CheckpointRestore), 1 << 40);
        assert_eq!(bits(Some(&ALL.into_iter().collect())), (1 << 41) - 1);
    }

    #[test]
    fn adding_and_dropping() {
        const DEFAULT: &str = "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW \
                               SETFCAP SETGID SETPCAP SETUID SYS_CHROOT";
        let all_but_bpf: Vec<String> = ALL
            .iter()
            .filter(|capability| **capability != Capability::Bpf)
            .map(ToString::to_string)
            .collect();
        type Names = &'static [&'static str];
        let cases: [(&str, Names, Names, Names, &str); 8] = [
            ("nothing asked", &[], &[], &[], DEFAULT),
            ("add", &["NET_ADMIN"], &[], &[], &format!("{DEFAULT} NET_ADMIN")),
            ("drop", &[], &["CHOWN"], &[], DEFAULT.replace("CHOWN ", "").leak()),
            (
                "with prefix, in lower case",
                &["cap_net_admin"],
                &["Cap_Chown"],
                &[],
                &format!("{} NET_ADMIN", DEFAULT.replace("CHOWN ", "")),
            ),
            ("drop all, add one", &["CHOWN"], &["ALL"], &[], "CHOWN"),
            ("add all, drop one", &["ALL"], &["BPF"], &[], &all_but_bpf.join(" ")),
            ("drop wins over add", &["CHOWN"], &["ALL", "CHOWN"], &[], ""),
            (
                "ambient ones are granted too",
                &[],
                &["ALL"],
                &["NET_BIND_SERVICE"],
                "NET_BIND_SERVICE",
            ),
        ];
        for (case, add, drop, ambient, want) in cases {
            let mut request = Request::plain();
            request.context().capabilities = Some(v1::Capability {
                add_capabilities: strings(add),
                drop_capabilities: strings(drop),
                add_ambient_capabilities: strings(ambient),
            });
            let sets = sets(&request.input()).expect(case);
            let want = sorted(want.split_whitespace().map(str::to_owned));
            for set in [sets.bounding(), sets.permitted(), sets.effective()] {
                let set = set.as_ref().expect("set");
                assert_eq!(sorted(set.iter().map(ToString::to_string)), want, "{case}");
            }
            for set in [sets.inheritable(), sets.ambient()] {
                let set = set.as_ref().expect("set");
                assert_eq!(sorted(set.iter().map(ToString::to_string)), strings(ambient), "{case}");
            }
        }
    }

    #[test]
    fn nothing_is_granted_that_the_daemon_lacks() {
        let mut request = Request::plain();
        request.context().privileged = true;
        request.host.capabilities = bit(Capability::Chown) | bit(Capability::Kill);
        let sets = sets(&request.input()).expect("sets");
        let granted = sets.effective().as_ref().expect("effective");
        assert_eq!(sorted(granted.iter().map(ToString::to_string)), ["CHOWN", "KILL"]);
    }

    #[test]
    fn a_name_that_is_no_capability_is_refused() {
        let mut request = Request::plain();
        request.context().capabilities = Some(v1::Capability {
            drop_capabilities: strings(&["ALL", "NET"]),
            ..Default::default()
        });
        let error = sets(&request.input()).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            r#"linux.security_context.capabilities.drop_capabilities[1]: "NET" is no capability"#
        );
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}
