"""The tables of the client's state database, as a list of migrations. Data only.

Serves steps 6–12: everything a client must remember stands in these tables. `pcm.service.state` applies what is missing when
it opens the database, and `PRAGMA user_version` says how far a file has come. A migration, once released, never changes; a
change of shape is another entry at the end of the list. It only adds: tables, and columns that may be left out. For the version
before may have to come back from a trial, and goes on with what the newer one has made of the database.

Times are ISO 8601 text in UTC with microseconds and an offset, so they sort as text and never lose their zone.
"""

_FIRST = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, kept INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;

CREATE TABLE floors (
    repository TEXT NOT NULL, role TEXT NOT NULL, version INTEGER NOT NULL, keyids TEXT NOT NULL,
    PRIMARY KEY (repository, role)
) WITHOUT ROWID;

CREATE TABLE manifests (sha256 TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE instructions (
    id TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    body BLOB NOT NULL,
    state TEXT NOT NULL,
    code TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    first_seen TEXT NOT NULL,
    changed TEXT NOT NULL,
    not_before TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    requested_at TEXT,
    requested_by TEXT,
    deferred_until TEXT,
    deferrals INTEGER NOT NULL DEFAULT 0,
    manifest_sha256 TEXT NOT NULL,
    present INTEGER NOT NULL DEFAULT 1,
    verdict_code TEXT NOT NULL DEFAULT '',
    verdict_reason TEXT NOT NULL DEFAULT '',
    fetched INTEGER NOT NULL DEFAULT 0,
    history_lost INTEGER NOT NULL DEFAULT 0,
    restart_boot_id TEXT
);

CREATE TABLE releases (
    package TEXT PRIMARY KEY, release INTEGER NOT NULL, min_release INTEGER NOT NULL, version TEXT NOT NULL,
    installed INTEGER, changed TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE runs (
    run TEXT PRIMARY KEY,
    instruction TEXT NOT NULL,
    generation INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    program TEXT NOT NULL,
    manifest_sha256 TEXT NOT NULL,
    argv TEXT NOT NULL,
    run_as TEXT NOT NULL,
    started TEXT NOT NULL,
    ended TEXT,
    reference TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    result BLOB,
    finished INTEGER NOT NULL DEFAULT 0,
    UNIQUE (instruction, generation, attempt)
);
CREATE INDEX runs_open ON runs (finished) WHERE finished = 0;

CREATE TABLE steps (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, step TEXT NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('begin', 'end')), at TEXT NOT NULL, detail TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX steps_run ON steps (run);

CREATE TABLE outcomes (seq INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL, reported_in INTEGER);
CREATE INDEX outcomes_waiting ON outcomes (seq) WHERE reported_in IS NULL;

CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY, prev_sha256 TEXT, payload_sha256 TEXT NOT NULL, envelope BLOB NOT NULL,
    created TEXT NOT NULL, acknowledged TEXT
);

CREATE TABLE refusals (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, code TEXT NOT NULL, at TEXT NOT NULL, reason TEXT NOT NULL,
    source TEXT NOT NULL DEFAULT '', count INTEGER NOT NULL DEFAULT 1, reported_in INTEGER
);

CREATE TABLE ledger (
    seq INTEGER PRIMARY KEY, prev_sha256 TEXT, body BLOB NOT NULL, sha256 TEXT NOT NULL
)
"""

_SECOND = """
ALTER TABLE instructions ADD COLUMN announced_at TEXT;
ALTER TABLE instructions ADD COLUMN occurrence TEXT;
ALTER TABLE runs ADD COLUMN occurrence TEXT;

CREATE TABLE user_runs (
    instruction TEXT NOT NULL, generation INTEGER NOT NULL, user TEXT NOT NULL, state TEXT NOT NULL,
    code TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0, not_before TEXT,
    changed TEXT NOT NULL, PRIMARY KEY (instruction, generation, user)
) WITHOUT ROWID;

CREATE TABLE restarts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    wanted TEXT NOT NULL, boot_id TEXT NOT NULL, policy TEXT NOT NULL, reason TEXT NOT NULL,
    announced TEXT, due TEXT, deferred_until TEXT, deferrals INTEGER NOT NULL DEFAULT 0, requested_by TEXT,
    begun TEXT, ended TEXT, outcome TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX restarts_open ON restarts ((ended IS NULL)) WHERE ended IS NULL
"""

MIGRATIONS: tuple[tuple[str, ...], ...] = tuple(
    tuple(statement.strip() for statement in version.split(";\n")) for version in (_FIRST, _SECOND)
)
"""One entry per schema version, each a list of SQL statements; entry 0 leads to `user_version` 1."""

VERSION = len(MIGRATIONS)

READABLE = "schema.readable_from"  # in `meta`
READABLE_FROM = 2
"""The least VERSION of a service that can work with what these migrations make. It stays as long as migrations only add."""
