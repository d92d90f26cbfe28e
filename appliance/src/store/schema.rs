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
    // Storage commitment, performed procedure steps, availability.
    r#"
CREATE TABLE commitments (               -- a peer asks us to commit (we are SCP)
    id              INTEGER PRIMARY KEY,
    peer            TEXT NOT NULL,
    transaction_uid TEXT NOT NULL,          -- PHI, as all UIDs
    refs            TEXT NOT NULL,          -- JSON: [dicom::commitment::Reference]
    report          TEXT,                   -- JSON: dicom::commitment::Report, once it is made
    state           TEXT NOT NULL,          -- reporting | reported | given-up
    attempts        INTEGER NOT NULL DEFAULT 0,
    asked_at        INTEGER NOT NULL,
    next_at         INTEGER NOT NULL,
    ended_at        INTEGER,
    reason          TEXT NOT NULL DEFAULT '', -- why the last try to report failed
    UNIQUE (peer, transaction_uid)
);
CREATE INDEX commitments_due ON commitments (state, next_at);

CREATE TABLE procedure_steps (
    uid             TEXT PRIMARY KEY,
    study_uid       TEXT NOT NULL,
    peer            TEXT NOT NULL,
    status          TEXT NOT NULL,          -- IN PROGRESS | COMPLETED | DISCONTINUED
    series          TEXT NOT NULL,          -- JSON: [{"series_uid","instances":[uid]}]
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
);
CREATE INDEX procedure_steps_by_study ON procedure_steps (study_uid);

CREATE TABLE announcements (
    id              INTEGER PRIMARY KEY,
    study_uid       TEXT NOT NULL,
    peer            TEXT NOT NULL,
    series          TEXT NOT NULL,          -- JSON: [{"series_uid","instances":n,"uids":[uid]}]
    at              INTEGER NOT NULL
);
CREATE INDEX announcements_by_study ON announcements (study_uid);

-- We ask a PACS to commit to what was delivered (we are SCU).
ALTER TABLE deliveries ADD COLUMN commit_state TEXT;        -- due | asked | committed | failed
ALTER TABLE deliveries ADD COLUMN commit_transaction TEXT;  -- Transaction UID
ALTER TABLE deliveries ADD COLUMN commit_attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN commit_next_at INTEGER;
ALTER TABLE deliveries ADD COLUMN commit_reason TEXT;       -- codes and our words, no PHI
ALTER TABLE deliveries ADD COLUMN committed_at INTEGER;
CREATE INDEX deliveries_by_commit ON deliveries (destination, commit_state, commit_next_at);
CREATE INDEX deliveries_by_transaction ON deliveries (commit_transaction);
"#,
    r#"
-- Evidence of completeness, jobs on one series, orders.
ALTER TABLE studies ADD COLUMN priority INTEGER NOT NULL DEFAULT 0; -- 1: STAT; 2: the box's own self-test

CREATE TABLE counts (                       -- what a PACS answered when it was asked for its count
    study_id        INTEGER PRIMARY KEY REFERENCES studies (id),
    peer            TEXT NOT NULL,
    asked_at        INTEGER NOT NULL,
    tries           INTEGER NOT NULL,       -- since the last new instance
    instances       INTEGER,                -- NULL: it did not tell
    series          TEXT NOT NULL,          -- JSON: [{"series_uid", "modality", "instances"}]
    fault           TEXT                    -- why there is no answer, without PHI
);

-- SQLite cannot drop the old UNIQUE, so the table is made anew.
CREATE TABLE jobs_next (
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
    scope           TEXT NOT NULL DEFAULT '', -- Series Instance UID of a job on one series, else empty
    through         INTEGER NOT NULL DEFAULT 0, -- of a job on one series: the last instances.id that it sees
    verdict         TEXT,                   -- of a job on one series: why the series counted as complete
    order_context   TEXT,                   -- JSON: the order's identifiers as of the first claim
    UNIQUE (study_id, revision, model, scope, through)
);
INSERT INTO jobs_next (id, study_id, revision, model, state, series, deliver, attempts, next_at, owner, lease_until,
    created_at, started_at, finished_at, model_digest, timings, error, outcome)
    SELECT id, study_id, revision, model, state, series, deliver, attempts, next_at, owner, lease_until,
    created_at, started_at, finished_at, model_digest, timings, error, outcome FROM jobs;
