//! The bridge on the real kernel, in network namespaces that each test makes for itself.

mod dual;
pub(crate) mod host;
mod identity;
mod life;
mod others;
mod shape;
mod traffic;

use std::os::fd::AsFd;

use super::*;
use crate::config::Forward;
use crate::contract;
use crate::network::{PortMapping, Protocol};
use host::{Pod, fresh_namespace};

fn config(subnet: &str) -> BridgeConfig {
    BridgeConfig {
        name: "berth0".into(),
        subnets: Some(subnet.parse().unwrap()),
        mtu: None,
        table: "berth".into(),
        forward: Forward::Report,
    }
}

fn open() -> Bridge {
    Bridge::open(config("10.88.0.0/16")).unwrap()
}

fn attach(bridge: &Bridge, wish: &NetworkWish) -> Pod {
    let namespace = fresh_namespace();
    let attached = bridge.attach(namespace.as_fd(), bridge.check(wish).unwrap()).unwrap();
    Pod { namespace, attached }
}

/// A wish of the pod whose id is all `digit`, for host ports that lead to port 80.
fn wish(digit: char, ports: &[(Protocol, Option<&str>, u16)]) -> NetworkWish {
    let mut wish = contract::wish(digit, &[]);
    wish.ports = ports
        .iter()
        .map(|&(protocol, host_ip, host_port)| PortMapping {
            protocol,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port: 80,
        })
        .collect();
    wish
}
