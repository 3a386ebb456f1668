//! Pod networks by plugins of the Container Network Interface, versions 0.3.1 to 1.1.0.
//!
//! ```text
//!   attach:  note ─▶ ADD, plugin after plugin ─▶ note with the result        (a failing ADD is followed by DEL)
//!   detach:  DEL, the last plugin first ─▶ note removed                       (a failing DEL is tried again until it succeeds)
//! ```
//!
//! The note is what makes it safe: whatever plugins have taken (addresses, above all) belongs to a note, and the note stays
//! until a DEL has given it back, also without the pod's namespace, without the configuration, after a reboot. Plugins run side
//! by side for different pods; each has a time limit.

mod answer;
mod config;
mod deletions;
mod directory;
mod error;
mod journal;
mod plugin;
mod question;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};

pub use error::CniError;
pub use plugin::Command;

use crate::error::NetworkError;
use crate::ledger::free_ports;
use crate::network::{Attached, Checked, Kind, NetworkWish, PodNetwork, PortMapping};
use crate::subnet::Subnets;
use answer::Outcome;
use config::{List, Plugin, Version};
use deletions::Deletions;
use directory::Directory;
use journal::{Journal, Note};
use plugin::Call;
use question::Subject;

/// The name pods know their interface by.
const INTERFACE: &str = "eth0";

/// What an operator can choose about network plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniConfig {
    /// Where configurations are looked for, such as `/etc/cni/net.d`.
    pub directory: PathBuf,
    /// Where plugins are looked for, such as `/opt/cni/bin`.
    pub plugins: Vec<PathBuf>,
    /// Where attachments are noted; it has to outlive a reboot.
    pub journal: PathBuf,
    /// How long a plugin may take.
    pub limit: Duration,
}

/// The network of plugins.
#[derive(Debug)]
pub struct Cni {
    directory: Directory,
    work: Arc<Work>,
    deletions: Deletions,
    pod_cidr: Mutex<Option<Subnets>>,
    /// Host ports by owner, because plugins do not say whose they are.
    ports: Mutex<BTreeMap<String, Vec<PortMapping>>>,
    /// When plugins were last asked how they are, and what they said.
    health: Mutex<Option<Health>>,
}

/// What plugins said of themselves.
#[derive(Debug)]
struct Health {
    at: Instant,
    of: Arc<List>,
    answer: Result<(), String>,
}

/// A plugin's program, and the time of its last change.
type Program = (PathBuf, Option<SystemTime>);

/// What running plugins takes.
#[derive(Debug)]
struct Work {
    plugins: Vec<PathBuf>,
    journal: Journal,
    limit: Duration,
    /// Versions that plugins know.
    versions: Mutex<BTreeMap<Program, Vec<String>>>,
}

impl Cni {
    /// Reads the directory of configurations, and goes on doing so. A directory that is not there may come.
    ///
    /// # Errors
    /// The directory cannot be watched, or attachments cannot be noted.
    pub fn open(config: &CniConfig) -> Result<Self, CniError> {
        let work = Arc::new(Work {
            plugins: config.plugins.clone(),
            journal: Journal::open(&config.journal)?,
            limit: config.limit,
            versions: Mutex::default(),
        });
        Ok(Self {
            directory: Directory::open(&config.directory)?,
            deletions: Deletions::new(&work),
            work,
            pod_cidr: Mutex::default(),
            ports: Mutex::default(),
            health: Mutex::default(),
        })
    }

    /// Whether there is a configuration that could be used.
    pub fn is_configured(&self) -> bool {
        self.directory.found().list.is_some()
    }

    /// Tells plugins that ask for `ipRanges` where pods get their addresses from.
    pub fn move_to(&self, subnets: &Subnets) {
        *lock(&self.pod_cidr) = Some(subnets.clone());
    }

