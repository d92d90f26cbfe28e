//! The ledger: SQLite in WAL mode with `synchronous=FULL`, one writer, group commit.
//!
//! Every change goes through [`Ledger::write`]: a closure that runs on the writer thread inside a
//! savepoint. The writer takes all closures that are waiting into one transaction, commits once,
//! and only then answers them, so an answer means *on disk*. Audit records are appended in the
//! same transaction as the change they speak of: neither is ever there without the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use lightbox_bootstrap::identity::DeviceIdentity;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use thiserror::Error;
use tokio::sync::{Notify, oneshot};

use super::schema::{MIGRATIONS, oldest};
use crate::audit::{self, Event};
use crate::clock::SharedClock;

/// Closures that one transaction takes at most, so that none waits too long for its answer.
const GROUP_MAX: usize = 256;
/// Readers kept open for the next query.
const IDLE_READERS_MAX: usize = 4;

/// The ledger could not do what was asked.
#[derive(Clone, Debug, Error)]
pub enum LedgerError {
    /// SQLite refused.
    #[error("ledger: {operation} failed: {reason}")]
    Sqlite {
        /// What was tried.
        operation: &'static str,
        /// SQLite's reason. It names tables and columns, never values.
        reason: String,
        /// Whether the disk is full.
        full: bool,
    },
    /// The file is not a whole SQLite database.
    #[error(
        "the ledger {path} is damaged; remedy: restore the backup, or move ledger.db* aside: the index of \
         instances is rebuilt from the objects, but audit log, results and delivery states start anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The ledger was written by a newer release.
    #[error(
        "the ledger has schema version {found} and may be opened from version {oldest} on, this release knows {known}: start the newer release again"
    )]
    TooNew {
        /// Version found.
        found: usize,
        /// The oldest version that may open it.
        oldest: usize,
        /// Newest version known here.
        known: usize,
    },
    /// The closure panicked; its changes were rolled back.
    #[error("ledger: an operation failed in the code that made it")]
    Panicked,
    /// The writer has ended; the daemon is shutting down.
    #[error("the ledger is closed")]
    Closed,
    /// Something that must be there is not.
    #[error("ledger: no such {0}")]
    NotFound(&'static str),
    /// A change that the legal transitions do not allow.
    #[error("ledger: {0}")]
    Illegal(String),
}

impl LedgerError {
    /// Whether the disk is full: the sender is told to come back later.
    pub fn is_full(&self) -> bool {
        matches!(self, LedgerError::Sqlite { full: true, .. })
    }
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        sqlite("query", &error)
    }
}

fn sqlite(operation: &'static str, error: &rusqlite::Error) -> LedgerError {
    // The write-ahead log's shared memory that cannot grow is a full disk as well.
    let shared_memory = [rusqlite::ffi::SQLITE_IOERR_SHMSIZE, rusqlite::ffi::SQLITE_IOERR_SHMMAP];
    let full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
        || error.sqlite_error().is_some_and(|inner| shared_memory.contains(&inner.extended_code));
    // The message of a constraint or syntax error names tables and columns only; values are
    // always bound, never part of the SQL text.
    LedgerError::Sqlite { operation, reason: error.to_string(), full }
}

/// What a write closure gets: the transaction, and the audit chain that commits with it.
pub struct Writer<'a> {
    tx: &'a Transaction<'a>,
    clock: &'a SharedClock,
    boot: &'a str,
}

impl Writer<'_> {
    /// The open transaction.
    pub fn tx(&self) -> &Transaction<'_> {
        self.tx
    }

    /// Now, for the rows this closure writes.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Appends an audit record.
    pub fn audit(&self, event: &Event) -> Result<(), LedgerError> {
        Ok(audit::chain::append(self.tx, self.clock.now_ms(), self.boot, event)?)
    }
}

type Answer = Box<dyn FnOnce(Result<(), LedgerError>) + Send>;
type Operation = Box<dyn FnOnce(&Writer<'_>) -> (bool, Answer) + Send>;

/// Handle on the ledger; clones share it.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    operations: Mutex<Option<mpsc::Sender<Operation>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    readers: Mutex<Vec<Connection>>,
    boot: String,
    evidence: Arc<Notify>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(mut operations) = self.operations.lock() {
            operations.take();
        }
        if let Ok(mut writer) = self.writer.lock()
            && let Some(writer) = writer.take()
        {
            // The writer ends once all waiting closures are committed; a panic in it was answered.
            drop(writer.join());
        }
    }
}