DROP TABLE jobs;
ALTER TABLE jobs_next RENAME TO jobs;
CREATE INDEX jobs_by_state ON jobs (state, next_at);
CREATE INDEX jobs_by_study ON jobs (study_id, scope);

CREATE TABLE orders_inbox (                 -- every HL7 message that came, as it came
    id              INTEGER PRIMARY KEY,
    received_at     INTEGER NOT NULL,
    source          TEXT NOT NULL,          -- name in the site file
    sender          TEXT NOT NULL,          -- MSH-3 and MSH-4
    control_id      TEXT NOT NULL,          -- MSH-10; PHI, as it may be anything
    body_digest     TEXT NOT NULL,          -- of what it says: tells a repeat from a reused MSH-10
    kind            TEXT NOT NULL,          -- ORM^O01 and so on; empty where it could not be read
    state           TEXT NOT NULL,          -- applied | refused
    note            TEXT NOT NULL,          -- what was done with it, or why not; without PHI
    orders          INTEGER NOT NULL,       -- how many orders it changed
    raw             BLOB NOT NULL
);
CREATE INDEX orders_inbox_by_id ON orders_inbox (source, sender, control_id);

CREATE TABLE orders (                       -- PHI throughout
    id              INTEGER PRIMARY KEY,
    source          TEXT NOT NULL,
    message_id      INTEGER NOT NULL REFERENCES orders_inbox (id), -- the last one that changed it
    status          TEXT NOT NULL,          -- NW | XO | CA | DC
    placer          TEXT NOT NULL,
    filler          TEXT NOT NULL,
    accession       TEXT NOT NULL,
    study_uid       TEXT NOT NULL,
    patient_id      TEXT NOT NULL,
    patient_issuer  TEXT NOT NULL,
    stat            INTEGER NOT NULL,
    modality        TEXT NOT NULL,
    station_ae      TEXT NOT NULL,
    procedure       TEXT NOT NULL,          -- JSON: {"code", "meaning", "scheme"}
    scheduled       TEXT NOT NULL,          -- HL7 time stamp, as sent
    expected_series INTEGER,
    expected_instances INTEGER,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
);
CREATE INDEX orders_by_study ON orders (study_uid);
CREATE INDEX orders_by_accession ON orders (accession);
CREATE INDEX orders_by_filler ON orders (source, filler);
CREATE INDEX orders_by_placer ON orders (source, placer);
CREATE INDEX orders_by_patient ON orders (patient_id);

CREATE TABLE patient_merges (               -- ADT^A40: the prior identifier now means the other one
    prior_id        TEXT NOT NULL,
    prior_issuer    TEXT NOT NULL,
    patient_id      TEXT NOT NULL,
    patient_issuer  TEXT NOT NULL,
    at              INTEGER NOT NULL,
    PRIMARY KEY (prior_id, prior_issuer)
);
"#,
    // Routing: forwards, how deliveries may leave, and the rule sets that were active.
    r#"
CREATE TABLE forwards (
    id              INTEGER PRIMARY KEY,
    study_id        INTEGER NOT NULL REFERENCES studies (id),
    revision        INTEGER NOT NULL,
    series_uid      TEXT NOT NULL,
    destination     TEXT NOT NULL,
    rule            TEXT NOT NULL,          -- the first rule that asked for it
    dispatch        TEXT NOT NULL,          -- dispatch::Dispatch
    edits           TEXT NOT NULL,          -- JSON: elements that the rules change on the way
    state           TEXT NOT NULL,          -- job::DeliveryState
    attempts        INTEGER NOT NULL DEFAULT 0,
    created_at      INTEGER NOT NULL,
    queued_at       INTEGER NOT NULL,       -- from when on it is tried: giving up counts from here
    next_at         INTEGER NOT NULL,
    owner           TEXT,
    lease_until     INTEGER,
    last_at         INTEGER,
    last_reason     TEXT,                   -- the peer's own words; may hold PHI, so never logged
    delivered_at    INTEGER,
    total           INTEGER NOT NULL,       -- instances
    sent            INTEGER NOT NULL DEFAULT 0,
    UNIQUE (study_id, revision, series_uid, destination)
);
CREATE INDEX forwards_due ON forwards (destination, state, next_at);
CREATE INDEX forwards_by_study ON forwards (study_id, destination);

