//! A change of a container's resources: what holds after it, and what of that has to be written.

use crate::error::SpecError;
use crate::input::CgroupFacts;
use crate::resources::{checked_score, limits};
use cri_api::runtime::v1::LinuxContainerResources;
use oci_spec::runtime::{LinuxResources, Spec};

/// What an update comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// All that is asked of the container from now on; the status tells it.
    pub resources: LinuxContainerResources,
    /// The container's spec with that in it.
    pub spec: Spec,
    /// What was asked for now, for a cgroup that exists; the rest of it stays as it is.
    pub change: LinuxResources,
    /// The score of its processes, where one was asked for.
    pub oom_score_adj: Option<i32>,
}

/// Puts `asked` on top of what holds `now`. A field of 0 or "" is unchanged; so are the files of `unified` and the sizes
/// of huge pages that are not named.
///
/// A container that was never given a swap limit goes on without swap at its new memory limit.
///
/// # Errors
///
/// [`SpecError::Invalid`] as for [`limits`](crate::limits), of what would hold: a memory limit above the one of memory
/// and swap together that was given before is refused.
pub fn update(
    spec: &Spec,
    now: Option<&LinuxContainerResources>,
    asked: &LinuxContainerResources,
    cgroup: &CgroupFacts,
) -> Result<Update, SpecError> {
    let resources = merged(now.cloned().unwrap_or_default(), asked);
    let mut all = limits(&resources, cgroup)?;
    let mut named = asked.clone();
    if asked.memory_limit_in_bytes != 0 || asked.memory_swap_limit_in_bytes != 0 {
        // v2 counts swap by itself, so neither can be written without the other.
        named.memory_limit_in_bytes = resources.memory_limit_in_bytes;
        named.memory_swap_limit_in_bytes = resources.memory_swap_limit_in_bytes;
    }
    let change = limits(&named, cgroup)?;
    let oom_score_adj = match asked.oom_score_adj {
        0 => None,
        score => Some(checked_score(score)?),
    };
    let mut spec = spec.clone();
    if let Some(linux) = spec.linux_mut() {
        let devices = linux.resources().as_ref().and_then(|now| now.devices().clone());
        all.set_devices(devices);
        linux.set_resources(Some(all));
    }
    if let (Some(process), Some(score)) = (spec.process_mut(), oom_score_adj) {
        process.set_oom_score_adj(Some(score));
    }
    Ok(Update { resources, spec, change, oom_score_adj })
}

