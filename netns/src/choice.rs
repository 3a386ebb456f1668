//! The networks of a node, and which of them a new pod gets.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::bridge::Bridge;
use crate::cni::{Cni, CniConfig, CniError};
use crate::config::BridgeConfig;
use crate::error::NetworkError;
use crate::netlink::{Refusal, Socket};
use crate::network::{Attached, Checked, Kind, NetworkWish, PodNetwork};
use crate::route;
use crate::subnet::Subnets;

/// Which network new pods get. Running ones keep theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The built-in bridge.
    Builtin,
    /// Plugins; without a configuration of theirs, none.
    Cni,
    /// Plugins while there is a configuration of theirs, and the built-in bridge while there is none.
    #[default]
    Auto,
}

/// Both networks, of which the bridge is only made where pods need it.
#[derive(Debug)]
pub struct Networks {
    mode: Mode,
    config: Mutex<BridgeConfig>,
    bridge: Mutex<Option<Arc<Bridge>>>,
    cni: Option<Cni>,
}

impl Networks {
    /// Opens what `mode` needs, and the bridge where there is one of an earlier daemon.
    ///
    /// # Errors
    /// As [`Bridge::open`] and [`Cni::open`].
    pub fn open(mode: Mode, bridge: BridgeConfig, cni: &CniConfig) -> Result<Self, NetworkError> {
        // Pods may have been made with plugins before the mode was changed.
        let wanted = mode != Mode::Builtin || cni.journal.exists();
        let networks = Self {
            mode,
            cni: wanted.then(|| Cni::open(cni)).transpose()?,
            config: Mutex::new(bridge),
            bridge: Mutex::default(),
        };
        if let (Some(cni), Some(subnets)) = (&networks.cni, &networks.config().subnets) {
            cni.move_to(subnets);
        }
        if networks.next() == Kind::Builtin || networks.has_left_a_bridge()? {
            networks.builtin()?;
        }
        Ok(networks)
    }

    /// Where pods get their addresses from, from now on: the built-in bridge's, and those of plugins that ask.
    ///
    /// # Errors
    /// As [`Bridge::move_to`].
    pub fn move_to(&self, subnets: &Subnets) -> Result<(), NetworkError> {
        self.config().subnets = Some(subnets.clone());
        if let Some(cni) = &self.cni {
            cni.move_to(subnets);
        }
        let bridge = self.opened();
        bridge.map_or(Ok(()), |bridge| bridge.move_to(subnets))
    }

    /// What the next pod gets.
    fn next(&self) -> Kind {
        match (self.mode, &self.cni) {
            (Mode::Cni, _) => Kind::Cni,
            (Mode::Auto, Some(cni)) if cni.is_configured() => Kind::Cni,
            (Mode::Auto | Mode::Builtin, _) => Kind::Builtin,
        }
    }

    /// The bridge, made if it is not there yet.
    fn builtin(&self) -> Result<Arc<Bridge>, NetworkError> {
        let mut bridge = self.bridge.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bridge) = &*bridge {
            return Ok(Arc::clone(bridge));
        }
        let config = self.config().clone();
        let opened = Arc::new(Bridge::open(config)?);
        *bridge = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn opened(&self) -> Option<Arc<Bridge>> {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn cni(&self) -> Result<&Cni, NetworkError> {
        let none = || CniError::NoConfiguration("network plugins are not configured".to_owned());
        Ok(self.cni.as_ref().ok_or_else(none)?)
    }

    fn config(&self) -> MutexGuard<'_, BridgeConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_left_a_bridge(&self) -> Result<bool, NetworkError> {
        let name = self.config().name.clone();
        match Socket::route().and_then(|mut socket| route::find_link(&mut socket, &name)) {
            Ok(_) => Ok(true),
            Err(crate::netlink::Error::Refused(Refusal { errno: Errno::NODEV, .. })) => Ok(false),
            Err(source) => {
                Err(NetworkError::Kernel { step: "look up bridge", object: name, source })
            }
        }
    }

    /// The network of pods of `kind`.
    fn of<T>(
        &self,
        kind: Kind,
        work: impl FnOnce(&dyn PodNetwork) -> Result<T, NetworkError>,
    ) -> Result<T, NetworkError> {
        match kind {
            Kind::Builtin => work(&*self.builtin()?),
            Kind::Cni => work(self.cni()?),
        }
    }
}

impl PodNetwork for Networks {
    fn check(&self, wish: &NetworkWish) -> Result<Checked, NetworkError> {
        self.of(self.next(), |network| network.check(wish))
    }

    fn attach(&self, netns: BorrowedFd<'_>, plan: Checked) -> Result<Attached, NetworkError> {
        self.of(plan.kind, |network| network.attach(netns, plan))
    }

    fn detach(&self, attached: &Attached) -> Result<(), NetworkError> {
        self.of(attached.kind, |network| network.detach(attached))
    }

    fn adopt(&self, attached: &Attached) {
        let adopted = self.of(attached.kind, |network| {
            network.adopt(attached);
            Ok(())
        });
        if let Err(err) = adopted {
            let owner = &attached.owner;
            tracing::error!(owner, error = %err, "the network that a pod was made with cannot be opened");
        }
    }

    fn sweep(&self, owners: &BTreeSet<String>) -> Result<Vec<String>, NetworkError> {
        // Both are tried, whatever becomes of the other.
        let of_bridge = self.opened().map_or(Ok(Vec::new()), |bridge| bridge.sweep(owners));
        let of_plugins = self.cni.as_ref().map_or(Ok(Vec::new()), |cni| cni.sweep(owners));
        Ok([of_bridge?, of_plugins?].concat())
    }

    fn status(&self) -> Result<Vec<String>, NetworkError> {
        self.of(self.next(), |network| network.status())
    }

    fn verify(&self, attached: &Attached) -> Result<(), NetworkError> {
        self.of(attached.kind, |network| network.verify(attached))
    }
}