CREATE TABLE forward_instances (
    id              INTEGER PRIMARY KEY,    -- the order of sending
    forward_id      INTEGER NOT NULL REFERENCES forwards (id),
    object          TEXT NOT NULL,          -- instances.object
    state           TEXT NOT NULL,          -- waiting | sent | refused
    tries           INTEGER NOT NULL DEFAULT 0, -- times the association broke on it
    reason          TEXT,                   -- why it was refused; may hold PHI
    UNIQUE (forward_id, object)
);

ALTER TABLE deliveries ADD COLUMN dispatch TEXT NOT NULL DEFAULT 'assist'; -- dispatch::Dispatch

CREATE TABLE rule_sets (
    id              INTEGER PRIMARY KEY,
    since           INTEGER NOT NULL,       -- the start that made it active
    revision        TEXT NOT NULL,          -- what decisions name
    text            TEXT NOT NULL           -- TOML
);
CREATE INDEX rule_sets_by_revision ON rule_sets (revision);
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
    // Scrubbing.
    r#"
ALTER TABLE instances ADD COLUMN verified_at INTEGER; -- when its bytes were last reread and found sound
CREATE INDEX instances_by_age ON instances (coalesce(verified_at, received_at));
"#,
    // Priors: earlier studies that a rule wants fetched before its models run.
    r#"
CREATE TABLE prior_fetches (                -- one rule's wish on one study
    id              INTEGER PRIMARY KEY,
    study_id        INTEGER NOT NULL REFERENCES studies (id),
    rule            TEXT NOT NULL,
    peer            TEXT NOT NULL,          -- who is asked, as named in the site file
    ask             TEXT NOT NULL,          -- JSON: store::priors::Ask; PHI
    state           TEXT NOT NULL,          -- wanted | ended
    reason          TEXT NOT NULL DEFAULT '', -- how it ended, without PHI; empty when all went well
    wanted          INTEGER NOT NULL,       -- earlier studies
    found           INTEGER,                -- that fit; NULL: the peer did not tell
    created_at      INTEGER NOT NULL,
    until           INTEGER NOT NULL,       -- then the models start without
    ended_at        INTEGER,
    UNIQUE (study_id, rule)
);
CREATE INDEX prior_fetches_open ON prior_fetches (state);

CREATE TABLE priors (                       -- an earlier study that was chosen
    id              INTEGER PRIMARY KEY,
    fetch_id        INTEGER NOT NULL REFERENCES prior_fetches (id),
    study_uid       TEXT NOT NULL,          -- PHI
    study_key       TEXT NOT NULL,
    date            TEXT NOT NULL,          -- Study Date
    peer            TEXT NOT NULL,          -- what it sends of this study until `until` is fetched
    state           TEXT NOT NULL,          -- fetching | held | partial | failed
    instances       INTEGER,                -- of the wanted series at the peer; NULL: it does not tell
    held            INTEGER NOT NULL,       -- of these, here
    reason          TEXT NOT NULL,          -- why it is not all here, without PHI
    until           INTEGER NOT NULL,
    UNIQUE (fetch_id, study_uid)
);
CREATE INDEX priors_by_study ON priors (study_uid);

ALTER TABLE instances ADD COLUMN fetched INTEGER NOT NULL DEFAULT 0; -- 1: only fetched, not sent to us
-- Aged orders go with their messages.
CREATE INDEX orders_by_message ON orders (message_id);
CREATE INDEX orders_by_age ON orders (updated_at);
CREATE INDEX orders_inbox_by_age ON orders_inbox (received_at);

ALTER TABLE jobs ADD COLUMN asks_priors TEXT; -- JSON: the rules whose priors it waits for
ALTER TABLE jobs ADD COLUMN priors TEXT;      -- JSON: [store::priors::FetchLine] as of the first claim
"#,
    // Model updates: what was seen of the repository, plans, versions and their lives, approvals, records.
    r#"
