//! What every [`PodNetwork`] keeps to, whatever it is made of. Each implementation runs this suite.
//!
//! Cases panic where the contract is broken, like the tests they are.
#![allow(clippy::unwrap_used, reason = "a test suite, though another crate's tests may call it")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::NetworkError;
use crate::network::{Attached, NetworkWish, PodNetwork, PortMapping, Protocol};
use crate::subnet::Subnet;

/// A machine that pods are attached on: what outlives the daemon.
pub trait World {
    /// The network as a daemon that has just started has it: it remembers no pod.
    fn open(&self) -> Box<dyn PodNetwork>;
    /// A fresh network namespace for a pod.
    fn namespace(&self) -> OwnedFd;
    /// Whether an attach was refused because all addresses are taken.
    fn is_full(&self, refusal: &NetworkError) -> bool {
        matches!(refusal, NetworkError::SubnetFull { .. })
    }
    /// Every link, host port and the like that pods have on this machine, by name.
    fn census(&self) -> Vec<String>;
}

/// Runs the whole suite; `make` makes an empty world whose pods get addresses of the subnet.
///
/// # Panics
/// Where the contract is broken.
pub fn run<W: World>(make: impl Fn(Subnet) -> W) {
    let roomy: Subnet = "10.88.0.0/24".parse().unwrap();
    let tight: Subnet = "10.88.0.0/29".parse().unwrap();
    pods_get_addresses_of_their_own(&make(roomy));
    detach_leaves_nothing_and_may_be_repeated(&make(roomy));
    a_host_port_has_one_pod(&make(roomy));
    a_pod_is_attached_once(&make(roomy));
    a_full_subnet_is_refused_until_an_address_comes_back(&make(tight));
    a_record_is_enough_to_detach(&make(roomy));
    adopted_pods_keep_what_they_have(&make(tight));
    detaching_late_takes_nothing_from_others(&make(roomy));
    sweep_removes_what_nobody_owns(&make(roomy));
}

/// A wish of the pod whose id is all `digit`, for TCP host ports that lead to port 80.
pub fn wish(digit: char, host_ports: &[u16]) -> NetworkWish {
    let ports = host_ports
        .iter()
        .map(|&host_port| PortMapping {
            protocol: Protocol::Tcp,
            host_ip: None,
            host_port,
            container_port: 80,
        })
        .collect();
    NetworkWish { owner: digit.to_string().repeat(64), ports, ..Default::default() }
}

/// A path to a namespace, as long as it lives: a number of a descriptor would soon stand for another one.
#[derive(Debug)]
pub struct Path(PathBuf);

impl Path {
    /// A path to `namespace`, which has to be open as long as the path is used.
    pub fn to(namespace: &OwnedFd) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("berth-contract-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let target = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        std::os::unix::fs::symlink(target, &path).unwrap();
        Self(path)
    }