    fn list(&self) -> Result<Arc<List>, CniError> {
        let found = self.directory.found();
        found.list.ok_or_else(|| {
            let path = self.directory.path().display();
            let text = if found.remarks.is_empty() {
                format!("no network configuration is in {path}")
            } else {
                format!(
                    "no network configuration in {path} can be used: {}",
                    found.remarks.join("; ")
                )
            };
            CniError::NoConfiguration(text)
        })
    }

    fn ports(&self) -> MutexGuard<'_, BTreeMap<String, Vec<PortMapping>>> {
        lock(&self.ports)
    }

    fn add(&self, plan: &Checked) -> Result<Attached, NetworkError> {
        let list = self.list()?;
        self.work.check_versions(&list)?;
        let subject = Subject::new(plan, INTERFACE, lock(&self.pod_cidr).as_ref());
        let mut note = Note { list: (*list).clone(), subject, result: None };
        self.work.journal.write(&note)?;
        let outcome = self.work.add(&note).and_then(|(result, outcome)| {
            note.result = Some(result);
            self.work.journal.write(&note)?;
            Ok(outcome)
        });
        match outcome {
            Ok(outcome) => Ok(attached(&note.subject, outcome)),
            Err(err) => {
                self.deletions.delete(&plan.owner);
                Err(err.into())
            }
        }
    }

    /// Has plugins remove what belongs to nobody that they know of but we do not (GC, since 1.1.0).
    fn collect(&self, list: &List, owners: &BTreeSet<String>) {
        let wanted: Vec<(String, String)> =
            owners.iter().map(|owner| (owner.clone(), INTERFACE.to_owned())).collect();
        for plugin in &list.plugins {
            let input = question::collection(list, plugin, &wanted);
            if let Err(err) = self.work.call(plugin, Command::Gc, None, input) {
                tracing::warn!(plugin = plugin.kind, error = %err, "network plugin did not collect what is left over");
            }
        }
    }

    /// Asks plugins how they are (STATUS, since 1.1.0). Clients ask often, so an answer is good for a moment.
    fn health(&self, list: &Arc<List>) -> Result<(), NetworkError> {
        const MOMENT: Duration = Duration::from_secs(2);
        let mut health = lock(&self.health);
        let fresh = health.as_ref().filter(|last| last.at.elapsed() < MOMENT && last.of == *list);
        let answer = match fresh {
            Some(last) => last.answer.clone(),
            None => {
                let answer = self.work.status(list).map_err(|err| err.to_string());
                let of = Arc::clone(list);
                *health = Some(Health { at: Instant::now(), of, answer: answer.clone() });
                answer
            }
        };
        answer.map_err(|text| CniError::NoConfiguration(text).into())
    }
}

impl PodNetwork for Cni {
    fn check(&self, wish: &NetworkWish) -> Result<Checked, NetworkError> {
        let plan = Checked { kind: Kind::Cni, ..Checked::new(wish)? };
        let list = self.list()?;
        for plugin in &list.plugins {
            plugin::find(&plugin.kind, &self.work.plugins)?;
        }
        check_ports(&self.ports(), &plan.owner, &plan.ports)?;
        Ok(plan)
    }

    fn attach(&self, _netns: BorrowedFd<'_>, plan: Checked) -> Result<Attached, NetworkError> {
        if self.work.journal.has(&plan.owner) {
            return Err(NetworkError::AlreadyAttached(plan.owner));
        }
        {
            // Asked and noted in one step, so that of two pods that want a port at once one is refused.
            let mut ports = self.ports();
            check_ports(&ports, &plan.owner, &plan.ports)?;
            ports.insert(plan.owner.clone(), plan.ports.clone());
        }
        self.add(&plan).inspect_err(|_| {
            self.ports().remove(&plan.owner);
        })
    }

    /// Never fails for what plugins do: what they could not delete is tried again until they can.
    fn detach(&self, attached: &Attached) -> Result<(), NetworkError> {
        self.deletions.delete(&attached.owner);
        self.ports().remove(&attached.owner);
        Ok(())
    }

