//! With the plugins that clusters use.

use super::*;
use crate::subnet::Subnet;

/// A host with a bridge network of plugins for the contract suite.
struct Host {
    top: tempfile::TempDir,
}

impl Host {
    fn new(subnet: &str) -> Self {
        let host = Self { top: tempfile::tempdir().unwrap() };
        let leases = host.top.path().join("leases");
        let text = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                { "type": "bridge", "bridge": "cni-test", "isGateway": true, "ipMasq": true, "ipam": {
                    "type": "host-local", "dataDir": leases, "ranges": [[{ "subnet": subnet }]],
                    "routes": [{ "dst": "0.0.0.0/0" }] } },
                { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
            ],
        });
        write(&host.top.path().join("net.d/10-pods.conflist"), &text.to_string(), 0o600);
        host
    }

    fn cni(&self) -> Cni {
        Cni::open(&config(self.top.path())).unwrap()
    }
}

impl World for Host {
    fn open(&self) -> Box<dyn PodNetwork> {
        Box::new(self.cni())
    }

    fn namespace(&self) -> OwnedFd {
        fresh_namespace()
    }

    /// Plugins name no kind of failure for it.
    fn is_full(&self, refusal: &NetworkError) -> bool {
        refusal.to_string().contains("no IP addresses available")
    }

    fn census(&self) -> Vec<String> {
        let links = run("ip -o link show type veth");
        let mut all: Vec<String> =
            links.lines().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect();
        let journal = fs::read_dir(self.top.path().join("journal")).into_iter().flatten().flatten();
        assert_eq!(journal.count(), all.len(), "a note for each pod");
        let rules = run("iptables-save -t nat");
        all.extend(rules.lines().filter(|line| line.contains("-j DNAT")).map(str::to_owned));
        let leases =
            fs::read_dir(self.top.path().join("leases/pods")).into_iter().flatten().flatten();
        let names = leases.map(|entry| entry.file_name().into_string().unwrap());
        let held = names.filter(|name| name.starts_with("10."));
        assert_eq!(held.count(), links.lines().count(), "a lease for each pod");
        all
    }
}

#[test]
fn privileged_plugins_keep_the_contract() {
    on_a_host(|| {
        contract::run(|subnet: Subnet| {
            // The thread moves on to another host, and the one before ends with all its pods.
            enter_fresh_namespace();
            crate::bridge::loopback_up(crate::bridge::testing::current_namespace().as_fd())
                .unwrap();
            Host::new(&subnet.to_string())
        });
    });
}

#[test]
fn privileged_pods_of_plugins_reach_each_other_and_are_checked() {
    use crate::bridge::testing::{Server, connect};
    on_a_host(|| {
        let host = Host::new("10.55.0.0/24");
        let cni = host.cni();
        assert_eq!(cni.status().unwrap(), [""; 0]);
        let (one, two) = (fresh_namespace(), fresh_namespace());
        let paths = [&one, &two].map(contract::Path::to);
        let first = attach(&cni, &wish('a', &paths[0])).unwrap();
        let second = attach(&cni, &wish('b', &paths[1])).unwrap();
        assert_eq!((first.kind, first.interface.as_str()), (Kind::Cni, "eth0"));
        assert!(first.host_link.starts_with("veth"), "{first:?}");
        let server = crate::inside::inside(two.as_fd(), || Server::start(80)).unwrap();
        let reached =
            || crate::inside::inside(one.as_fd(), || connect(second.addresses[0], 80)).unwrap();
        assert_eq!(server.reached_by(reached), first.addresses[0]);
        cni.verify(&first).unwrap();
        crate::inside::inside(one.as_fd(), || run("ip link delete eth0")).unwrap();
        let err = cni.verify(&first).unwrap_err();
        assert!(err.to_string().contains("CHECK"), "{err}");
        cni.detach(&first).unwrap();
        cni.detach(&second).unwrap();
        assert_eq!(host.census(), [""; 0]);
    });
}

/// A reboot takes namespaces and rules away, and leaves the leases of host-local on the disk.
#[test]
fn privileged_leases_of_plugins_are_given_back_after_a_reboot() {
    let host = Host::new("10.55.0.0/24");
    on_a_host(|| {
        let cni = host.cni();
        for digit in ['a', 'b', 'c'] {
            let namespace = fresh_namespace();
            attach(&cni, &wish(digit, &contract::Path::to(&namespace))).unwrap();
        }
    });
    on_a_host(|| {
        let leases = || {
            fs::read_dir(host.top.path().join("leases/pods"))
                .unwrap()
                .flatten()
                .filter(|entry| entry.file_name().to_str().unwrap().starts_with("10."))
                .count()
        };
        assert_eq!(leases(), 3);
        // The configuration is another one by now.
        fs::remove_file(host.top.path().join("net.d/10-pods.conflist")).unwrap();
        let swept = host.cni().sweep(&BTreeSet::new()).unwrap();
        assert_eq!((swept.len(), leases()), (3, 0));
        assert_eq!(host.census(), [""; 0]);
    });
}

#[test]
fn privileged_other_plugins_of_debian_work_in_chains() {
    on_a_host(|| {
        run("ip link add up0 type veth peer name up1");
        run("ip link set up0 up");
        run("ip link set up1 up");
        let ipam = |top: &Path| serde_json::json!({ "type": "host-local", "dataDir": top.join("leases"), "subnet": "10.56.0.0/24" });
        let cases = ["ptp", "macvlan"];
        for kind in cases {
            let top = tempfile::tempdir().unwrap();
            let text = serde_json::json!({
                "cniVersion": "0.4.0", "name": "chain", "plugins": [
                    { "type": kind, "master": "up0", "ipam": ipam(top.path()) },
                    { "type": "tuning", "sysctl": { "net.ipv4.conf.all.log_martians": "1" } },
                    { "type": "bandwidth", "capabilities": { "bandwidth": true } },
                    { "type": "firewall" },
                ],
            });
            let mut text = text;
            if kind == "macvlan" {
                text["plugins"].as_array_mut().unwrap().truncate(2);
            }
            write(&top.path().join("net.d/10.conflist"), &text.to_string(), 0o600);
            write(
                &top.path().join("net.d/20.conf"),
                r#"{"cniVersion":"0.3.1","name":"later","type":"loopback"}"#,
                0o600,
            );
            let cni = Cni::open(&config(top.path())).unwrap();
            let before = run("ip -o link").lines().count();
            let namespace = fresh_namespace();
            let path = contract::Path::to(&namespace);
            let mut wish = wish('a', &path);
            wish.bandwidth.ingress = Some(10_000_000);
            let pod = attach(&cni, &wish).unwrap();
            assert_eq!(pod.addresses, ["10.56.0.2".parse::<std::net::IpAddr>().unwrap()], "{kind}");
            let martians = crate::inside::inside(namespace.as_fd(), || {
                run("sysctl -n net.ipv4.conf.all.log_martians")
            })
            .unwrap();
            assert_eq!(martians, "1\n", "{kind}");
            if kind == "ptp" {
                assert!(run("tc qdisc show").contains("rate 10Mbit"), "{kind}");
            }
            cni.detach(&pod).unwrap();
            assert_eq!(run("ip -o link").lines().count(), before, "{kind}");
        }
    });
}

use std::os::fd::AsFd;