impl Ledger {
    /// Opens or makes the ledger in `data_dir`, migrates it, and starts its writer.
    pub fn open(
        data_dir: &Path,
        identity: Arc<DeviceIdentity>,
        clock: SharedClock,
    ) -> Result<Self, LedgerError> {
        let path = data_dir.join("ledger.db");
        let opened = Connection::open(&path).and_then(|connection| {
            prepare(&connection)?;
            // Reads every page of the schema, so that a damaged file is known before it is needed.
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
            Ok(connection)
        });
        let mut connection = opened.map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                LedgerError::Damaged { path: path.clone() }
            }
            _ => sqlite("opening", &error),
        })?;
        migrate(&mut connection)?;
        let mut random = [0; 6];
        getrandom::fill(&mut random).map_err(|_| LedgerError::Illegal("no random numbers".into()))?;
        let boot: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let (sender, receiver) = mpsc::channel::<Operation>();
        let writer_boot = boot.clone();
        let evidence = Evidence::watch(&mut connection)?;
        let notify = evidence.notify.clone();
        let writer = std::thread::Builder::new()
            .name("ledger-writer".into())
            .spawn(move || run_writer(connection, &receiver, &identity, &clock, &writer_boot, &evidence))
            .map_err(|error| LedgerError::Illegal(format!("the writer thread did not start: {error}")))?;
        Ok(Ledger {
            inner: Arc::new(Inner {
                path,
                operations: Mutex::new(Some(sender)),
                writer: Mutex::new(Some(writer)),
                readers: Mutex::new(Vec::new()),
                boot,
                evidence: notify,
            }),
        })
    }

    /// Identifies this start of the daemon: owner of the leases it takes.
    pub fn boot(&self) -> &str {
        &self.inner.boot
    }

    /// Told after each commit that wrote something which may complete a study: an instance, a procedure
    /// step, an announcement, an order, a count. Only of this process's commits.
    pub fn evidence(&self) -> Arc<Notify> {
        self.inner.evidence.clone()
    }

    /// Runs a closure in the next transaction; the answer comes after the commit is on disk.
    pub async fn write<T, F>(&self, change: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Writer<'_>) -> Result<T, LedgerError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.submit(change, move |result| drop(sender.send(result)))?;
        receiver.await.map_err(|_| LedgerError::Closed)?
    }

    /// As [`write`](Self::write), for callers outside the async runtime.
    pub fn write_blocking<T, F>(&self, change: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Writer<'_>) -> Result<T, LedgerError> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel();
        self.submit(change, move |result| drop(sender.send(result)))?;
        receiver.recv().map_err(|_| LedgerError::Closed)?
    }

    fn submit<T, F, R>(&self, change: F, reply: R) -> Result<(), LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Writer<'_>) -> Result<T, LedgerError> + Send + 'static,
        R: FnOnce(Result<T, LedgerError>) + Send + 'static,
    {
        let operation: Operation = Box::new(move |writer| {
            let result =
                catch_unwind(AssertUnwindSafe(|| change(writer))).unwrap_or(Err(LedgerError::Panicked));
            let keep = result.is_ok();
            let answer: Answer = Box::new(move |committed| reply(committed.and(result)));
            (keep, answer)
        });
        let operations = self.inner.operations.lock().map_err(|_| LedgerError::Closed)?;
        operations.as_ref().ok_or(LedgerError::Closed)?.send(operation).map_err(|_| LedgerError::Closed)
    }

    /// Runs a query on a reader of its own; it sees the last commit.
    pub async fn read<T, F>(&self, query: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, LedgerError> + Send + 'static,
    {
        let ledger = self.clone();
        tokio::task::spawn_blocking(move || ledger.read_blocking(query))
            .await
            .map_err(|_| LedgerError::Panicked)?
    }

    /// As [`read`](Self::read), for callers outside the async runtime.
    pub fn read_blocking<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let idle = self.inner.readers.lock().map_err(|_| LedgerError::Closed)?.pop();
        let reader = match idle {
            Some(reader) => reader,
            None => open_reader(&self.inner.path)?,
        };
        let result = query(&reader);
        if let Ok(mut readers) = self.inner.readers.lock()
            && readers.len() < IDLE_READERS_MAX
        {
            readers.push(reader);
        }
        result
    }
}

/// Tells of commits that bear on the completeness of studies. It looks at the tables that change, so
/// that no writer can forget to tell.
struct Evidence {
    notify: Arc<Notify>,
    written: Arc<AtomicBool>,
}

impl Evidence {
    const TABLES: &[&str] = &["instances", "procedure_steps", "announcements", "orders", "counts"];

