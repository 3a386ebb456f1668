//! The records: what of pods, containers and images outlives the daemon.
//!
//! One SQLite database in WAL mode with `synchronous=NORMAL`: a commit survives SIGKILL of the daemon, and after power
//! loss the database is consistent, at worst without its last commits. That is enough because the kernel is asked
//! first (`recover`): a record tells what was meant, never that something runs.
//!
//! Reads happen once, at start. After that memory answers, and this is only written.

mod reserve;

use crate::container::Record as Container;
use crate::metrics::Instruments;
use crate::sandbox::Record as Pod;
use prost::Message;
use reserve::Reserve;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The version of the schema; a database of a later one is refused rather than misread.
const SCHEMA: i64 = 1;

/// Why records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("open records {}", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("records {} are of version {found}, this berthd knows up to {SCHEMA}", path.display())]
    FromTheFuture { path: PathBuf, found: i64 },
    #[error("write record of {object}")]
    Write { object: String, source: rusqlite::Error },
    #[error("read records of {table}")]
    Read { table: &'static str, source: rusqlite::Error },
    #[error("encode record of {object}")]
    Encode { object: String, source: serde_json::Error },
}

/// A record that is there and cannot be read. It costs one object, not the node.
#[derive(Debug, thiserror::Error)]
#[error("record of {table} {id} is unreadable")]
pub(crate) struct Broken {
    pub(crate) table: &'static str,
    pub(crate) id: String,
    #[source]
    pub(crate) source: BrokenBy,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenBy {
    #[error("parse its detail")]
    Detail(#[from] serde_json::Error),
    #[error("parse its configuration")]
    Config(#[from] prost::DecodeError),
}

/// The database.
///
/// It is never closed: closing would delete the write-ahead log, and a full disk would not let the next start make it
/// anew.
#[derive(Debug)]
pub(crate) struct Records {
    connection: Mutex<ManuallyDrop<Connection>>,
    reserve: Reserve,
    instruments: Instruments,
}

impl Records {
    /// Opens the database at `path`, which is made where it is missing.
    pub(crate) fn open(path: &Path, instruments: Instruments) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let reserve = Reserve::beside(path);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "normal").map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(16);
        let found: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if found > SCHEMA {
            return Err(StoreError::FromTheFuture { path: path.to_owned(), found });
        }
        connection.execute_batch(include_str!("schema.sql")).map_err(failed)?;
        if found != SCHEMA {
            connection.pragma_update(None, "user_version", SCHEMA).map_err(failed)?;
        }
        reserve.put_back();
        Ok(Self { connection: Mutex::new(ManuallyDrop::new(connection)), reserve, instruments })
    }

    /// Sets space aside again for records on a full disk: called when something has been freed.
    pub(crate) fn put_back_reserve(&self) {
        self.reserve.put_back();
    }

    pub(crate) fn put_pod(&self, pod: &Pod) -> Result<(), StoreError> {
        let object = format!("pod {}", pod.id);
        let detail = encode(&object, &pod.detail)?;
        let metadata = pod.config.metadata.clone().unwrap_or_default();
        // A pod that is ready is a new one; one that is not is on its way out.
        let purpose = match pod.detail.state {
            crate::sandbox::State::Ready => Purpose::Making,
            crate::sandbox::State::NotReady => Purpose::Freeing,
        };
        let address = pod.detail.network.as_ref().and_then(|n| n.addresses.first());
        self.execute(
            purpose,
            &object,
            "INSERT OR REPLACE INTO pods VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                pod.id.as_str(),
                metadata.namespace,
                metadata.name,
                metadata.uid,
                metadata.attempt,
                pod.detail.state.as_str(),
                address.map(ToString::to_string),
                pod.detail.boot,
                pod.detail.created_at,
                detail,
                pod.config.encode_to_vec(),
            ],
        )
    }

    pub(crate) fn delete_pod(&self, id: &str) -> Result<(), StoreError> {
        self.delete("pod", "DELETE FROM pods WHERE id = ?1", id)
    }

