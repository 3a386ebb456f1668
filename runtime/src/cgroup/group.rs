//! One cgroup: its limits, its descriptors, its end.

use super::cgroups::{Denied, at};
use super::descriptors::{Descriptors, Label};
use super::device::{allowed, program};
use super::directory::{Directory, is_gone};
use super::end::{self, Brake};
use super::error::{BadLimits, CgroupError};
use super::limits::{Absent, Amount, Limits, Setting};
use super::path::CgroupPath;
use super::{v1, v2};
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// A cgroup that exists, held by its directories in all hierarchies.
#[derive(Debug)]
pub struct Cgroup {
    path: CgroupPath,
    /// One per hierarchy; on v2 one.
    places: Vec<Place>,
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) label: Label,
    /// For people: everything is done through the descriptor.
    pub(super) path: PathBuf,
    pub(super) directory: Directory,
}

/// What [`Cgroup::apply`] has replaced, for [`Cgroup::restore`].
#[derive(Debug, Default)]
pub struct Before(Vec<Setting>);

/// Whether a cgroup may have processes and limits already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    New,
    Existing,
}

impl Cgroup {
    pub(super) fn new(path: CgroupPath, places: Vec<Place>) -> Self {
        Self { path, places }
    }

    /// Its path, the same in all hierarchies.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Its directories, one per hierarchy, in the order of [`Cgroups::hierarchies`](super::Cgroups::hierarchies).
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        self.places.iter().map(|place| place.path.clone()).collect()
    }

    /// Puts `limits` in force; what they leave out stays as it is. Gives what was in force before.
    ///
    /// If the kernel refuses one, those already written get their old values back, but for devices.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Limits`] and [`CgroupError::MemoryInUse`] before anything is changed;
    /// [`CgroupError::MissingController`], [`CgroupError::Write`] or [`CgroupError::Devices`] for a limit that the kernel
    /// does not have or refuses.
    pub fn apply(&self, limits: &Limits) -> Result<Before, CgroupError> {
        limits.check()?;
        self.limit(limits, Age::Existing, Vec::new())
    }

    /// Goes back to what was in force before an [`apply`](Self::apply), as far as the kernel lets it; devices stay.
    pub fn restore(&self, before: Before) {
        self.write_back(before.0);
    }

    /// Descriptors of its directories, for the monitor.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`] if this process has too many open files.
    pub fn descriptors(&self) -> Result<Descriptors, CgroupError> {
        let open = |place: &Place| {
            let directory = place.directory.try_clone().map_err(at("open", &place.path))?;
            Ok((place.label.clone(), directory))
        };
        Ok(Descriptors {
            entries: self.places.iter().map(open).collect::<Result<_, CgroupError>>()?,
        })
    }

    /// Sends SIGKILL to every process in it and below, without waiting for their end; none can escape by forking.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`], `TimedOut` where the processes could not be held still meanwhile.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let tracking = end::tracking(self.labels());
        match tracking.map(|tracking| &self.places[tracking]) {
            Some(place) => end::kill(&place.directory, Brake::of(&place.label))
                .map_err(at("kill", &place.path)),
            None => Ok(()),
        }
    }

    pub(super) fn limit(
        &self,
        limits: &Limits,
        age: Age,
        denied: Vec<Denied>,
    ) -> Result<Before, CgroupError> {
        if age == Age::Existing {
            self.refuse_memory_in_use(limits)?;
        }
        let settings = if self.is_v2() {
            let further = v2::further(limits)?;
            let mut settings = v2::settings(limits, || self.quota_v2(age))?;
            settings.extend(further);
            settings
        } else {
            if let Some((file, _)) = limits.unified.first() {
                return Err(BadLimits::OnlyV2(file.clone()).into());
            }
            v1::settings(limits, &self.now_v1(limits, age)?).map_err(BadLimits::from)?
        };
        let before = match age {
            Age::New => {
                settings.iter().try_for_each(|setting| self.write(setting)).map(|()| Vec::new())
            }
            Age::Existing => self.write_all_or_nothing(&settings),
        }
        .map_err(|err| with_reason(err, denied))?;
        if self.is_v2()
            && let Err(err) = self.limit_devices_v2(limits)
        {
            self.write_back(before);
            return Err(err);
        }
        Ok(Before(before))
    }

    pub(super) fn labels(&self) -> impl Iterator<Item = &Label> {
        self.places.iter().map(|place| &place.label)
    }

    pub(super) fn place_at(&self, at: usize) -> Option<&Place> {
        self.places.get(at)
    }

    pub(super) fn is_v2(&self) -> bool {
        self.places.iter().any(|place| place.label.is_v2())
    }

    pub(super) fn place_of(&self, controller: &str) -> Option<&Place> {
        self.places.iter().find(|place| place.label.is_v2() || place.label.has(controller))
    }

    fn write(&self, setting: &Setting) -> Result<(), CgroupError> {
        let Setting { controller, file, absent, .. } = setting;
        let written = match self.place_of(controller) {
            None => None,
            Some(place) => match place.directory.write(file, &setting.value) {
                // Is the file missing, or the whole cgroup?
                Err(err) if is_gone(&err) && place.directory.children().is_ok() => None,
                Err(source) => {
                    let (directory, value) = (place.path.clone(), setting.value.clone());
                    let file = file.clone();
                    return Err(CgroupError::Write { directory, file, value, source });
                }
                Ok(()) => Some(()),
            },
        };
        match (written, absent) {
            (Some(()), _) | (None, Absent::Accept) => Ok(()),
            (None, Absent::Refuse) => Err(CgroupError::MissingController {
                path: self.path.clone(),
                controller,
                file: file.clone(),
                source: None,
            }),
        }
    }

    fn write_all_or_nothing(&self, settings: &[Setting]) -> Result<Vec<Setting>, CgroupError> {
        let mut old = Vec::new();
        for setting in settings {
            // A file that cannot be read (those of devices) has no value to go back to.
            let value =
                self.place_of(setting.controller).map(|place| place.directory.read(&setting.file));
            if let Err(err) = self.write(setting) {
                self.write_back(old);
                return Err(err);
            }
            if let Some(Ok(value)) = value {
                old.push(Setting { value: value.trim_end().to_owned(), ..setting.clone() });
            }
        }
        Ok(old)
    }

    /// Latest first, so that the order that the kernel insists on is right again.
    fn write_back(&self, old: Vec<Setting>) {
        for mut setting in old.into_iter().rev() {
            if setting.value.is_empty() {
                // A write of nothing does not reach the kernel; an empty line is how a cpuset is given back.
                "\n".clone_into(&mut setting.value);
            }
            if let Err(err) = self.write(&setting) {
                tracing::warn!(cgroup = %self.path, file = %setting.file, %err, "limit not set back");
            }
        }
    }

    pub(super) fn read(
        &self,
        controller: &str,
        file: &'static str,
    ) -> Result<Option<String>, CgroupError> {
        let Some(place) = self.place_of(controller) else { return Ok(None) };
        match place.directory.read(file) {
            Err(err) if is_gone(&err) => Ok(None),
            Err(source) => Err(CgroupError::Read { directory: place.path.clone(), file, source }),
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
        }
    }

    /// A number that the kernel counts in bytes or µs; none where the file is missing.
    pub(super) fn read_amount(
        &self,
        controller: &str,
        file: &'static str,
    ) -> Result<Option<Amount>, CgroupError> {
        let Some(text) = self.read(controller, file)? else { return Ok(None) };
        match text.parse::<i64>() {
            Ok(number) => Ok(Some(u64::try_from(number).map_or(Amount::Unlimited, Amount::AtMost))),
            Err(_) => {
                let directory =
                    self.place_of(controller).map(|place| place.path.clone()).unwrap_or_default();
                Err(CgroupError::Read {
                    directory,
                    file,
                    source: io::ErrorKind::InvalidData.into(),
                })
            }
        }
    }

    fn quota_v2(&self, age: Age) -> Result<String, CgroupError> {
        let now = match age {
            Age::New => None,
            Age::Existing => self.read("cpu", "cpu.max")?,
        };
        Ok(now.as_deref().and_then(|now| now.split(' ').next()).unwrap_or("max").to_owned())
    }

    fn now_v1(&self, limits: &Limits, age: Age) -> Result<v1::Now, CgroupError> {
        let mut now = v1::Now::FRESH;
        if age == Age::New {
            return Ok(now);
        }
        if limits.quota().is_some() && limits.period().is_some() {
            now.quota = self.read_amount("cpu", "cpu.cfs_quota_us")?.unwrap_or(now.quota);
            if let Some(Amount::AtMost(period_us)) = self.read_amount("cpu", "cpu.cfs_period_us")? {
                now.period_us = period_us;
            }
        }
        if limits.memory().is_some() {
            now.both =
                self.read_amount("memory", "memory.memsw.limit_in_bytes")?.unwrap_or(now.both);
        }
        Ok(now)
    }

    fn limit_devices_v2(&self, limits: &Limits) -> Result<(), CgroupError> {
        let (Some(rules), Some(place)) = (&limits.devices, self.places.first()) else {
            return Ok(());
        };
        let program = program(&allowed(rules).map_err(BadLimits::from)?);
        sys::bpf::decide_devices(place.directory.as_fd(), &program)
            .map_err(|source| CgroupError::Devices { path: self.path.clone(), source })
    }
}

/// Adds to a missing controller why its parent would not give it.
fn with_reason(mut err: CgroupError, denied: Vec<Denied>) -> CgroupError {
    if let CgroupError::MissingController { controller, source, .. } = &mut err {
        let why = denied.into_iter().find(|denied| denied.controller == *controller);
        *source = why.map(|denied| denied.source);
    }
    err
}
