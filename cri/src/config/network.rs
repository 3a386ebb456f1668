//! The section `[network]`.

use super::ConfigError;
use netns::{BridgeConfig, CniConfig, Forward, Mode, Subnets};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Network {
    pub(crate) mode: Mode,
    pub(crate) bridge: String,
    pub(crate) subnet: String,
    pub(crate) table: String,
    pub(crate) mtu: u32,
    pub(crate) forward: Forward,
    pub(crate) cni_config: PathBuf,
    pub(crate) cni_plugins: Vec<PathBuf>,
    pub(crate) cni_timeout_s: u64,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            bridge: "berth0".into(),
            subnet: "10.88.0.0/16".into(),
            table: "berth".into(),
            mtu: 0,
            forward: Forward::Report,
            cni_config: "/etc/cni/net.d".into(),
            cni_plugins: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cni_timeout_s: 60,
        }
    }
}

impl Network {
    /// The subnets that the configuration names; `None` where it leaves that to kubelet.
    pub(crate) fn subnets(&self) -> Result<Option<Subnets>, ConfigError> {
        if self.subnet.is_empty() {
            return Ok(None);
        }
        self.subnet.parse().map(Some).map_err(ConfigError::Subnet)
    }

    /// The built-in bridge as configured, with `subnets` as its addresses.
    pub(crate) fn bridge(&self, subnets: Option<Subnets>) -> BridgeConfig {
        BridgeConfig {
            name: self.bridge.clone(),
            subnets,
            mtu: Some(self.mtu).filter(|mtu| *mtu != 0),
            table: self.table.clone(),
            forward: self.forward,
        }
    }

    /// Network plugins as configured; their attachments are noted in `journal`.
    pub(crate) fn cni(&self, journal: PathBuf) -> CniConfig {
        CniConfig {
            directory: self.cni_config.clone(),
            plugins: self.cni_plugins.clone(),
            journal,
            limit: Duration::from_secs(self.cni_timeout_s.max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_subnet_is_left_to_kubelet_and_a_wrong_one_refused() {
        let network = |subnet: &str| Network { subnet: subnet.into(), ..Network::default() };
        assert_eq!(network("").subnets().unwrap(), None);
        assert!(network("10.88.0.0/16,fd00::/64").subnets().unwrap().unwrap().has_ipv6());
        assert!(matches!(network("10.88.0.1/16").subnets(), Err(ConfigError::Subnet(_))));
    }
}