/// `asked` on top of `now`, field by field.
fn merged(
    now: LinuxContainerResources,
    asked: &LinuxContainerResources,
) -> LinuxContainerResources {
    let number = |now: i64, asked: i64| if asked == 0 { now } else { asked };
    let list = |now: String, asked: &str| if asked.is_empty() { now } else { asked.to_owned() };
    let mut hugepage_limits = now.hugepage_limits;
    hugepage_limits
        .retain(|limit| asked.hugepage_limits.iter().all(|new| new.page_size != limit.page_size));
    hugepage_limits.extend(asked.hugepage_limits.iter().cloned());
    let mut unified = now.unified;
    unified.extend(asked.unified.iter().map(|(key, value)| (key.clone(), value.clone())));
    LinuxContainerResources {
        cpu_period: number(now.cpu_period, asked.cpu_period),
        cpu_quota: number(now.cpu_quota, asked.cpu_quota),
        cpu_shares: number(now.cpu_shares, asked.cpu_shares),
        memory_limit_in_bytes: number(now.memory_limit_in_bytes, asked.memory_limit_in_bytes),
        oom_score_adj: number(now.oom_score_adj, asked.oom_score_adj),
        cpuset_cpus: list(now.cpuset_cpus, &asked.cpuset_cpus),
        cpuset_mems: list(now.cpuset_mems, &asked.cpuset_mems),
        hugepage_limits,
        unified,
        memory_swap_limit_in_bytes: number(
            now.memory_swap_limit_in_bytes,
            asked.memory_swap_limit_in_bytes,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container;
    use crate::testing::Request;
    use cri_api::runtime::v1::HugepageLimit;
    use serde_json::{Value, json};

    type Resources = LinuxContainerResources;

    fn memory(memory_limit_in_bytes: i64, memory_swap_limit_in_bytes: i64) -> Resources {
        Resources { memory_limit_in_bytes, memory_swap_limit_in_bytes, ..Resources::default() }
    }

    fn updated(now: &Resources, asked: &Resources) -> Result<Update, SpecError> {
        let spec = container(&Request::plain().input()).expect("spec");
        update(&spec, Some(now), asked, &CgroupFacts::V2)
    }

    #[test]
    fn every_field_is_taken_and_zero_is_unchanged() {
        let huge = |limit| vec![HugepageLimit { page_size: "2MB".into(), limit }];
        let full = Resources {
            cpu_period: 1,
            cpu_quota: 2,
            cpu_shares: 3,
            memory_limit_in_bytes: 4,
            oom_score_adj: 5,
            cpuset_cpus: "6".into(),
            cpuset_mems: "7".into(),
            hugepage_limits: huge(8),
            unified: [("memory.high".into(), "9".into())].into(),
            memory_swap_limit_in_bytes: 10,
        };
        assert_eq!(merged(full.clone(), &Resources::default()), full, "nothing asked");
        assert_eq!(merged(Resources::default(), &full), full, "all asked");
        let more = Resources {
            hugepage_limits: [huge(0), vec![HugepageLimit { page_size: "1GB".into(), limit: 1 }]]
                .concat(),
            unified: [("io.weight".into(), "1".into())].into(),
            ..Resources::default()
        };
        let both = merged(full, &more);
        assert_eq!(both.hugepage_limits, more.hugepage_limits, "a named size is replaced");
        assert_eq!(both.unified.len(), 2, "other files stay");
    }

    #[test]
    #[rustfmt::skip]
    fn only_what_is_asked_for_is_written() {
        let cpu = |cpu_quota, cpu_period| Resources { cpu_quota, cpu_period, ..Resources::default() };
        let cases = [
            ("nothing", memory(64, 0), Resources::default(), json!({})),
            ("a quota", cpu(10, 100), cpu(20, 0), json!({"cpu": {"quota": 20}})),
            ("memory, and swap stays forbidden", memory(64, 0), memory(96, 0), json!({"memory": {"limit": 96, "swap": 96}})),
            ("memory below memory and swap", memory(64, 128), memory(96, 0), json!({"memory": {"limit": 96, "swap": 128}})),
            ("swap alone", memory(64, 0), memory(0, 128), json!({"memory": {"limit": 64, "swap": 128}})),
            ("memory above memory and swap", memory(64, 80), memory(96, 0), json!("refused")),
            ("swap without memory", memory(0, 0), memory(0, 128), json!("refused")),
        ];
        for (name, now, asked, want) in cases {
            let got = match updated(&now, &asked) {
                Ok(update) => serde_json::to_value(update.change).expect("JSON"),
                Err(_) => json!("refused"),
            };
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn the_spec_is_what_a_creation_with_it_all_would_have_made() {
        let mut request = Request::plain();
        let now = Resources { cpu_shares: 512, oom_score_adj: 100, ..memory(64 << 20, 0) };
        let asked = Resources { cpu_shares: 256, oom_score_adj: 900, ..Resources::default() };
        let set = |request: &mut Request, resources: Resources| {
            request.container.linux.get_or_insert_default().resources = Some(resources);
        };
        set(&mut request, now.clone());
        let spec = container(&request.input()).expect("spec");
        let update = update(&spec, Some(&now), &asked, &request.host.cgroup).expect("update");
        set(&mut request, Resources { cpu_shares: 256, oom_score_adj: 900, ..now });
        let json = |spec: &Spec| -> Value { serde_json::to_value(spec).expect("JSON") };
        let anew = container(&request.input()).expect("spec");
        for part in ["/linux/resources", "/process/oomScoreAdj"] {
            assert_eq!(json(&update.spec).pointer(part), json(&anew).pointer(part), "{part}");
        }
        assert_eq!(update.oom_score_adj, Some(900));
    }
}