    /// The path itself.
    pub fn get(&self) -> PathBuf {
        self.0.clone()
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// A pod that is attached, with the namespace that keeps it so.
#[derive(Debug)]
struct Pod {
    attached: Attached,
    _path: Path,
    _namespace: OwnedFd,
}

fn attach(
    world: &impl World,
    network: &dyn PodNetwork,
    wish: &NetworkWish,
) -> Result<Pod, NetworkError> {
    let namespace = world.namespace();
    let mut wish = wish.clone();
    let path = Path::to(&namespace);
    wish.namespace = path.get();
    let attached = network.attach(namespace.as_fd(), network.check(&wish)?)?;
    Ok(Pod { attached, _path: path, _namespace: namespace })
}

fn pods_get_addresses_of_their_own(world: &impl World) {
    let network = world.open();
    network.status().unwrap();
    let pods: Vec<Pod> = ['a', 'b', 'c']
        .into_iter()
        .map(|digit| attach(world, &*network, &wish(digit, &[])).unwrap())
        .collect();
    let addresses: BTreeSet<IpAddr> =
        pods.iter().flat_map(|pod| pod.attached.addresses.clone()).collect();
    let links: BTreeSet<&str> = pods.iter().map(|pod| pod.attached.host_link.as_str()).collect();
    assert_eq!((addresses.len(), links.len()), (3, 3), "{pods:?}");
    for pod in &pods {
        let gateway = pod.attached.gateway.unwrap();
        assert!(!addresses.contains(&gateway), "the gateway's own address is leased");
        assert_eq!(pod.attached.interface, "eth0");
    }
    assert_eq!(world.census().len(), 3);
}

fn detach_leaves_nothing_and_may_be_repeated(world: &impl World) {
    let network = world.open();
    let before = world.census();
    let pod = attach(world, &*network, &wish('a', &[8080, 8081])).unwrap();
    assert_ne!(world.census(), before);
    for _ in 0..2 {
        network.detach(&pod.attached).unwrap();
        assert_eq!(world.census(), before);
    }
    // Everything is free again, for the same pod and for others.
    let again = attach(world, &*network, &wish('a', &[8080])).unwrap();
    let other = attach(world, &*network, &wish('b', &[8081])).unwrap();
    for pod in [again, other] {
        network.detach(&pod.attached).unwrap();
    }
    assert_eq!(world.census(), before);
}

fn a_host_port_has_one_pod(world: &impl World) {
    let network = world.open();
    let free = network.check(&wish('b', &[8080])).unwrap();
    let _holder = attach(world, &*network, &wish('a', &[8080])).unwrap();
    let with_one = world.census();
    let namespace = world.namespace();
    let refusals = [
        ("checked", network.check(&wish('b', &[8081, 8080])).map(drop)),
        ("taken since the check", network.attach(namespace.as_fd(), free).map(drop)),
    ];
    for (what, refusal) in refusals {
        let refusal = refusal.unwrap_err();
        let NetworkError::PortTaken { owner, holder, .. } = &refusal else {
            panic!("{what}: {refusal:?}");
        };
        assert!(owner.starts_with('b') && holder.starts_with('a'), "{what}: {refusal}");
    }
    assert_eq!(world.census(), with_one, "a refused attach leaves nothing");
    attach(world, &*network, &wish('b', &[8081])).unwrap();
}

fn a_pod_is_attached_once(world: &impl World) {
    let network = world.open();
    let first = attach(world, &*network, &wish('a', &[8080])).unwrap();
    let with_one = world.census();
    let refusal = attach(world, &*network, &wish('a', &[8080])).unwrap_err();
    assert!(matches!(refusal, NetworkError::AlreadyAttached(_)), "{refusal:?}");
    assert_eq!(world.census(), with_one, "the first attachment stays as it is");
    network.detach(&first.attached).unwrap();
}

fn a_full_subnet_is_refused_until_an_address_comes_back(world: &impl World) {
    let network = world.open();
    let mut pods: Vec<Pod> = ['a', 'b', 'c', 'd', 'e']
        .into_iter()
        .map(|digit| attach(world, &*network, &wish(digit, &[])).unwrap())
        .collect();
    let full = world.census();
    let refusal = attach(world, &*network, &wish('f', &[8080])).unwrap_err();
    assert!(world.is_full(&refusal), "{refusal:?}");
    assert_eq!(world.census(), full, "a refused attach leaves nothing");
    let gone = pods.remove(2);
    network.detach(&gone.attached).unwrap();
    let next = attach(world, &*network, &wish('f', &[8080])).unwrap();
    assert_eq!(next.attached.addresses, gone.attached.addresses);
}

fn a_record_is_enough_to_detach(world: &impl World) {
    let before = world.census();
    let pod = attach(world, &*world.open(), &wish('a', &[8080])).unwrap();
    let record = pod.attached.clone();
    drop(pod); // and with it the last reference to the pod's namespace
    world.open().detach(&record).unwrap();
    assert_eq!(world.census(), before);
}

fn adopted_pods_keep_what_they_have(world: &impl World) {
    let pod = attach(world, &*world.open(), &wish('a', &[8080])).unwrap();
    let restarted = world.open();
    restarted.adopt(&pod.attached);
    assert_eq!(restarted.sweep(&BTreeSet::from(["a".repeat(64)])).unwrap(), [""; 0]);
    let refusal = restarted.check(&wish('b', &[8080])).unwrap_err();
    assert!(matches!(refusal, NetworkError::PortTaken { .. }), "{refusal:?}");
    for digit in ['b', 'c', 'd', 'e'] {
        let other = attach(world, &*restarted, &wish(digit, &[])).unwrap();
        assert_ne!(other.attached.addresses, pod.attached.addresses);
    }
    let refusal = attach(world, &*restarted, &wish('f', &[])).unwrap_err();
    assert!(world.is_full(&refusal), "{refusal:?}");
    restarted.detach(&pod.attached).unwrap();
    attach(world, &*restarted, &wish('f', &[8080])).unwrap();
}

fn detaching_late_takes_nothing_from_others(world: &impl World) {
    let network = world.open();
    let first = attach(world, &*network, &wish('a', &[8080])).unwrap();
    network.detach(&first.attached).unwrap();
    let second = attach(world, &*network, &wish('b', &[8080])).unwrap();
    let with_second = world.census();
    network.detach(&first.attached).unwrap();
    assert_eq!(world.census(), with_second);
    let refusal = network.check(&wish('c', &[8080])).unwrap_err();
    assert!(matches!(refusal, NetworkError::PortTaken { .. }), "{refusal:?}");
    network.detach(&second.attached).unwrap();
}

fn sweep_removes_what_nobody_owns(world: &impl World) {
    let before = world.census();
    let crashed = world.open();
    let kept = attach(world, &*crashed, &wish('a', &[8080])).unwrap();
    let with_kept = world.census();
    let lost = attach(world, &*crashed, &wish('b', &[8081])).unwrap();
    drop(crashed);

    let restarted = world.open();
    restarted.adopt(&kept.attached);
    let removed = restarted.sweep(&BTreeSet::from(["a".repeat(64)])).unwrap();
    assert_eq!(world.census(), with_kept);
    assert!(removed.iter().any(|name| name.contains(&lost.attached.owner)), "{removed:?}");
    assert!(!removed.iter().any(|name| name.contains(&kept.attached.owner)), "{removed:?}");

    // The pod that was lost can be attached anew, and a second sweep finds only what is new.
    attach(world, &*restarted, &wish('b', &[8081])).unwrap();
    restarted.sweep(&BTreeSet::new()).unwrap();
    assert_eq!(world.census(), before);
    attach(world, &*restarted, &wish('c', &[8080, 8081])).unwrap();
}
