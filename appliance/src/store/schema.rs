//! The ledger's tables. Migrations go forward only, one entry a version.

/// SQL of each schema version, in order; entry 0 makes version 1.
pub const MIGRATIONS: &[&str] = &[
    r#"
CREATE TABLE studies (
    id              INTEGER PRIMARY KEY,
    key             TEXT NOT NULL UNIQUE,   -- means nothing outside this box; the only name in logs
    study_uid       TEXT NOT NULL UNIQUE,   -- PHI
    state           TEXT NOT NULL,          -- job::StudyState
    revision        INTEGER NOT NULL,       -- the last closed revision; 0 while the first is open
    first_at        INTEGER NOT NULL,       -- ms since the epoch, as all times here
    last_at         INTEGER NOT NULL,       -- last new instance
    note            TEXT NOT NULL DEFAULT '' -- why it stands where it stands, for people
);
CREATE INDEX studies_by_state ON studies (state, last_at);

CREATE TABLE instances (
    id              INTEGER PRIMARY KEY,
    study_id        INTEGER NOT NULL REFERENCES studies (id),
    object          TEXT NOT NULL UNIQUE,   -- name in the object store: digest of the data set
    series_uid      TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid   TEXT NOT NULL,
    transfer_syntax TEXT NOT NULL,
    modality        TEXT NOT NULL,
    frames          INTEGER NOT NULL,
    size            INTEGER NOT NULL,
    peer            TEXT NOT NULL,
    calling_ae      TEXT NOT NULL,
    received_at     INTEGER NOT NULL,
    state           TEXT NOT NULL,          -- kept | conflict | unreadable | missing
    attributes      TEXT NOT NULL,          -- JSON: what rules look at
    revision        INTEGER                 -- the first closed revision that holds it
);
CREATE INDEX instances_by_study ON instances (study_id, series_uid);
CREATE INDEX instances_by_sop ON instances (sop_instance_uid);

CREATE TABLE revisions (
    study_id        INTEGER NOT NULL REFERENCES studies (id),
    revision        INTEGER NOT NULL,
    closed_at       INTEGER NOT NULL,
    verdict         TEXT NOT NULL,          -- why the study counted as complete
    evidence        TEXT NOT NULL,          -- JSON
    rule_set        TEXT NOT NULL,          -- revision of the rules that decided
    PRIMARY KEY (study_id, revision)
);

CREATE TABLE decisions (
    id              INTEGER PRIMARY KEY,
    study_id        INTEGER NOT NULL REFERENCES studies (id),
    revision        INTEGER NOT NULL,
    series_uid      TEXT NOT NULL,
    rule            TEXT NOT NULL,
    matched         INTEGER NOT NULL,
    because         TEXT NOT NULL,          -- the condition that decided, in words
    inputs          TEXT NOT NULL           -- JSON: the values that the rule saw
);
CREATE INDEX decisions_by_study ON decisions (study_id, revision);

CREATE TABLE jobs (
    id              INTEGER PRIMARY KEY,
    study_id        INTEGER NOT NULL REFERENCES studies (id),
    revision        INTEGER NOT NULL,
    model           TEXT NOT NULL,          -- name in the site file
    state           TEXT NOT NULL,          -- job::JobState
    series          TEXT NOT NULL,          -- JSON list of Series Instance UIDs
    deliver         TEXT NOT NULL,          -- JSON list of destinations
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_at         INTEGER NOT NULL,
    owner           TEXT,                   -- the boot that holds the lease
    lease_until     INTEGER,
    created_at      INTEGER NOT NULL,
    started_at      INTEGER,                -- first claim: the time that results carry, fixed once
    finished_at     INTEGER,
    model_digest    TEXT,
    timings         TEXT,                   -- JSON: ms per stage
    error           TEXT,                   -- why it failed, without PHI
    outcome         TEXT,                   -- JSON: finding::ModelResult
    UNIQUE (study_id, revision, model)
);
CREATE INDEX jobs_by_state ON jobs (state, next_at);

CREATE TABLE results (
    id              INTEGER PRIMARY KEY,
    job_id          INTEGER NOT NULL REFERENCES jobs (id), -- a replayed job makes a second result
    study_id        INTEGER NOT NULL REFERENCES studies (id),
    revision        INTEGER NOT NULL,
    model           TEXT NOT NULL,
    sr_series_uid   TEXT NOT NULL,
    sr_instance_uid TEXT NOT NULL UNIQUE,
    message_control_id TEXT NOT NULL,
    sr_file         TEXT NOT NULL,
    oru_files       TEXT NOT NULL,          -- JSON: destination -> file
    context         TEXT NOT NULL,          -- JSON: deliver::context::ResultContext
    created_at      INTEGER NOT NULL
);
CREATE INDEX results_by_study ON results (study_id, revision);

CREATE TABLE deliveries (
    id              INTEGER PRIMARY KEY,
    result_id       INTEGER NOT NULL REFERENCES results (id),
    destination     TEXT NOT NULL,
    state           TEXT NOT NULL,          -- job::DeliveryState
    attempts        INTEGER NOT NULL DEFAULT 0,
    queued_at       INTEGER NOT NULL,
    next_at         INTEGER NOT NULL,
    owner           TEXT,
    lease_until     INTEGER,
    last_at         INTEGER,
    last_reason     TEXT,                   -- the peer's own words; may hold PHI, so never logged
    delivered_at    INTEGER,
    UNIQUE (result_id, destination)
);
CREATE INDEX deliveries_due ON deliveries (destination, state, next_at);

CREATE TABLE refusals (
    id              INTEGER PRIMARY KEY,
    at              INTEGER NOT NULL,
    peer            TEXT NOT NULL,          -- name in the site file, or the address where unknown
    calling_ae      TEXT NOT NULL,
    address         TEXT NOT NULL,
    reason          TEXT NOT NULL,
    remedy          TEXT NOT NULL
);
CREATE INDEX refusals_by_peer ON refusals (peer, at);

CREATE TABLE audit (
    seq             INTEGER PRIMARY KEY,
    at              INTEGER NOT NULL,
    boot            TEXT NOT NULL,
    event           TEXT NOT NULL,
    outcome         TEXT NOT NULL,
    subject         TEXT NOT NULL,
    detail          TEXT NOT NULL,          -- JSON, without PHI
    hash            BLOB NOT NULL
);
CREATE TRIGGER audit_is_append_only_1 BEFORE UPDATE ON audit
    BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_append_only_2 BEFORE DELETE ON audit
    BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;
CREATE TABLE audit_checkpoints (
    seq             INTEGER PRIMARY KEY,
    at              INTEGER NOT NULL,
    hash            BLOB NOT NULL,
    signature       BLOB NOT NULL
);
CREATE TABLE audit_head (
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    seq             INTEGER NOT NULL,
    hash            BLOB NOT NULL,
    signature       BLOB NOT NULL
);
"#,
    // Association policy: how a caller was refused, and which certificate each peer showed last.
    r#"
ALTER TABLE refusals ADD COLUMN code TEXT NOT NULL DEFAULT ''; -- 1/1/3 | context 3 | TLS
CREATE TABLE peer_certificates (
    peer            TEXT PRIMARY KEY,       -- name in the site file
    sha256          TEXT NOT NULL,          -- fingerprint, hex
    not_after       INTEGER NOT NULL,       -- when it expires
    seen_at         INTEGER NOT NULL
);
"#,
];
