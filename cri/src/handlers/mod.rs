//! Runtime handlers: who runs a pod's containers. Ours is always there; the programs of other OCI runtimes are added by
//! the configuration of the node, and by nothing else: no request, image or record ever names a program.

mod probe;

use crate::config::Config;
use plan::ExecCgroup;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of our own runtime, beside the empty one.
pub(crate) const OWN: &str = "berth";

/// All handlers of the node.
#[derive(Debug)]
pub(crate) struct Handlers {
    /// What a pod gets that names none; [`OWN`] or one of `others`.
    default: String,
    others: BTreeMap<String, Arc<Handler>>,
    own: Features,
}

/// A handler that is not our own.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) options: Vec<String>,
    /// Where the program keeps its state.
    pub(crate) root: PathBuf,
    /// Whether that is a directory of ours, in which nobody else has anything.
    pub(crate) owns_root: bool,
    pub(crate) timeout_ms: u64,
    pub(crate) host_devices: bool,
    pub(crate) features: Features,
    pub(crate) exec_cgroup: ExecCgroup,
}

/// What a handler can do that kubelet asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) recursive_read_only_mounts: bool,
    pub(crate) user_namespaces: bool,
}

/// Who runs the containers of a pod.
#[derive(Clone, Debug)]
pub(crate) enum Runner {
    /// The pod's monitor itself.
    Own,
    /// The pod's monitor, by a program.
    Other(Arc<Handler>),
}

/// No handler has that name.
#[derive(Debug, thiserror::Error)]
#[error("no runtime handler {name:?} is configured; there are: {known}")]
pub(crate) struct UnknownHandler {
    name: String,
    known: String,
}

impl Handlers {
    /// Takes the handlers of the configuration and asks each program what it can do. One that does not answer stays a
    /// handler, without features: that costs its pods, and not the node.
    ///
    /// `user_namespaces` says whether our own runtime can make those here. The others do not get any from us yet, whatever
    /// they can do.
    pub(crate) fn open(config: &Config, user_namespaces: bool) -> Self {
        let mut others = BTreeMap::new();
        for (name, wish) in &config.handlers {
            let owns_root = wish.root.as_os_str().is_empty();
            let root = if owns_root {
                config.state.join("handlers").join(name)
            } else {
                wish.root.clone()
            };
            if owns_root && let Err(err) = make_directory(&root) {
                tracing::error!(handler = name, directory = %root.display(), %err, "make");
            }
            let found = probe::probe(&wish.binary);
            if let Err(err) = &found {
                let err = crate::chain::chain(err);
                tracing::error!(handler = name, program = %wish.binary.display(), err, "probe");
            }
            let found = found.unwrap_or_default();
            let handler = Handler {
                name: name.clone(),
                program: wish.binary.clone(),
                options: wish.options.clone(),
                root,
                owns_root,
                timeout_ms: wish.timeout_ms,
                host_devices: !wish.privileged_without_host_devices,
                features: found.features,
                exec_cgroup: found.exec_cgroup,
            };
            others.insert(name.clone(), Arc::new(handler));
        }
        let own = Features { recursive_read_only_mounts: true, user_namespaces };
        Self { default: config.default_handler.clone(), others, own }
    }

    /// The name of the handler that a pod gets which asks for `name`.
    pub(crate) fn resolve(&self, name: &str) -> Result<String, UnknownHandler> {
        let name = if name.is_empty() { &self.default } else { name };
        self.runner(name).map(|_| name.to_owned())
    }

    /// Who runs the containers of a pod that got `name`.
    pub(crate) fn runner(&self, name: &str) -> Result<Runner, UnknownHandler> {
        if name == OWN {
            return Ok(Runner::Own);
        }
        let found = self.others.get(name).map(|handler| Runner::Other(Arc::clone(handler)));
        found.ok_or_else(|| {
            let known: Vec<&str> =
                std::iter::once(OWN).chain(self.others.keys().map(String::as_str)).collect();
            let name = name.chars().take(100).collect();
            UnknownHandler { name, known: known.join(", ") }
        })
    }

    /// Each name that a pod can ask for, with what it gets. The empty one is the default.
    pub(crate) fn features(&self) -> Vec<(String, Features)> {
        let own = std::iter::once((OWN.to_owned(), self.own));
        let others = self.others.values().map(|handler| (handler.name.clone(), handler.features));
        let named: Vec<_> = own.chain(others).collect();
        let default = named.iter().find(|(name, _)| *name == self.default);
        let default = default.map_or(self.own, |(_, features)| *features);
        std::iter::once((String::new(), default)).chain(named).collect()
    }

    /// The programs' own directories, where they are ours to sweep.
    pub(crate) fn own_roots(&self) -> impl Iterator<Item = &PathBuf> {
        self.others.values().filter(|handler| handler.owns_root).map(|handler| &handler.root)
    }
}

/// Makes a directory for root alone, where it is missing.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handlers(text: &str) -> Handlers {
        let state = tempfile::tempdir().unwrap();
        let config: Config = toml::from_str(text).unwrap();
        Handlers::open(&Config { state: state.path().to_owned(), ..config }, true)
    }

    #[test]
    fn names_lead_to_runners() {
        let all = handlers("[handlers.other]\nbinary = \"/nonexistent\"\n");
        assert_eq!(all.resolve("").unwrap(), OWN);
        assert!(matches!(all.runner(OWN).unwrap(), Runner::Own));
        assert!(matches!(all.runner("other").unwrap(), Runner::Other(_)));
        let unknown = all.resolve("kata").unwrap_err().to_string();
        assert!(unknown.contains("\"kata\"") && unknown.contains("berth, other"), "{unknown}");
    }

    #[test]
    fn a_program_that_is_not_there_has_no_features() {
        let all =
            handlers("default_handler = \"other\"\n[handlers.other]\nbinary = \"/nonexistent\"\n");
        let features = all.features();
        let names: Vec<&str> = features.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["", OWN, "other"]);
        assert_eq!(features[0].1, Features::default(), "the default is the other one");
        assert!(features[1].1.user_namespaces, "our own can");
    }
}
