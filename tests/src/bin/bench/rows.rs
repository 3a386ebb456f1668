//! What is measured, and what Berth has to reach: the budgets that the project set itself, for a machine with two cores.

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Bytes,
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    /// What has to be reached at full size.
    pub(crate) budget: Option<f64>,
    /// Smaller in a quick run, and then not to be held against the budget.
    pub(crate) shrinks: bool,
}

const fn time(name: &'static str, what: &'static str, budget: Option<f64>) -> Row {
    Row { name, what, unit: Unit::Seconds, budget, shrinks: false }
}

const fn pull(name: &'static str, what: &'static str, budget: Option<f64>) -> Row {
    Row { name, what, unit: Unit::Seconds, budget, shrinks: true }
}

const fn size(name: &'static str, what: &'static str, budget: Option<f64>) -> Row {
    Row { name, what, unit: Unit::Bytes, budget, shrinks: false }
}

/// In the order of the table.
pub(crate) const ROWS: [Row; 32] = [
    // To start a pod: ten milliseconds from nothing to a running program.
    time("pod-start", "pod with a container, to running", Some(0.010)),
    time("pod-run", "  of it RunPodSandbox", None),
    time("pod-create", "  of it CreateContainer", None),
    time("pod-launch", "  of it StartContainer", None),
    time("cgroups", "  cgroups entered and left", None),
    // To end it again takes no longer than to start it.
    time("pod-stop", "stop and remove that pod", Some(0.010)),
    // Thirty side by side, as when a node boots: five milliseconds each.
    time("parallel", "30 pods, 8 at a time", Some(0.150)),
    time("parallel-stop", "stop and remove 30, 8 at a time", None),
    // A probe that a kubelet runs every second must not be felt.
    time("exec", "ExecSync of true", Some(0.003)),
    // A kubelet lists every second; with 500 containers that is a thousandth of it.
    time("list-100", "ListContainers, 100 containers", None),
    time("list-500", "ListContainers, 500 containers", Some(0.001)),
    // To pull is to inflate: unpacking hides behind it, on a disk as in memory.
    pull("pull-files-disk", "pull many small files, disk", Some(1.4)),
    pull("untar-files-disk", "  plain tar -xz of the same", None),
    pull("pull-files-memory", "pull many small files, memory", Some(1.4)),
    pull("untar-files-memory", "  plain tar -xz of the same", None),
    pull("pull-layers-disk", "pull 20 layers, disk", Some(2.2)),
    pull("untar-layers-disk", "  plain tar -xz of the same", None),
    pull("pull-layers-memory", "pull 20 layers, memory", Some(2.2)),
    pull("untar-layers-memory", "  plain tar -xz of the same", None),
    pull("pull-large-disk", "pull one large layer, disk", Some(1.5)),
    pull("untar-large-disk", "  plain tar -xz of the same", None),
    pull("pull-large-memory", "pull one large layer, memory", Some(1.5)),
    pull("untar-large-memory", "  plain tar -xz of the same", None),
    // To remove an image is to remove a file.
    pull("remove-files-disk", "remove many small files, disk", Some(0.010)),
    pull("remove-files-memory", "remove many small files, memory", None),
    pull("remove-layers-disk", "remove 20 layers, disk", None),
    pull("remove-large-disk", "remove one large layer, disk", None),
    // What a pod costs beside its own processes: a quarter of a megabyte.
    size("memory-pod", "PSS of all helpers, per pod", Some(0.25e6)),
    // And the daemon with twenty of them fifteen.
    size("memory-daemon", "PSS of the daemon, 20 pods", Some(15e6)),
    size("memory-daemon-rss", "RSS of the daemon, 20 pods", None),
    size("memory-idle", "PSS of the daemon, before them", None),
    size("memory-after", "PSS of the daemon, after all this", None),
];

/// The measurements that can be asked for, and the rows each gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Pods,
    Parallel,
    Exec,
    List,
    PullFiles,
    PullLayers,
    PullLarge,
    Memory,
}

impl Group {
    /// In the order in which they are taken: memory first, of daemons that have done nothing yet.
    pub(crate) const ALL: [Self; 8] = [
        Self::Memory,
        Self::Pods,
        Self::Parallel,
        Self::Exec,
        Self::List,
        Self::PullFiles,
        Self::PullLayers,
        Self::PullLarge,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Parallel => "parallel",
            Self::Exec => "exec",
            Self::List => "list",
            Self::PullFiles => "pull-files",
            Self::PullLayers => "pull-layers",
            Self::PullLarge => "pull-large",
            Self::Memory => "memory",
        }
    }
}