CREATE TABLE model_trust (                  -- one row: the repository of models
    id              INTEGER PRIMARY KEY CHECK (id = 1),
    seen            TEXT,                   -- JSON: trust::SeenVersions, on disk before anything is used
    checked_at      INTEGER,                -- the last look, however it went
    expires_at      INTEGER,                -- when the first of the metadata is past its date
    clause          TEXT NOT NULL DEFAULT '', -- what the last look refused; empty: nothing
    problem         TEXT NOT NULL DEFAULT ''
);

CREATE TABLE model_plans (
    sha256          TEXT PRIMARY KEY,
    plan            TEXT NOT NULL,          -- plan.id
    version         INTEGER NOT NULL,
    text            TEXT NOT NULL,          -- TOML, as it was signed
    since           INTEGER NOT NULL
);

CREATE TABLE model_slots (                  -- a [[model]] with a target
    slot            TEXT PRIMARY KEY,       -- its name
    target          TEXT NOT NULL,
    plan_target     TEXT NOT NULL,
    managed         INTEGER NOT NULL,       -- 1: the site file of the last start names it
    plan_sha256     TEXT REFERENCES model_plans (sha256),
    note            TEXT NOT NULL DEFAULT '' -- what keeps the whole slot waiting
);

CREATE TABLE model_versions (
    id              INTEGER PRIMARY KEY,
    slot            TEXT NOT NULL REFERENCES model_slots (slot),
    digest          TEXT NOT NULL,          -- the bundle's
    target          TEXT NOT NULL,
    target_sha256   TEXT NOT NULL,
    version         TEXT NOT NULL,
    release         INTEGER NOT NULL,
    manifest        TEXT NOT NULL,          -- TOML
    state           TEXT NOT NULL,          -- life_cycle::State
    kept            INTEGER NOT NULL,       -- 1: its files are here
    last_active     INTEGER NOT NULL,       -- place among the slot's activations; 0: never active
    received_at     INTEGER NOT NULL,
    since           INTEGER NOT NULL,       -- in this state
    note            TEXT NOT NULL,          -- what it waits for, or why it is where it is
    plan            TEXT,                   -- under which it was accepted
    plan_version    INTEGER,
    acceptance      TEXT,                   -- acceptance_records.sha256
    updates         TEXT NOT NULL DEFAULT '{}', -- JSON: modification -> updates since the baseline
    UNIQUE (slot, digest)
);
-- Which version runs is this one row, and nothing else.
CREATE UNIQUE INDEX model_versions_active ON model_versions (slot) WHERE state = 'active';

CREATE TABLE model_events (                 -- a version's life
    id              INTEGER PRIMARY KEY,
    at              INTEGER NOT NULL,
    slot            TEXT NOT NULL,
    digest          TEXT NOT NULL,
    event           TEXT NOT NULL,          -- life_cycle::Event, or `receive`
    state_before    TEXT NOT NULL,
    state_after     TEXT NOT NULL,
    actor           TEXT NOT NULL,          -- `box`, or a person
    reason          TEXT NOT NULL,
    evidence        TEXT NOT NULL,
    verdict         TEXT                    -- JSON: plan::Verdict, where a plan ruled
);
CREATE INDEX model_events_by_version ON model_events (slot, digest);

CREATE TABLE model_approvals (
    id              INTEGER PRIMARY KEY,
    at              INTEGER NOT NULL,
    slot            TEXT NOT NULL,
    digest          TEXT NOT NULL,
    person          TEXT NOT NULL,
    account         TEXT NOT NULL,          -- whose shell or certificate it was
    event_id        INTEGER NOT NULL,       -- the version's last event then: an approval is of what it was seen in
    acknowledged    TEXT NOT NULL           -- digest of the instructions for use that were read, or empty
);
CREATE INDEX model_approvals_by_version ON model_approvals (slot, digest);

CREATE TABLE acceptance_records (
    sha256          TEXT PRIMARY KEY,       -- of the record's bytes
    slot            TEXT NOT NULL,
    digest          TEXT NOT NULL,
    at              INTEGER NOT NULL,
    record          BLOB NOT NULL,          -- acceptance::AcceptanceRecord, canonical
    signature       BLOB NOT NULL,          -- by the device's key
    evidence        TEXT NOT NULL           -- JSON: update::evidence::Kept, from which a ruling can be made again
);