    fn watch(connection: &mut Connection) -> Result<Self, LedgerError> {
        let written = Arc::new(AtomicBool::new(false));
        let seen = written.clone();
        connection
            .update_hook(Some(move |_, _: &str, table: &str, _| {
                if Self::TABLES.contains(&table) {
                    seen.store(true, Ordering::Relaxed);
                }
            }))
            .map_err(|error| sqlite("opening", &error))?;
        Ok(Evidence { notify: Arc::new(Notify::new()), written })
    }

    fn committed(&self) {
        if self.written.swap(false, Ordering::Relaxed) {
            self.notify.notify_one();
        }
    }
}

/// Opens a ledger for reading only, as the command line does beside a running daemon.
pub fn open_reader(path: &Path) -> Result<Connection, LedgerError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader =
        Connection::open_with_flags(path, flags).map_err(|error| sqlite("opening a reader", &error))?;
    reader.busy_timeout(Duration::from_secs(10)).map_err(|error| sqlite("opening a reader", &error))?;
    Ok(reader)
}

/// A column of JSON that this box wrote. What cannot be read back is an error, never an empty value: an
/// empty list of destinations would keep a result back in silence. The error names no value.
pub fn json_column<T: serde::de::DeserializeOwned>(
    row: &rusqlite::Row<'_>,
    index: usize,
) -> rusqlite::Result<T> {
    let text: String = row.get(index)?;
    serde_json::from_str(&text).map_err(|_| {
        let why = "the JSON in this column cannot be read back".into();
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, why)
    })
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(())
}

fn migrate(connection: &mut Connection) -> Result<(), LedgerError> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let found = found as usize;
    if found > MIGRATIONS.len() {
        return fits(connection);
    }
    // A migration may make a table anew, which foreign keys to it would forbid; SQLite takes this
    // setting outside of transactions only.
    connection.pragma_update(None, "foreign_keys", false)?;
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(found) {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(sql).map_err(|error| sqlite("migrating", &error))?;
        tx.pragma_update(None, "user_version", index as u32 + 1)?;
        let dangling: bool =
            tx.query_row("SELECT EXISTS (SELECT 1 FROM pragma_foreign_key_check)", [], |row| row.get(0))?;
        if dangling {
            return Err(LedgerError::Illegal("a migration left rows that refer to nothing".into()));
        }
        tx.commit().map_err(|error| sqlite("migrating", &error))?;
    }
    if found < MIGRATIONS.len() {
        connection.execute(
            "INSERT INTO ledger_reach (one, oldest) VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET oldest = ?1",
            [oldest() as u32],
        )?;
    }
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(())
}

/// Whether this release may work on a ledger. A newer release has migrated it where the box fell back to this one: then
/// the newer release has written down how old a release may be.
pub fn fits(connection: &Connection) -> Result<(), LedgerError> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let (found, known) = (found as usize, MIGRATIONS.len());
    if found <= known {
        return Ok(());
    }
    let oldest = connection.query_row("SELECT oldest FROM ledger_reach", [], |row| row.get(0));
    let oldest = oldest.map_or(found, |oldest: u32| oldest as usize);
    if oldest > known {
        return Err(LedgerError::TooNew { found, oldest, known });
    }
    tracing::warn!(found, known, "the ledger was migrated by a newer release; this one may work on it");
    Ok(())
}

fn run_writer(
    mut connection: Connection,
    operations: &mpsc::Receiver<Operation>,
    identity: &DeviceIdentity,
    clock: &SharedClock,
    boot: &str,
    evidence: &Evidence,
) {
    while let Ok(first) = operations.recv() {
        let mut group = vec![first];
        while group.len() < GROUP_MAX {
            match operations.try_recv() {
                Ok(next) => group.push(next),
                Err(_) => break,
            }
        }
        run_group(&mut connection, group, identity, clock, boot);
        evidence.committed();
    }
}

