//! What a node holds, by id, in memory: reads take a lock for as long as a clone of a list of pointers takes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Objects by their full id of 64 hex digits.
#[derive(Debug)]
pub(crate) struct Table<T> {
    rows: Mutex<BTreeMap<String, Arc<T>>>,
}

/// A shortened id that more than one object begins with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} id {prefix:?} is ambiguous")]
pub(crate) struct Ambiguous {
    pub(crate) kind: &'static str,
    pub(crate) prefix: String,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: Mutex::default() }
    }
}

impl<T> Table<T> {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, Arc<T>>> {
        // Nothing panics while it holds the lock; a map is whole in any case.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, id: &str, row: Arc<T>) {
        self.rows().insert(id.to_owned(), row);
    }

    pub(crate) fn remove(&self, id: &str) -> Option<Arc<T>> {
        self.rows().remove(id)
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<T>> {
        self.rows().get(id).cloned()
    }

    /// All objects, ordered by id.
    pub(crate) fn list(&self) -> Vec<Arc<T>> {
        self.rows().values().cloned().collect()
    }

    /// All objects whose id begins with `prefix`; all there are where it is empty.
    pub(crate) fn beginning_with(&self, prefix: &str) -> Vec<Arc<T>> {
        let from: (Bound<&str>, Bound<&str>) = (Bound::Included(prefix), Bound::Unbounded);
        self.rows()
            .range::<str, _>(from)
            .take_while(|(id, _)| id.starts_with(prefix))
            .map(|(_, row)| Arc::clone(row))
            .collect()
    }

    /// The one object that a client means by `prefix`, a full id or the beginning of one; `kind` names the kind in the
    /// error.
    pub(crate) fn resolve(
        &self,
        kind: &'static str,
        prefix: &str,
    ) -> Result<Option<Arc<T>>, Ambiguous> {
        if prefix.is_empty() {
            return Ok(None);
        }
        let mut found = self.beginning_with(prefix);
        match found.len() {
            0 | 1 => Ok(found.pop()),
            _ => Err(Ambiguous { kind, prefix: prefix.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_what_they_begin_with() {
        let table = Table::default();
        for id in ["aa11", "aa22", "bb33"] {
            table.insert(id, Arc::new(id.to_owned()));
        }
        let cases = [
            ("full id", "aa11", Ok(Some("aa11"))),
            ("unique beginning", "b", Ok(Some("bb33"))),
            ("shared beginning", "aa", Err(())),
            ("unknown", "cc", Ok(None)),
            ("longer than any", "aa111", Ok(None)),
            ("empty", "", Ok(None)),
        ];
        for (name, prefix, want) in cases {
            let got = table.resolve("pod", prefix);
            let got = got.as_ref().map(|row| row.as_ref().map(|row| row.as_str())).map_err(drop);
            assert_eq!(got, want, "{name}");
        }
        assert_eq!(table.beginning_with("").len(), 3);
    }
}