CREATE TABLE model_refusals (               -- targets that never became a version: no bundle to begin with
    slot            TEXT NOT NULL,
    target          TEXT NOT NULL,
    target_sha256   TEXT NOT NULL,
    at              INTEGER NOT NULL,
    clause          TEXT NOT NULL,
    why             TEXT NOT NULL,
    PRIMARY KEY (slot, target_sha256)
);

CREATE TABLE model_recalls (
    sha256          TEXT PRIMARY KEY,
    target          TEXT NOT NULL,
    role            TEXT NOT NULL,          -- who signed it
    at              INTEGER NOT NULL,
    text            TEXT NOT NULL,          -- TOML, as it was signed
    note            TEXT NOT NULL           -- what was done, or why it could not be read
);

CREATE TABLE model_requests (               -- looks at the repository that people ask for
    id              INTEGER PRIMARY KEY,
    at              INTEGER NOT NULL,
    person          TEXT NOT NULL,
    override_reason TEXT NOT NULL,          -- why metadata past their date are to be taken; empty: they are not
    done_at         INTEGER,
    outcome         TEXT NOT NULL DEFAULT ''
);

ALTER TABLE jobs ADD COLUMN pinned_digest TEXT; -- of a signed model: the version that began the job
"#,
    // Shadow runs and monitors: what versions of signed models said of live studies.
    r#"
CREATE TABLE model_runs (                   -- by the version whose results leave the box
    id              INTEGER PRIMARY KEY,    -- the order in which they ended
    job_id          INTEGER NOT NULL,
    study_id        INTEGER NOT NULL REFERENCES studies (id),
    slot            TEXT NOT NULL,
    digest          TEXT NOT NULL,          -- the version
    activation      INTEGER NOT NULL,       -- model_versions.last_active then: a monitor's window begins with it
    at              INTEGER NOT NULL,
    reading         TEXT NOT NULL,          -- JSON: store::models::Reading, without PHI
    UNIQUE (job_id, digest)
);
CREATE INDEX model_runs_by_version ON model_runs (slot, digest, id);

CREATE TABLE shadow_runs (                  -- by a candidate beside it: a study once, without output
    id              INTEGER PRIMARY KEY,
    slot            TEXT NOT NULL,
    digest          TEXT NOT NULL,          -- the candidate
    beside          TEXT NOT NULL,          -- the active version
    study_id        INTEGER NOT NULL REFERENCES studies (id),
    job_id          INTEGER NOT NULL,       -- whose images it sees
    state           TEXT NOT NULL,          -- begun | ran | failed | lost (the daemon ended with it)
    attempts        INTEGER NOT NULL,
    at              INTEGER NOT NULL,
    active          TEXT NOT NULL,          -- JSON: store::models::Reading of the active version
    candidate       TEXT,                   -- JSON: of the candidate, once it ended
    UNIQUE (slot, digest, study_id)
);

CREATE TABLE shadow_times (                 -- for how long a candidate was ready to run
    slot            TEXT NOT NULL,
    digest          TEXT NOT NULL,
    beside          TEXT NOT NULL,          -- with another active version it begins anew
    after_run       INTEGER NOT NULL,       -- model_runs.id: what ended before is not compared
    began_at        INTEGER NOT NULL,
    served_ms       INTEGER NOT NULL,
    seen_at         INTEGER NOT NULL,
    boot            TEXT NOT NULL,          -- time between two starts of the daemon does not count
    fault           TEXT NOT NULL,          -- why it does not run now
    PRIMARY KEY (slot, digest)
);

CREATE TABLE shadow_reports (               -- as it stood when people approved, or the plan ruled
    sha256          TEXT PRIMARY KEY,       -- of the page
    slot            TEXT NOT NULL,
    digest          TEXT NOT NULL,          -- the candidate
    at              INTEGER NOT NULL,
    page            TEXT NOT NULL           -- HTML
);
"#,
    // A candidate that takes the daemon down with it.
    r#"
ALTER TABLE model_versions ADD COLUMN trials INTEGER NOT NULL DEFAULT 0; -- runs on this hardware that did not end
"#,
    // Recall notices and the record of the repository: who signed a notice is a part of what it is (the same text of
    // two roles reaches different models), why one cannot be obeyed, and a person's word to begin anew.
    r#"
