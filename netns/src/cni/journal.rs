//! What is noted of each attachment, in a file of its own: before the first plugin runs, so that whatever it leaves is known to
//! belong to somebody, and until the last deletion has succeeded. With the configuration as it was, because the file that it
//! came from may be another one by then.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::List;
use super::error::CniError;
use super::question::Subject;

/// Of the notes' form.
const VERSION: u32 = 1;

/// The notes of all attachments.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
}

/// An attachment, finished or not.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) list: List,
    pub(super) subject: Subject,
    /// The last plugin's, once all have run.
    pub(super) result: Option<Value>,
}

#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    list: Value,
    subject: Subject,
    result: Option<Value>,
}

impl Journal {
    /// Opens the notes in `directory`, which is made if it is missing.
    pub(super) fn open(directory: &Path) -> Result<Self, CniError> {
        let failed = |source| CniError::Journal {
            step: "create directory",
            path: directory.to_owned(),
            source,
        };
        std::fs::create_dir_all(directory).map_err(failed)?;
        Ok(Self { directory: directory.to_owned() })
    }

    pub(super) fn write(&self, note: &Note) -> Result<(), CniError> {
        let path = self.path(&note.subject.owner);
        let form = Form {
            version: VERSION,
            list: note.list.to_value(),
            subject: note.subject.clone(),
            result: note.result.clone(),
        };
        let failed = |source| CniError::Journal { step: "write", path: path.clone(), source };
        let text = serde_json::to_vec(&form).map_err(|err| failed(err.into()))?;
        sys::durable::replace(&path, &text, 0o600).map_err(failed)
    }

    /// The note on `owner`; `None` if there is none, and so nothing to delete.
    pub(super) fn read(&self, owner: &str) -> Result<Option<Note>, CniError> {
        let path = self.path(owner);
        let failed = |source| CniError::Journal { step: "read", path: path.clone(), source };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(failed(err)),
        };
        let wrong = |what: String| failed(io::Error::new(io::ErrorKind::InvalidData, what));
        let form: Form = serde_json::from_slice(&text).map_err(|err| failed(err.into()))?;
        if form.version != VERSION {
            return Err(wrong(format!("version {} is not {VERSION}", form.version)));
        }
        let list = List::read(&form.list).map_err(|err| wrong(err.to_string()))?;
        Ok(Some(Note { list, subject: form.subject, result: form.result }))
    }

    pub(super) fn remove(&self, owner: &str) -> Result<(), CniError> {
        let path = self.path(owner);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(CniError::Journal { step: "remove", path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether there is a note on `owner`.
    pub(super) fn has(&self, owner: &str) -> bool {
        self.path(owner).exists()
    }

    /// Everybody there is a note on.
    pub(super) fn owners(&self) -> Result<Vec<String>, CniError> {
        let failed =
            |source| CniError::Journal { step: "list", path: self.directory.clone(), source };
        let mut owners = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            owners.extend(
                name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_owned),
            );
        }
        owners.sort();
        Ok(owners)
    }

    /// Owners are pod ids, so that they are names of files as well.
    fn path(&self, owner: &str) -> PathBuf {
        self.directory.join(format!("{owner}.json"))
    }
}