    fn adopt(&self, attached: &Attached) {
        self.ports().insert(attached.owner.clone(), attached.ports.clone());
    }

    fn sweep(&self, owners: &BTreeSet<String>) -> Result<Vec<String>, NetworkError> {
        /// Longer than that a start is not held up; deletions go on.
        const PATIENCE: Duration = Duration::from_secs(5);
        let noted = self.work.journal.owners()?;
        let unowned: Vec<String> =
            noted.into_iter().filter(|owner| !owners.contains(owner)).collect();
        self.deletions.delete_all(&unowned, PATIENCE);
        self.ports().retain(|owner, _| owners.contains(owner));
        if let Ok(list) = self.list()
            && list.version >= Version::V1_1_0
            && !list.disable_gc
        {
            self.collect(&list, owners);
        }
        Ok(unowned.into_iter().map(|owner| format!("network attachment of {owner}")).collect())
    }

    fn status(&self) -> Result<Vec<String>, NetworkError> {
        let list = self.list()?;
        self.health(&list)?;
        Ok(self.directory.found().remarks)
    }

    fn verify(&self, attached: &Attached) -> Result<(), NetworkError> {
        let missing = || NetworkError::Broken {
            object: "network attachment of",
            name: attached.owner.clone(),
            state: "not noted",
        };
        let note = self.work.journal.read(&attached.owner)?.ok_or_else(missing)?;
        self.work.check(&note)?;
        Ok(())
    }
}

impl Work {
    /// Runs the plugins one after the other, each with the result of the one before.
    fn add(&self, note: &Note) -> Result<(Value, Outcome), CniError> {
        let mut result: Option<Value> = None;
        for plugin in &note.list.plugins {
            let input =
                question::configuration(&note.list, plugin, Some(&note.subject), result.as_ref());
            let answer = self.call(plugin, Command::Add, Some(&note.subject), input)?;
            result = Some(answer.ok_or_else(|| garbage(plugin, "nothing".to_owned()))?);
        }
        let last = note.list.plugins.last();
        let read = result.ok_or_else(|| "no plugin".to_owned()).and_then(|result| {
            Outcome::read(&result, &note.subject.interface).map(|outcome| (result, outcome))
        });
        read.map_err(|what| match last {
            Some(plugin) => garbage(plugin, what),
            None => CniError::NoConfiguration(what),
        })
    }

    /// Runs the plugins in reverse, all of them whatever becomes of one, and forgets the attachment when all have succeeded.
    fn delete(&self, owner: &str) -> Result<(), CniError> {
        let Some(note) = self.journal.read(owner)? else { return Ok(()) };
        let previous =
            note.result.as_ref().filter(|_| question::deletion_has_result(note.list.version));
        let mut subject = note.subject.clone();
        if !is_namespace(Path::new(&subject.namespace)) {
            // As the specification has it for a namespace that is gone.
            subject.namespace.clear();
        }
        let mut first = Ok(());
        for plugin in note.list.plugins.iter().rev() {
            let input = question::configuration(&note.list, plugin, Some(&subject), previous);
            let deleted = self.call(plugin, Command::Del, Some(&subject), input);
            first = first.and(deleted.map(|_| ()));
        }
        first?;
        self.journal.remove(owner)
    }

    fn check(&self, note: &Note) -> Result<(), CniError> {
        if note.list.version < Version::V0_4_0 || note.list.disable_check {
            return Ok(());
        }
        for plugin in &note.list.plugins {
            let previous = note.result.as_ref();
            let input = question::configuration(&note.list, plugin, Some(&note.subject), previous);
            self.call(plugin, Command::Check, Some(&note.subject), input)?;
        }
        Ok(())
    }

    /// Whether the plugins are there, know the configuration's version and, since 1.1.0, say that they are well.
    fn status(&self, list: &List) -> Result<(), CniError> {
        self.check_versions(list)?;
        if list.version >= Version::V1_1_0 {
            for plugin in &list.plugins {
                let input = question::configuration(list, plugin, None, None);
                self.call(plugin, Command::Status, None, input)?;
            }
        }
        Ok(())
    }

