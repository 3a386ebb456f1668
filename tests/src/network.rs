//! What the suites of the pod network need: other settings of it, servers in pods, and clients.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use cri_api::runtime::v1::{
    NetworkConfig, PodSandboxConfig, PortMapping, Protocol, RuntimeCondition, RuntimeConfig,
    StatusRequest, UpdateRuntimeConfigRequest,
};

use crate::daemon::write;
use crate::patience::eventually;
use crate::pods::Pod;
use crate::process::succeed;
use crate::world::World;

impl World {
    /// Starts the daemon anew with `lines` in its section `[network]`, in the place of those of the same keys; what is there
    /// then is what the census is compared with.
    pub fn restart_with_network(&mut self, lines: &[&str]) {
        let path = self.config_path();
        let text = std::fs::read_to_string(&path).expect("read the configuration");
        let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        let keys: Vec<String> = lines.iter().map(|line| key(line)).collect();
        let kept: Vec<&str> = text.lines().filter(|line| !keys.contains(&key(line))).collect();
        let section = format!("[network]\n{}", lines.join("\n"));
        write(&path, &kept.join("\n").replace("[network]", &section));
        self.restart_daemon();
        self.accept_what_is_there();
    }

    /// Tells the node's pod CIDR as kubelet does.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub fn tell_pod_cidr(&self, cidr: &str) -> Result<(), tonic::Status> {
        let network_config = Some(NetworkConfig { pod_cidr: cidr.to_owned() });
        let runtime_config = Some(RuntimeConfig { network_config });
        self.cri().update_runtime_config(UpdateRuntimeConfigRequest { runtime_config }).map(|_| ())
    }

    /// The condition that says whether pods can have a network.
    pub fn network_condition(&self) -> RuntimeCondition {
        let answer = self.cri().status(StatusRequest { verbose: false }).expect("status");
        let conditions = answer.status.expect("an answer has a status").conditions;
        let network = conditions.into_iter().find(|one| one.r#type == "NetworkReady");
        network.expect("a status has the condition NetworkReady")
    }

    /// A pod that serves its name over HTTP on port 80 of every address.
    pub fn run_web_pod(&self, config: PodSandboxConfig) -> Pod {
        let name = config.hostname.clone();
        let pod = self.run_pod_from(config);
        let script = format!(
            "mkdir -p /www; echo {name} >/www/index.html; exec httpd -f -p '[::]:80' -h /www"
        );
        self.run_shell(&pod, "web", &script);
        pod
    }

    /// All addresses of a pod.
    pub fn addresses(&self, pod: &Pod) -> Vec<String> {
        let network = self.pod_status(&pod.id).network.expect("a status has a network");
        std::iter::once(network.ip)
            .chain(network.additional_ips.into_iter().map(|ip| ip.ip))
            .collect()
    }
}

/// A host port of TCP that leads to port 80.
pub fn host_port(host_port: i32, host_ip: &str) -> PortMapping {
    PortMapping {
        protocol: Protocol::Tcp.into(),
        container_port: 80,
        host_port,
        host_ip: host_ip.to_owned(),
    }
}

/// What a web server at `address` answers; tried until it is there.
pub fn fetched(address: &str) -> String {
    let answer = eventually(|| fetch(address).ok().filter(|text| text.contains("200 OK")));
    let answer =
        answer.unwrap_or_else(|| panic!("{address} does not answer: {:?}", fetch(address)));
    answer.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_owned()
}

/// One attempt.
///
/// # Errors
///
/// Nobody is there, or the connection breaks.
pub fn fetch(address: &str) -> io::Result<String> {
    let address: SocketAddr = address.parse().expect("an address with a port");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Runs a program in the test's network and gives what it prints.
pub fn run(command: &str) -> String {
    let mut words = command.split(' ');
    succeed(Command::new(words.next().unwrap_or_default()).args(words))
}
