-- The records of a node. `sqlite3 state.db` may read them at any time; times are nanoseconds since the epoch.

CREATE TABLE IF NOT EXISTS pods (
    id         TEXT PRIMARY KEY,
    namespace  TEXT NOT NULL,
    name       TEXT NOT NULL,
    uid        TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    state      TEXT NOT NULL,      -- ready | notready
    address    TEXT,               -- the lease: this pod's address on the bridge
    boot       TEXT NOT NULL,      -- the boot that it lives in
    created_at INTEGER NOT NULL,
    detail     TEXT NOT NULL,      -- JSON
    config     BLOB NOT NULL       -- runtime.v1.PodSandboxConfig
) STRICT;

CREATE TABLE IF NOT EXISTS containers (
    id         TEXT PRIMARY KEY,
    pod        TEXT NOT NULL,
    name       TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    image      TEXT NOT NULL,
    state      TEXT NOT NULL,      -- created | running | exited
    exit_code  INTEGER,
    created_at INTEGER NOT NULL,
    detail     TEXT NOT NULL,      -- JSON
    config     BLOB NOT NULL       -- runtime.v1.ContainerConfig
) STRICT;

CREATE TABLE IF NOT EXISTS images (
    id     TEXT PRIMARY KEY,
    detail TEXT NOT NULL           -- JSON
) STRICT;