CREATE TABLE model_recalls_by_role (
    sha256          TEXT NOT NULL,
    target          TEXT NOT NULL,
    role            TEXT NOT NULL,          -- who signed it
    at              INTEGER NOT NULL,
    text            TEXT NOT NULL,          -- TOML, as it was signed; empty: it could not be had
    note            TEXT NOT NULL,          -- what was done, or why it cannot be obeyed
    clause          TEXT NOT NULL DEFAULT '', -- by which it cannot be obeyed; empty: it is
    matched         INTEGER NOT NULL DEFAULT 0, -- versions on this box that it names
    PRIMARY KEY (target, sha256, role)
);
INSERT INTO model_recalls_by_role (sha256, target, role, at, text, note)
    SELECT sha256, target, role, at, text, note FROM model_recalls;
DROP TABLE model_recalls;
ALTER TABLE model_recalls_by_role RENAME TO model_recalls;

ALTER TABLE model_trust ADD COLUMN anew INTEGER NOT NULL DEFAULT 0; -- 1: a person lets the next look be the first
"#,
    // Updates of the firmware image; from which release on a ledger may be opened.
    r#"
-- BREAKS OLDER RELEASES: those before this one know nothing of a ledger's reach.
CREATE TABLE ledger_reach (
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    oldest          INTEGER NOT NULL        -- the oldest schema version whose release may still work on this ledger
);

CREATE TABLE system_trust (                 -- the last look at the repository of images
    id              INTEGER PRIMARY KEY CHECK (id = 1),
    seen            TEXT,                   -- JSON: lightbox_models::trust::SeenVersions
    checked_at      INTEGER,
    expires_at      INTEGER,
    clause          TEXT NOT NULL DEFAULT '',
    problem         TEXT NOT NULL DEFAULT ''
);

CREATE TABLE system_versions (              -- images that the repository has offered to this box
    id              INTEGER PRIMARY KEY,    -- the order in which they came
    version         TEXT NOT NULL,
    manifest_sha256 TEXT NOT NULL UNIQUE,   -- of the signed manifest
    manifest        TEXT NOT NULL,          -- JSON: system::manifest::Manifest
    state           TEXT NOT NULL,          -- store::system::State
    since           INTEGER NOT NULL,
    note            TEXT NOT NULL DEFAULT '', -- why it stands where it stands, for people
    asked_by        TEXT NOT NULL DEFAULT '', -- who wants it installed; empty: nobody yet
    at_once         INTEGER NOT NULL DEFAULT 0, -- without waiting for the window
    dates_by        TEXT NOT NULL DEFAULT '', -- JSON: who lets metadata past their date pass, and why
    ready_at        INTEGER                 -- when it was in its slot
);

CREATE TABLE system_requests (              -- looks that somebody asks for
    id              INTEGER PRIMARY KEY,
    at              INTEGER NOT NULL,
    person          TEXT NOT NULL,
    override_reason TEXT NOT NULL,
    done_at         INTEGER,
    outcome         TEXT NOT NULL DEFAULT ''
);
"#,
    // A daemon that was started again on a machine that was not; starts of the machine.
    r#"
ALTER TABLE system_versions ADD COLUMN boot TEXT NOT NULL DEFAULT ''; -- the kernel's boot_id when the restart was ordered

CREATE TABLE system_starts (                -- starts of the machine that passed their health gate
    id              INTEGER PRIMARY KEY,
    boot            TEXT NOT NULL UNIQUE,   -- the kernel's boot_id
    at              INTEGER NOT NULL,
    entry           TEXT NOT NULL,          -- the boot entry: lightbox_1.2.0
    trouble         TEXT NOT NULL           -- what went wrong before it, for people; empty: nothing
);
"#,
];

/// In the SQL of a migration that releases before it could not work with: they refuse such a ledger. A migration that only
/// adds what older releases leave alone goes without: then a box that falls back to the release before goes on.
const BREAKS: &str = "-- BREAKS OLDER RELEASES";

/// The oldest schema version whose release may work on a ledger of the newest one.
pub fn oldest() -> usize {
    MIGRATIONS.iter().rposition(|sql| sql.contains(BREAKS)).map_or(0, |index| index + 1)
}
