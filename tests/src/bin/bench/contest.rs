//! The rounds: one party after the other does the same, so that a disturbance of the machine meets all of them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use suite::image::Image;
use suite::{peer, process};

use crate::actor::{Actor, Gone};
use crate::arguments::Arguments;
use crate::figure::{Results, Sample, Who};
use crate::floor::Floor;
use crate::medium::Medium;
use crate::node::{Failure, Kind, Node};
use crate::payload::{self, Amount};
use crate::rows::Group;

/// The parties, and what they have done so far.
pub(crate) struct Contest {
    parties: Parties,
    stop: Arc<AtomicBool>,
    results: Results,
    notes: Vec<String>,
}

/// Everybody, on one medium.
struct Parties {
    berth: Actor<Node>,
    containerd: Option<Actor<Node>>,
    floor: Actor<Floor>,
}

/// Rows of one image on one medium.
struct PullRows {
    /// Pull and remove, of a runtime.
    node: [&'static str; 2],
    /// Inflate, untar and remove.
    floor: [&'static str; 3],
}

/// What was installed and built, in words.
pub(crate) fn versions(arguments: &Arguments) -> Vec<String> {
    if arguments.no_peer || !peer::missing().is_empty() {
        return Vec::new();
    }
    ["containerd", "runc"]
        .iter()
        .filter_map(|program| {
            let text = process::output(Command::new(program).arg("--version")).stdout;
            let text = String::from_utf8_lossy(&text).into_owned();
            text.lines().next().map(str::to_owned)
        })
        .collect()
}

impl Contest {
    pub(crate) fn start(arguments: &Arguments, stop: Arc<AtomicBool>) -> Result<Self, String> {
        let mut notes = Vec::new();
        let parties = Parties::start(arguments, Medium::Disk, &mut notes)?;
        Ok(Self { parties, stop, results: Results::default(), notes })
    }

    /// # Errors
    ///
    /// When Berth or the floor cannot do something. That containerd cannot is a note.
    pub(crate) fn run(&mut self, arguments: &Arguments) -> Result<(), String> {
        for group in Group::ALL.into_iter().filter(|group| arguments.wants(*group)) {
            match group {
                Group::Pods => self.pods(arguments)?,
                Group::Parallel => self.parallel(arguments)?,
                Group::Exec => self.exec(arguments)?,
                Group::List => self.list(arguments)?,
                Group::Memory => self.memory(arguments)?,
                Group::PullFiles | Group::PullLayers | Group::PullLarge => {
                    self.pulls(group, arguments)?;
                }
            }
        }
        // What all that has left in the daemons' heaps.
        self.nodes("memory", |node| node.daemon_memory("memory-after"))
    }

    pub(crate) fn end(self) -> (Results, Vec<String>) {
        (self.results, self.notes)
    }

    fn pods(&mut self, arguments: &Arguments) -> Result<(), String> {
        let count = arguments.size(10, 3);
        for _ in 0..arguments.rounds(5, 2) {
            self.nodes("pods", move |node| node.pods(count))?;
            self.floor(move |floor| floor.pods(count, 0))?;
        }
        Ok(())
    }

    fn parallel(&mut self, arguments: &Arguments) -> Result<(), String> {
        for _ in 0..arguments.rounds(3, 1) {
            self.nodes("30 pods", |node| node.parallel(30, 8))?;
        }
        Ok(())
    }

    fn exec(&mut self, arguments: &Arguments) -> Result<(), String> {
        let count = arguments.size(20, 10);
        for _ in 0..arguments.rounds(5, 2) {
            self.nodes("exec", move |node| {
                let container = node.begin_exec()?;
                // The first one finds the caches cold.
                node.exec(&container, 1)?;
                let samples = node.exec(&container, count);
                node.clear()?;
                samples
            })?;
            let rows = self.ask_floor(move |floor| floor.pods(1, count + 1))?;
            let execs = rows.into_iter().filter(|(row, _)| *row == "exec").skip(1).collect();
            self.results.add(Who::Floor, execs);
        }
        Ok(())
    }

    fn list(&mut self, arguments: &Arguments) -> Result<(), String> {
        let count = arguments.size(30, 10);
        for (row, containers) in [("list-100", 100), ("list-500", 500)] {
            if arguments.quick && containers > 100 {
                continue;
            }
            self.each(row, move |node| node.fill(containers))?;
            for _ in 0..arguments.rounds(5, 2) {
                self.nodes(row, move |node| node.list(row, containers, count))?;
                let version = self.parties.berth.ask(move |node| node.version(row, count));
                self.results.add(Who::Floor, done("Berth", version)?);
            }
        }
        self.each("list", Node::clear)
    }

    fn memory(&mut self, arguments: &Arguments) -> Result<(), String> {
        self.nodes("memory", |node| node.daemon_memory("memory-idle"))?;
        for _ in 0..arguments.rounds(2, 1) {
            self.nodes("memory", |node| {
                let samples = node.memory(20);
                node.clear()?;
                samples
            })?;
        }
        Ok(())
    }

    fn pulls(&mut self, group: Group, arguments: &Arguments) -> Result<(), String> {
        let amount = Amount {
            files: arguments.size(30_000, 3_000),
            layers: 20,
            files_per_layer: arguments.size(2_000, 200),
            large_bytes: arguments.size(300_000_000, 30_000_000),
        };
        let image = match group {
            Group::PullLayers => payload::layers(amount),
            Group::PullLarge => payload::large(amount),
            Group::PullFiles
            | Group::Pods
            | Group::Parallel
            | Group::Exec
            | Group::List
            | Group::Memory => payload::files(amount),
        };
        self.check_stop()?;
        let image = Arc::new(image);
        self.pull_rounds(group, Medium::Disk, &image, arguments.rounds(2, 1))?;
        // The same in memory, by parties that keep everything there.
        let memory = Parties::start(arguments, Medium::Memory, &mut self.notes)?;
        let disk = std::mem::replace(&mut self.parties, memory);
        let result = self.pull_rounds(group, Medium::Memory, &image, arguments.rounds(3, 1));
        self.parties = disk;
        result
    }

    fn pull_rounds(
        &mut self,
        group: Group,
        medium: Medium,
        image: &Arc<Image>,
        rounds: usize,
    ) -> Result<(), String> {
        let rows = pull_rows(group, medium);
        let offered = Arc::clone(image);
        // Each registry is alike, and yet each has an address of its own.
        let offer = move |node: &mut Node| node.offer("payload", &offered);
        let berths = self.parties.berth.ask(offer.clone()).map_err(told("Berth"))?;
        let peers = match self.parties.containerd.as_mut().map(|node| node.ask(offer)) {
            Some(Err(gone)) => self.lose_containerd(rows.node[0], &gone.0),
            Some(Ok(reference)) => reference,
            None => String::new(),
        };
        let name = rows.node[0];
        let offered = Arc::clone(image);
        let layers: Vec<PathBuf> = self
            .parties
            .floor
            .ask(move |floor| floor.offer(name, &offered))
            .map_err(told("floor"))?;
        for round in 0..rounds {
            for turn in 0..3 {
                self.check_stop()?;
                // Who comes later meets what the others have left in caches and block groups: each is first once.
                match (round + turn) % 3 {
                    0 => {
                        let reference = berths.clone();
                        let berth = &mut self.parties.berth;
                        let work =
                            move |node: &mut Node| node.pull_and_remove(&reference, rows.node);
                        self.results.add(Who::Berth, done("Berth", berth.ask(work))?);
                    }
                    1 => {
                        let reference = peers.clone();
                        let work =
                            move |node: &mut Node| node.pull_and_remove(&reference, rows.node);
                        if let Some(containerd) = self.parties.containerd.as_mut() {
                            let pulled = containerd.ask(work);
                            self.take_containerd(rows.node[0], pulled);
                        }
                    }
                    _ => {
                        let layers = layers.clone();
                        self.floor(move |floor| floor.unpack(&layers, rows.floor))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A round of both runtimes.
    fn nodes(
        &mut self,
        what: &str,
        work: impl FnOnce(&mut Node) -> Result<Vec<Sample>, Failure> + Send + Clone + 'static,
    ) -> Result<(), String> {
        self.check_stop()?;
        let samples = done("Berth", self.parties.berth.ask(work.clone()))?;
        self.results.add(Who::Berth, samples);
        if let Some(containerd) = self.parties.containerd.as_mut() {
            let samples = containerd.ask(work);
            self.take_containerd(what, samples);
        }
        Ok(())
    }

    /// The same work for both runtimes, unmeasured.
    fn each(
        &mut self,
        what: &str,
        work: impl FnOnce(&mut Node) -> Result<(), Failure> + Send + Clone + 'static,
    ) -> Result<(), String> {
        self.nodes(what, move |node| work(node).map(|()| Vec::new()))
    }

    fn floor(
        &mut self,
        work: impl FnOnce(&mut Floor) -> Result<Vec<Sample>, Failure> + Send + 'static,
    ) -> Result<(), String> {
        let samples = self.ask_floor(work)?;
        self.results.add(Who::Floor, samples);
        Ok(())
    }

    fn ask_floor(
        &mut self,
        work: impl FnOnce(&mut Floor) -> Result<Vec<Sample>, Failure> + Send + 'static,
    ) -> Result<Vec<Sample>, String> {
        self.check_stop()?;
        done("floor", self.parties.floor.ask(work))
    }

    fn take_containerd(&mut self, what: &str, samples: Result<Result<Vec<Sample>, Failure>, Gone>) {
        match done("containerd", samples) {
            Ok(samples) => self.results.add(Who::Containerd, samples),
            Err(problem) => {
                self.lose_containerd(what, &problem);
            }
        }
    }

    /// One that cannot do something is not asked again: what it did until then stands.
    fn lose_containerd(&mut self, what: &str, problem: &str) -> String {
        self.notes.push(format!("No more of containerd after {what}: {problem}"));
        self.parties.containerd = None;
        String::new()
    }

    fn check_stop(&self) -> Result<(), String> {
        if self.stop.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
    }
}

impl Parties {
    fn start(
        arguments: &Arguments,
        medium: Medium,
        notes: &mut Vec<String>,
    ) -> Result<Self, String> {
        let program = arguments.floor.clone();
        let floor =
            Actor::start("floor", move || Floor::start(program, medium)).map_err(told("floor"))?;
        let node = |name, kind| Actor::start(name, move || Node::start(kind, medium));
        let berth = node("berth", Kind::Berth).map_err(told("Berth"))?;
        let missing = peer::missing();
        let containerd = if arguments.no_peer {
            None
        } else if missing.is_empty() {
            let started = node("containerd", Kind::Containerd);
            let note = |gone: Gone| notes.push(format!("containerd cannot run here: {}", gone.0));
            started.map_err(note).ok()
        } else {
            notes.push(format!("Not installed, and so not compared: {}", missing.join(", ")));
            None
        };
        notes.dedup();
        Ok(Self { berth, containerd, floor })
    }
}

/// The error of whoever was asked, by name.
fn done<T>(who: &'static str, answer: Result<Result<T, Failure>, Gone>) -> Result<T, String> {
    answer.map_err(told(who))?.map_err(|err| format!("{who}: {err}"))
}

fn told(who: &'static str) -> impl Fn(Gone) -> String {
    move |gone| format!("{who}: {}", gone.0)
}

fn pull_rows(group: Group, medium: Medium) -> PullRows {
    let (node, untar) = match (group, medium) {
        (Group::PullLayers, Medium::Disk) => {
            (["pull-layers-disk", "remove-layers-disk"], "untar-layers-disk")
        }
        (Group::PullLayers, Medium::Memory) => {
            (["pull-layers-memory", "remove-layers-memory"], "untar-layers-memory")
        }
        (Group::PullLarge, Medium::Disk) => {
            (["pull-large-disk", "remove-large-disk"], "untar-large-disk")
        }
        (Group::PullLarge, Medium::Memory) => {
            (["pull-large-memory", "remove-large-memory"], "untar-large-memory")
        }
        (_, Medium::Disk) => (["pull-files-disk", "remove-files-disk"], "untar-files-disk"),
        (_, Medium::Memory) => (["pull-files-memory", "remove-files-memory"], "untar-files-memory"),
    };
    PullRows { node, floor: [node[0], untar, node[1]] }
}
