//! Limits of traffic.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::host::{connect, everything, on_a_host, run};
use super::*;
use crate::network::Bandwidth;

#[test]
fn privileged_limits_hold_and_leave_nothing() {
    on_a_host(|| {
        let bridge = open();
        let before = everything();
        let mut limited = wish('a', &[]);
        limited.bandwidth = Bandwidth { ingress: Some(80_000_000), egress: Some(40_000_000) };
        let pod = attach(&bridge, &limited);
        let queues = run("tc qdisc show");
        assert!(queues.contains("rate 80Mbit") && queues.contains("rate 40Mbit"), "{queues}");
        // 1 MiB beyond the burst takes at least 0.1 s and 0.2 s; without limits, some milliseconds.
        let (into, out_of) = (transfer(&pod, true), transfer(&pod, false));
        println!("1 MiB into the pod in {into:?}, out of it in {out_of:?}");
        assert!(into > Duration::from_millis(70), "{into:?}");
        assert!(out_of > Duration::from_millis(150), "{out_of:?}");
        // The limited pod is swept as any other.
        let mut removed = bridge.sweep(&BTreeSet::new()).unwrap();
        removed.sort();
        assert_eq!(removed, ["link bsaaaaaaaaaaaaa", "link bvaaaaaaaaaaaaa"]);
        assert_eq!(everything(), before);
        let again = attach(&bridge, &limited);
        bridge.detach(&again.attached).unwrap();
        assert_eq!(everything(), before);
        limited.bandwidth.egress = Some(10);
        let refused = bridge.check(&limited).unwrap_err();
        assert!(matches!(refused, NetworkError::Bandwidth(10)), "{refused:?}");
    });
}

/// How long 1 MiB takes into the pod or out of it.
fn transfer(pod: &Pod, into: bool) -> Duration {
    const BYTES: usize = 1 << 20;
    let port = if into { 80 } else { 81 };
    let listener = pod.inside(|| std::net::TcpListener::bind(("0.0.0.0", port)).unwrap());
    let outer = connect(pod.address(), port).unwrap();
    let (inner, _) = listener.accept().unwrap();
    let (from, to) = if into { (outer, inner) } else { (inner, outer) };
    let send = |mut stream: TcpStream| stream.write_all(&vec![0; BYTES]).unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| send(from));
        let mut to = to;
        let mut read = Vec::new();
        to.read_to_end(&mut read).unwrap();
        assert_eq!(read.len(), BYTES);
    });
    start.elapsed()
}
