//! Whose rights the program has, and no more than those.

use super::Step;
use crate::refuse::Explain;
use plan::{Capabilities, Identity, Process};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// Sets the limits. The monitor's rights may be needed for it.
pub(super) fn limit(process: &Process) -> Step<()> {
    for limit in &process.rlimits {
        sys::rights::limit(limit.resource, limit.soft, limit.hard)
            .step("set resource limit", limit.resource.to_string())?;
    }
    Ok(())
}

/// What the kernel wants for a system call filter of a process that may gain rights by `execve`: CAP_SYS_ADMIN, 21.
pub(super) const TO_FILTER: u64 = 1 << 21;

/// Becomes the user, with exactly these capabilities, cut to those that the monitor itself has. Those in `kept` stay in
/// force until [`settle`] or `execve`, and nothing that is executed can have them.
pub(super) fn assume(identity: &Identity, wished: Capabilities, kept: u64) -> Step<()> {
    let own = own()?;
    bound(wished.bounding & own)?;
    become_user(identity)?;
    let sets = cut(wished, own);
    set(sets, kept & own)?;
    thread::clear_ambient_capability_set().step("clear ambient capabilities", "")?;
    for capability in bits(sets.ambient) {
        thread::configure_capability_in_ambient_set(capability, true)
            .step("set ambient capability", capability.bits().trailing_zeros().to_string())?;
    }
    Ok(())
}

/// Gives up what was kept beside these capabilities.
pub(super) fn settle(wished: Capabilities) -> Step<()> {
    set(cut(wished, own()?), 0)
}

fn own() -> Step<u64> {
    Ok(thread::capabilities(None).step("read capabilities", "")?.permitted.bits())
}

fn set(sets: Capabilities, kept: u64) -> Step<()> {
    let all = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(sets.effective | kept),
        permitted: CapabilitySet::from_bits_retain(sets.permitted | kept),
        // Only what the ambient set needs (CVE-2022-24769).
        inheritable: CapabilitySet::from_bits_retain(sets.ambient),
    };
    thread::set_capabilities(None, all).step("set capabilities", "")
}

/// Takes out of the bounding set all that the program must never get.
fn bound(kept: u64) -> Step<()> {
    for capability in bits(!kept) {
        match thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that this kernel does not know.
            Err(Errno::INVAL) => return Ok(()),
            Err(err) => {
                let number = capability.bits().trailing_zeros().to_string();
                return Err(err).step("drop capability", number);
            }
        }
    }
    Ok(())
}

fn become_user(identity: &Identity) -> Step<()> {
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    thread::set_thread_groups(&groups).step("set groups", "")?;
    let gid = Gid::from_raw(identity.gid);
    thread::set_thread_res_gid(gid, gid, gid).step("set group", identity.gid.to_string())?;
    // Without this the change to another user would take the capabilities that are set next.
    thread::set_keep_capabilities(true).step("keep capabilities", "")?;
    let uid = Uid::from_raw(identity.uid);
    thread::set_thread_res_uid(uid, uid, uid).step("set user", identity.uid.to_string())?;
    thread::set_keep_capabilities(false).step("keep capabilities", "")
}

/// The sets that can be had: nothing above what we hold, nothing in force that is not permitted.
fn cut(wished: Capabilities, own: u64) -> Capabilities {
    let permitted = wished.permitted & own;
    Capabilities {
        bounding: wished.bounding & own,
        permitted,
        effective: wished.effective & permitted,
        ambient: wished.ambient & permitted,
    }
}

fn bits(set: u64) -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS)
        .map(|number| 1 << number)
        .filter(move |bit| set & bit != 0)
        .map(CapabilitySet::from_bits_retain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_more_than_we_have() {
        let all = Capabilities { bounding: !0, permitted: !0, effective: !0, ambient: !0 };
        let got = cut(all, 0b0110);
        let want = Capabilities {
            bounding: 0b0110,
            permitted: 0b0110,
            effective: 0b0110,
            ambient: 0b0110,
        };
        assert_eq!(got, want);
    }

    #[test]
    fn what_is_not_permitted_is_neither_effective_nor_ambient() {
        let wished = Capabilities {
            bounding: 0b1111,
            permitted: 0b0001,
            effective: 0b0011,
            ambient: 0b0101,
        };
        let got = cut(wished, !0);
        assert_eq!((got.effective, got.ambient), (0b0001, 0b0001));
    }

    #[test]
    fn bits_come_one_by_one() {
        let got: Vec<u64> = bits(1 << 63 | 5).map(|bit| bit.bits()).collect();
        assert_eq!(got, [1, 4, 1 << 63]);
    }
}
