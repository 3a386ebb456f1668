//! Times of the built-in pod network: attach and detach beside few and many pods, and what its traffic costs beside a bare pair
//! of links in the same run. `hack/bench net` runs it, as root; everything happens in network namespaces of its own.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench, run by hand")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use netns::{
    Attached, Bridge, BridgeConfig, Forward, NetworkWish, PodNetwork, PortMapping, Protocol,
    loopback_up,
};
use nix::sched::{CloneFlags, setns, unshare};

/// How many pods are attached and detached for each row.
const POD_COUNT: usize = 40;
const LANES: usize = 8;
const TRAFFIC: Duration = Duration::from_secs(1);

fn main() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root makes network namespaces");
    loopback_up(here().as_fd()).unwrap();
    println!("{:<44} {:>10} {:>10} {:>10}", "pods present", 0, 100, 250);
    let columns: Vec<[Duration; 4]> = [0, 100, 250].map(times).into();
    let rows = [
        "attach, one by one",
        "detach, one by one",
        "attach, 8 at a time, a pod",
        "detach, 8 at a time, a pod",
    ];
    for (row, name) in rows.iter().enumerate() {
        let shown: Vec<String> =
            columns.iter().map(|times| format!("{:>8.2}ms", ms(times[row]))).collect();
        println!("{name:<44} {}", shown.join(" "));
    }
    traffic();
}

/// Medians of attach and detach one by one; and of all, 8 at a time, the time a pod.
fn times(present: usize) -> [Duration; 4] {
    let bridge = open();
    let standing: Vec<(OwnedFd, Attached)> =
        (0..present).map(|number| attached(&bridge, number)).collect();
    let spaces: Vec<OwnedFd> = (0..POD_COUNT).map(|_| namespace()).collect();
    let (mut attach, mut detach) = (Vec::new(), Vec::new());
    for (number, space) in spaces.iter().enumerate() {
        let begun = Instant::now();
        let pod = attach_to(&bridge, space, 1000 + number);
        attach.push(begun.elapsed());
        let begun = Instant::now();
        bridge.detach(&pod).unwrap();
        detach.push(begun.elapsed());
    }
    let spaces: Vec<OwnedFd> = (0..POD_COUNT).map(|_| namespace()).collect();
    let numbered: Vec<(usize, OwnedFd)> = spaces.into_iter().enumerate().collect();
    let begun = Instant::now();
    let pods: Vec<Attached> =
        side_by_side(&numbered, |(number, space)| attach_to(&bridge, space, 2000 + number));
    let attached_in = begun.elapsed() / u32::try_from(POD_COUNT).unwrap();
    let begun = Instant::now();
    side_by_side(&pods, |pod| bridge.detach(pod).unwrap());
    let detached_in = begun.elapsed() / u32::try_from(POD_COUNT).unwrap();
    for (_, pod) in &standing {
        bridge.detach(pod).unwrap();
    }
    [median(attach), median(detach), attached_in, detached_in]
}

fn side_by_side<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let lanes: Vec<_> = all
            .chunks(all.len().div_ceil(LANES))
            .map(|lane| scope.spawn(|| lane.iter().map(&work).collect::<Vec<R>>()))
            .collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    })
}