/// One transaction: each closure in its savepoint, the chain's new head signed, one commit, then
/// the answers.
fn run_group(
    connection: &mut Connection,
    group: Vec<Operation>,
    identity: &DeviceIdentity,
    clock: &SharedClock,
    boot: &str,
) {
    let mut answers: Vec<Answer> = Vec::with_capacity(group.len());
    let committed = (|| -> Result<(), LedgerError> {
        let tx = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| sqlite("beginning", &error))?;
        for operation in group {
            tx.execute_batch("SAVEPOINT one").map_err(|error| sqlite("beginning", &error))?;
            let (keep, answer) = operation(&Writer { tx: &tx, clock, boot });
            answers.push(answer);
            // A full disk makes SQLite roll the whole transaction back by itself: then nothing in
            // this group happened, and every caller must hear it.
            if tx.is_autocommit() {
                return Err(LedgerError::Sqlite {
                    operation: "writing",
                    reason: "the transaction was rolled back (disk full or input/output error)".into(),
                    full: true,
                });
            }
            let end = if keep { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" };
            tx.execute_batch(end).map_err(|error| sqlite("writing", &error))?;
        }
        audit::chain::sign_head(&tx, clock.now_ms(), identity).map_err(|error| sqlite("signing", &error))?;
        tx.commit().map_err(|error| sqlite("committing", &error))
    })();
    for answer in answers {
        answer(committed.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn open(folder: &Path) -> Ledger {
        let identity = Arc::new(DeviceIdentity::open_or_create(&folder.join("device.key")).expect("key"));
        Ledger::open(folder, identity, Arc::new(SystemClock)).expect("opened")
    }

    fn count(ledger: &Ledger) -> i64 {
        ledger
            .read_blocking(|reader| {
                Ok(reader.query_row("SELECT count(*) FROM refusals", [], |row| row.get(0))?)
            })
            .expect("counted")
    }

    fn refuse(writer: &Writer<'_>) -> Result<(), LedgerError> {
        writer.tx().execute(
            "INSERT INTO refusals (at, peer, calling_ae, address, reason, remedy) VALUES (1,'','','','','')",
            [],
        )?;
        Ok(())
    }

    #[test]
    fn a_failed_or_panicking_change_leaves_nothing_and_spoils_no_other() {
        let folder = tempfile::tempdir().expect("temp dir");
        let ledger = open(folder.path());
        ledger.write_blocking(refuse).expect("written");
        let failed = ledger.write_blocking(|writer| {
            refuse(writer)?;
            Err::<(), _>(LedgerError::NotFound("study"))
        });
        assert!(failed.is_err());
        let panicked = ledger.write_blocking(|writer| -> Result<(), LedgerError> {
            refuse(writer)?;
            panic!("a bug");
        });
        assert!(matches!(panicked, Err(LedgerError::Panicked)));
        ledger.write_blocking(refuse).expect("written");
        assert_eq!(count(&ledger), 2);
    }

    #[test]
    fn what_was_answered_is_there_after_reopening() {
        let folder = tempfile::tempdir().expect("temp dir");
        let ledger = open(folder.path());
        for _ in 0..10 {
            ledger.write_blocking(refuse).expect("written");
        }
        drop(ledger);
        assert_eq!(count(&open(folder.path())), 10);
    }

    /// A ledger as the first release left it: a study with its job, result and delivery.
    fn first_release(path: &Path) {
        let connection = Connection::open(path).expect("made");
        prepare(&connection).expect("prepared");
        connection.execute_batch(MIGRATIONS[0]).expect("the first schema");
        connection.pragma_update(None, "user_version", 1).expect("set");
        connection
            .execute_batch(
                "INSERT INTO studies VALUES (3, 'abc', '1.2', 'done', 1, 10, 20, 'note');
                 INSERT INTO instances VALUES (5, 3, 'abc/o', '1.2.1', '1.2.1.1', 'ct', 'le', 'CT', 1, 9, 'ct-1',
                    'CT1', 11, 'kept', '{}', 1);
                 INSERT INTO revisions VALUES (3, 1, 21, 'verdict', '{}', 'rules');
                 INSERT INTO decisions VALUES (4, 3, 1, '1.2.1', 'rule', 1, 'because', '{}');
                 INSERT INTO jobs VALUES (7, 3, 1, 'phantom', 'done', '[\"1.2.1\"]', '{\"pacs\":\"assist\"}', 2, 22,
                    NULL, NULL, 22, 23, 24, 'digest', '{}', NULL, NULL);
                 INSERT INTO results VALUES (8, 7, 3, 1, 'phantom', '1.2.8', '1.2.8.1', 'M1', 'sr.dcm', '{}', '{}', 25);
                 INSERT INTO deliveries VALUES (9, 8, 'pacs', 'dead', 3, 25, 26, NULL, NULL, 27, 'full', NULL);
                 INSERT INTO refusals VALUES (2, 1, 'ct-1', 'CT1', '::1', 'why', 'remedy');",
            )
            .expect("rows");
    }

    #[test]
    fn a_ledger_of_the_first_release_keeps_its_rows_and_their_references() {
        let folder = tempfile::tempdir().expect("temp dir");
        first_release(&folder.path().join("ledger.db"));
        let ledger = open(folder.path());
        let text = |sql: &'static str| {
            ledger.read_blocking(move |reader| Ok(reader.query_row(sql, [], |row| row.get::<_, String>(0))?))
        };
        for (sql, expected) in [
            ("SELECT user_version || '' FROM pragma_user_version", MIGRATIONS.len().to_string().as_str()),
            ("SELECT count(*) || '' FROM pragma_foreign_key_check", "0"),
            ("SELECT id || key || study_uid || state || revision || note || priority FROM studies", "3abc1.2done1note0"),
            ("SELECT id || object || state || revision || fetched FROM instances", "5abc/okept10"),
            (
                "SELECT id || study_id || model || state || series || deliver || attempts || started_at || scope || through
                 FROM jobs",
                "73phantomdone[\"1.2.1\"]{\"pacs\":\"assist\"}2230",
            ),
            ("SELECT id || job_id || sr_instance_uid || message_control_id FROM results", "871.2.8.1M1"),
            ("SELECT id || result_id || state || last_reason || dispatch FROM deliveries", "98deadfullassist"),
            ("SELECT verdict || rule_set FROM revisions", "verdictrules"),
            ("SELECT rule || because FROM decisions", "rulebecause"),
            ("SELECT peer || reason || code FROM refusals", "ct-1why"),
        ] {
            assert_eq!(text(sql).expect(sql), expected, "{sql}");
        }
        // The references hold from now on, to the table that was made anew as well.
        let orphan = ledger.write_blocking(|writer| {
            writer.tx().execute("DELETE FROM jobs", [])?;
            Ok(())
        });
        assert!(orphan.is_err(), "a result lost its job");
        drop(ledger);
        assert_eq!(count(&open(folder.path())), 1, "it opens again");
    }

    #[test]
    fn a_newer_schema_is_left_alone() {
        let folder = tempfile::tempdir().expect("temp dir");
        drop(open(folder.path()));
        let connection = Connection::open(folder.path().join("ledger.db")).expect("opened");
        connection.pragma_update(None, "user_version", 999).expect("set");
        connection.execute("DELETE FROM ledger_reach", []).expect("removed");
        drop(connection);
        let identity =
            Arc::new(DeviceIdentity::open_or_create(&folder.path().join("device.key")).expect("key"));
        let error = Ledger::open(folder.path(), identity, Arc::new(SystemClock)).err();
        assert!(matches!(error, Some(LedgerError::TooNew { found: 999, .. })), "without a word of its reach");
    }

    /// What a box meets that has fallen back from a newer release, which has migrated the ledger.
    #[test]
    fn a_newer_ledger_is_worked_on_where_the_newer_release_allows_it() {
        let folder = tempfile::tempdir().expect("temp dir");
        drop(open(folder.path()));
        let newer = |oldest: usize| {
            let connection = Connection::open(folder.path().join("ledger.db")).expect("opened");
            connection.pragma_update(None, "user_version", MIGRATIONS.len() as u32 + 1).expect("set");
            connection.execute("UPDATE ledger_reach SET oldest = ?1", [oldest as u32]).expect("set");
        };
        newer(MIGRATIONS.len());
        let connection = Connection::open(folder.path().join("ledger.db")).expect("opened");
        let added =
            "CREATE TABLE of_a_later_release (id INTEGER); ALTER TABLE studies ADD COLUMN later TEXT;";
        connection.execute_batch(added).expect("migrated");
        drop(connection);
        let ledger = open(folder.path());
        ledger.write_blocking(|writer| {
            writer.tx().execute("INSERT INTO studies (key, study_uid, state, revision, first_at, last_at) VALUES ('k','1.2','done',0,1,1)", [])?;
            writer.audit(&Event::new(audit::EventKind::Started, "box", serde_json::json!({})))
        }).expect("the older release goes on");
        drop(ledger);
        let connection = Connection::open(folder.path().join("ledger.db")).expect("opened");
        let version: u32 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).expect("read");
        assert_eq!(version as usize, MIGRATIONS.len() + 1, "it stays a ledger of the newer release");
        newer(MIGRATIONS.len() + 1);
        let identity =
            Arc::new(DeviceIdentity::open_or_create(&folder.path().join("device.key")).expect("key"));
        let error = Ledger::open(folder.path(), identity, Arc::new(SystemClock)).err().expect("refused");
        let known = MIGRATIONS.len();
        assert!(
            matches!(error, LedgerError::TooNew { found, oldest, .. } if found == known + 1 && oldest == known + 1)
        );
        assert!(error.to_string().contains("start the newer release again"));
    }
}