    pub(crate) fn put_container(&self, container: &Container) -> Result<(), StoreError> {
        let object = format!("container {}", container.id);
        let detail = encode(&object, &container.detail)?;
        let metadata = container.config.metadata.clone().unwrap_or_default();
        let (state, exit_code) = container.detail.state.columns();
        let purpose =
            if container.detail.state.is_exited() { Purpose::Freeing } else { Purpose::Making };
        self.execute(
            purpose,
            &object,
            "INSERT OR REPLACE INTO containers VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                container.id.as_str(),
                container.detail.pod.as_str(),
                metadata.name,
                metadata.attempt,
                container.detail.image.id.to_string(),
                state,
                exit_code,
                container.detail.created_at,
                detail,
                container.config.encode_to_vec(),
            ],
        )
    }

    pub(crate) fn delete_container(&self, id: &str) -> Result<(), StoreError> {
        self.delete("container", "DELETE FROM containers WHERE id = ?1", id)
    }

    pub(crate) fn put_image(&self, image: &image::Image) -> Result<(), StoreError> {
        let object = format!("image {}", image.id);
        let detail = encode(&object, image)?;
        self.execute(
            Purpose::Making,
            &object,
            "INSERT OR REPLACE INTO images VALUES (?1, ?2)",
            params![image.id.to_string(), detail],
        )
    }

    pub(crate) fn delete_image(&self, id: &str) -> Result<(), StoreError> {
        self.delete("image", "DELETE FROM images WHERE id = ?1", id)
    }

    pub(crate) fn pods(&self) -> Result<Vec<Result<Pod, Broken>>, StoreError> {
        self.load("pods", "SELECT id, detail, config FROM pods ORDER BY created_at", |row| {
            Ok(Pod {
                id: serde_json::from_value(row.id.clone().into())?,
                detail: serde_json::from_str(&row.detail)?,
                config: Message::decode(row.config.as_slice())?,
            })
        })
    }

    pub(crate) fn containers(&self) -> Result<Vec<Result<Container, Broken>>, StoreError> {
        let query = "SELECT id, detail, config FROM containers ORDER BY created_at";
        self.load("containers", query, |row| {
            Ok(Container {
                id: serde_json::from_value(row.id.clone().into())?,
                detail: serde_json::from_str(&row.detail)?,
                config: Message::decode(row.config.as_slice())?,
            })
        })
    }

    pub(crate) fn images(&self) -> Result<Vec<Result<image::Image, Broken>>, StoreError> {
        self.load("images", "SELECT id, detail, x'' FROM images", |row| {
            Ok(serde_json::from_str(&row.detail)?)
        })
    }

    fn load<T>(
        &self,
        table: &'static str,
        query: &str,
        parse: impl Fn(&Row) -> Result<T, BrokenBy>,
    ) -> Result<Vec<Result<T, Broken>>, StoreError> {
        let failed = |source| StoreError::Read { table, source };
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection.prepare(query).map_err(failed)?;
        let rows = statement
            .query_map([], |row| {
                Ok(Row { id: row.get(0)?, detail: row.get(1)?, config: row.get(2)? })
            })
            .map_err(failed)?;
        rows.map(|row| {
            let row = row.map_err(failed)?;
            Ok(parse(&row).map_err(|source| Broken { table, id: row.id, source }))
        })
        .collect()
    }

    fn delete(&self, kind: &str, statement: &str, id: &str) -> Result<(), StoreError> {
        self.execute(Purpose::Freeing, &format!("{kind} {id}"), statement, params![id])
    }

    fn execute(
        &self,
        purpose: Purpose,
        object: &str,
        statement: &str,
        values: impl rusqlite::Params + Copy,
    ) -> Result<(), StoreError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || {
            self.instruments.record(|| {
                connection
                    .prepare_cached(statement)
                    .and_then(|mut statement| statement.execute(values))
            })
        };
        let mut written = write();
        let may_use_reserve = purpose == Purpose::Freeing;
        if written.as_ref().is_err_and(is_about_space) && may_use_reserve && self.reserve.use_up() {
            tracing::warn!(
                object,
                "the disk is full; records go into the space set aside for them"
            );
            written = write();
        }
        written.map(drop).map_err(|source| StoreError::Write { object: object.to_owned(), source })
    }
}

/// What a record is about: only what frees something may use the space set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Making,
    Freeing,
}

impl StoreError {
    /// Whether the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            StoreError::Open { source, .. }
            | StoreError::Write { source, .. }
            | StoreError::Read { source, .. } => {
                source.sqlite_error_code() == Some(ErrorCode::DiskFull)
            }
            StoreError::FromTheFuture { .. } | StoreError::Encode { .. } => false,
        }
    }
}

/// A full disk shows as either, depending on which of its files SQLite could not make larger.
fn is_about_space(err: &rusqlite::Error) -> bool {
    matches!(err.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}

/// One row as every table gives it to be parsed.
struct Row {
    id: String,
    detail: String,
    config: Vec<u8>,
}

fn encode(object: &str, detail: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(detail)
        .map_err(|source| StoreError::Encode { object: object.to_owned(), source })
}