    fn check_versions(&self, list: &List) -> Result<(), CniError> {
        for plugin in &list.plugins {
            let known = self.versions(plugin)?;
            if !known.iter().any(|version| version == list.version.as_str()) {
                let (kind, wanted) = (plugin.kind.clone(), list.version.as_str());
                return Err(CniError::Version { kind, wanted, known });
            }
        }
        Ok(())
    }

    /// The versions that a plugin says it knows; it is asked again when its program has changed.
    fn versions(&self, plugin: &Plugin) -> Result<Vec<String>, CniError> {
        let program = plugin::find(&plugin.kind, &self.plugins)?;
        let changed = std::fs::metadata(&program).and_then(|metadata| metadata.modified()).ok();
        let key = (program, changed);
        if let Some(known) = lock(&self.versions).get(&key) {
            return Ok(known.clone());
        }
        let mut question = Map::new();
        question.insert("cniVersion".into(), Version::V1_0_0.as_str().into());
        let answer = self.call(plugin, Command::Version, None, question)?.unwrap_or_default();
        let list = answer.get("supportedVersions").and_then(Value::as_array);
        let list = list.ok_or_else(|| {
            garbage_of(plugin, Command::Version, "no list of versions".to_owned())
        })?;
        let known: Vec<String> = list.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        lock(&self.versions).insert(key, known.clone());
        Ok(known)
    }

    fn call(
        &self,
        plugin: &Plugin,
        command: Command,
        subject: Option<&Subject>,
        input: Map<String, Value>,
    ) -> Result<Option<Value>, CniError> {
        let program = plugin::find(&plugin.kind, &self.plugins)?;
        let directories: Vec<String> =
            self.plugins.iter().map(|directory| directory.display().to_string()).collect();
        let mut environment = vec![("CNI_PATH", directories.join(":"))];
        if let Some(subject) = subject {
            environment.extend([
                ("CNI_CONTAINERID", subject.owner.clone()),
                ("CNI_NETNS", subject.namespace.clone()),
                ("CNI_IFNAME", subject.interface.clone()),
                ("CNI_ARGS", subject.arguments.clone()),
            ]);
        }
        let input = Value::Object(input).to_string().into_bytes();
        let limit = self.limit;
        Call { kind: &plugin.kind, program: &program, command, environment, input, limit }.run()
    }
}

/// Whether a namespace is at `path`: after a reboot the file may still be there, and nothing is mounted on it.
fn is_namespace(path: &Path) -> bool {
    const NSFS_MAGIC: u32 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|about| u32::try_from(about.f_type) == Ok(NSFS_MAGIC))
}

/// Refuses host ports that another pod has.
fn check_ports(
    held: &BTreeMap<String, Vec<PortMapping>>,
    owner: &str,
    wanted: &[PortMapping],
) -> Result<(), NetworkError> {
    let held =
        held.iter().flat_map(|(owner, ports)| ports.iter().map(move |port| (owner.as_str(), port)));
    free_ports(owner, wanted, held)
}

fn attached(subject: &Subject, outcome: Outcome) -> Attached {
    Attached {
        kind: Kind::Cni,
        owner: subject.owner.clone(),
        interface: subject.interface.clone(),
        host_link: outcome.host_link,
        mac: outcome.mac,
        addresses: outcome.addresses,
        gateway: outcome.gateway,
        ports: subject.ports.clone(),
        bandwidth: subject.bandwidth,
    }
}

fn garbage(plugin: &Plugin, what: String) -> CniError {
    garbage_of(plugin, Command::Add, what)
}

fn garbage_of(plugin: &Plugin, command: Command, what: String) -> CniError {
    CniError::Garbage { kind: plugin.kind.clone(), command, what }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks leaves its content half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
