//! Compiled system call filters, kept: containers share a handful of profiles, and a start or an exec compiles nothing.

use cri_spec::{HostFacts, Launch, SpecError, seccomp};
use oci_spec::runtime::{LinuxSeccomp, Spec};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// More profiles than any node runs; beyond that the cache starts anew rather than grow with what clients send.
const MOST: usize = 64;

/// The filters compiled so far, by their profile.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    compiled: Mutex<HashMap<String, plan::Seccomp>>,
}

impl Filters {
    /// The launch plan of a spec.
    pub(crate) fn launch(&self, spec: &Spec, host: &HostFacts) -> Result<Launch, SpecError> {
        cri_spec::launch_with(spec, host, &mut |profile| self.compile(profile))
    }

    /// The process of an exec in a container of that spec.
    pub(crate) fn exec(
        &self,
        spec: &Spec,
        command: &[String],
        tty: bool,
    ) -> Result<plan::Process, SpecError> {
        cri_spec::exec_with(spec, command, tty, &mut |profile| self.compile(profile))
    }

    fn compile(&self, profile: &LinuxSeccomp) -> Result<plan::Seccomp, SpecError> {
        let key = seccomp::key(profile);
        let kept = || self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = kept().get(&key) {
            return Ok(filter.clone());
        }
        let filter = seccomp::compile(profile)
            .map_err(|source| SpecError::Seccomp { field: "linux.seccomp".to_owned(), source })?;
        let mut compiled = kept();
        if compiled.len() >= MOST {
            compiled.clear();
        }
        compiled.insert(key, filter.clone());
        Ok(filter)
    }
}