fn traffic() {
    let bridge = open();
    let (one, first) = attached(&bridge, 1);
    let (two, _) = attached(&bridge, 2);
    let (left, right) = (namespace(), namespace());
    let path = |space: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), space.as_raw_fd());
    run(&format!(
        "ip link add a0 netns {} type veth peer name b0 netns {}",
        path(&left),
        path(&right)
    ));
    for (space, link, address) in [(&left, "a0", "192.0.2.1/24"), (&right, "b0", "192.0.2.2/24")] {
        inside(space, || {
            run(&format!("ip address add {address} dev {link}"));
            run(&format!("ip link set {link} up"));
        });
    }
    let outside = namespace();
    run(&format!("ip link add wire0 type veth peer name wire1 netns {}", path(&outside)));
    run("ip address add 203.0.113.1/24 dev wire0");
    run("ip link set wire0 up");
    inside(&outside, || {
        run("ip address add 203.0.113.2/24 dev wire1");
        run("ip link set wire1 up");
    });
    println!(
        "\n{:<44} {:>10} {:>14}",
        "one TCP stream, and one connection after the other", "GB/s", "connections/s"
    );
    let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
    let bare = at([192, 0, 2, 2].into(), 80);
    let routes = [
        ("bare pair of links", &left, &right, bare),
        ("pod to pod", &two, &one, at(first.addresses[0], 80)),
        ("outside to host port", &outside, &one, at([203, 0, 113, 1].into(), 30001)),
        ("bare pair of links, again", &left, &right, bare),
    ];
    for (name, client, server, address) in routes {
        let listener = inside(server, || TcpListener::bind("0.0.0.0:80").unwrap());
        let bytes = stream(&listener, client, address);
        let connections = connections(&listener, client, address);
        println!("{name:<44} {:>10.2} {connections:>14.0}", bytes / 1e9);
    }
}

/// Bytes per second from client to server.
fn stream(listener: &TcpListener, client: &OwnedFd, to: SocketAddr) -> f64 {
    let mut sender = inside(client, || TcpStream::connect(to).unwrap());
    let (mut receiver, _) = listener.accept().unwrap();
    let begun = Instant::now();
    let received = thread::scope(|scope| {
        scope.spawn(move || {
            let block = vec![0; 128 * 1024];
            while begun.elapsed() < TRAFFIC {
                sender.write_all(&block).unwrap();
            }
        });
        let mut block = vec![0; 128 * 1024];
        let mut received = 0_u64;
        loop {
            match receiver.read(&mut block).unwrap() {
                0 => break received,
                read => received += read as u64,
            }
        }
    });
    rate(received, begun.elapsed())
}

/// Connections per second: made, accepted, closed.
fn connections(listener: &TcpListener, client: &OwnedFd, to: SocketAddr) -> f64 {
    let begun = Instant::now();
    let made = inside(client, || {
        let mut made = 0;
        while begun.elapsed() < TRAFFIC {
            let mut connection = TcpStream::connect(to).unwrap();
            drop(listener.accept().unwrap());
            // The server closes first, so that the client's ports are free again.
            connection.read_to_end(&mut Vec::new()).ok();
            made += 1;
        }
        made
    });
    rate(made, begun.elapsed())
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn open() -> Bridge {
    Bridge::open(BridgeConfig {
        name: "berth-bench".into(),
        subnets: Some("10.99.0.0/16".parse().unwrap()),
        mtu: None,
        table: "berth-bench".into(),
        forward: Forward::Report,
    })
    .unwrap()
}

fn attached(bridge: &Bridge, number: usize) -> (OwnedFd, Attached) {
    let space = namespace();
    let pod = attach_to(bridge, &space, number);
    (space, pod)
}

/// A pod with a host port, 30000 and its number.
fn attach_to(bridge: &Bridge, space: &OwnedFd, number: usize) -> Attached {
    let port = PortMapping {
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port: u16::try_from(30_000 + number).unwrap(),
        container_port: 80,
    };
    let owner = format!("{number:08x}").repeat(8);
    let wish = NetworkWish { owner, ports: vec![port], ..NetworkWish::default() };
    bridge.attach(space.as_fd(), bridge.check(&wish).unwrap()).unwrap()
}

fn namespace() -> OwnedFd {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        here()
    })
    .join()
    .unwrap()
}

fn here() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").unwrap().into()
}

fn inside<T: Send>(space: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            setns(space, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        visitor.join().unwrap()
    })
}

fn run(command: &str) {
    let mut words = command.split(' ');
    assert!(
        Command::new(words.next().unwrap()).args(words).status().unwrap().success(),
        "{command}"
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
