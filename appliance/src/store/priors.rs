//! Earlier studies in the ledger: what was asked for with which study, what the PACS has, what came.
//!
//! A row of `prior_fetches` is one rule's wish on one study; its rows of `priors` are the earlier studies
//! chosen. Both are written before anything is retrieved, so that what comes is known as fetched, after a
//! crash too.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ledger::{LedgerError, Writer, json_column};
use crate::audit::{Event, EventKind, Outcome};
use crate::ingest::rules::{Routing, RuleSet, SeriesFacts};
use crate::job::{JobState, State, StudyState};
use crate::phi::Phi;
use lightbox_provisioning::site::{PriorsBy, Same};

/// After the end of a fetch, what is under way at the peer may still come for this long.
const STRAGGLERS_MS: i64 = 60_000;

/// What is asked for: the rule's criteria and the values of the study that they are compared with. Fixed
/// when the rule first matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Study Instance UID of the study that asks.
    pub study_uid: Phi<String>,
    /// Patient ID.
    pub patient_id: Option<Phi<String>>,
    /// Issuer of Patient ID.
    pub issuer: Option<Phi<String>>,
    /// Study Date, `YYYYMMDD`.
    pub study_date: Option<Phi<String>>,
    /// Study Time, as sent.
    pub study_time: Option<String>,
    /// Modality of the series that the rule matched.
    pub modality: Option<String>,
    /// Its Body Part Examined.
    pub body_part: Option<String>,
    /// How many earlier studies.
    pub latest: u32,
    /// Whether the modality must be the same.
    pub same_modality: bool,
    /// Whether the body part must be the same.
    pub same_body_part: bool,
    /// How much earlier they may be.
    pub within_days: Option<u32>,
    /// C-GET, else C-MOVE.
    pub by_get: bool,
    /// QIDO-RS and WADO-RS instead.
    #[serde(default)]
    pub by_web: bool,
}

impl Ask {
    /// How it is to come.
    pub fn by(&self) -> PriorsBy {
        match (self.by_web, self.by_get) {
            (true, _) => PriorsBy::Dicomweb,
            (false, true) => PriorsBy::Get,
            (false, false) => PriorsBy::Move,
        }
    }
}

/// A wish that is open.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Its row.
    pub id: i64,
    /// Key of the study that asks.
    pub study_key: String,
    /// The rule.
    pub rule: String,
    /// Whom to ask.
    pub peer: String,
    /// For what.
    pub ask: Ask,
    /// When the models start without it.
    pub until: i64,
}

/// What came of a wish, for people and for the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchLine {
    /// The rule.
    pub rule: String,
    /// Who was asked, as named in the site file.
    pub from: String,
    /// `wanted` while it is under way, else `ended`.
    pub state: String,
    /// How it ended, in words, without patient data; empty when all went well.
    pub reason: String,
    /// How many were wanted.
    pub wanted: u32,
    /// Earlier studies that fit, as far as was looked; `None` where the peer did not tell.
    pub found: Option<u32>,
    /// From when the rule first matched to the end, milliseconds.
    pub took_ms: Option<i64>,
    /// The studies chosen, the latest first.
    pub priors: Vec<PriorLine>,
}

/// An earlier study that was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PriorLine {
    /// Its study key.
    pub study: String,
    /// Study Date.
    pub date: Phi<String>,
    /// `fetching`, `held`, `partial` or `failed`.
    pub state: String,
    /// Instances of the wanted series at the peer, where it tells.
    pub instances: Option<u32>,
    /// Instances of these series that are here.
    pub held: u32,
    /// Why it is not all here.
    pub reason: String,
}

impl FetchLine {
    /// The same in one line, without patient data.
    pub fn words(&self) -> String {
        let held = self.priors.iter().filter(|prior| prior.state == "held").count();
        let images: u32 = self.priors.iter().map(|prior| prior.held).sum();
        let found = match self.found {
            Some(found) => format!("{found} found"),
            None => "not known how many there are".to_owned(),
        };
        let under_way = if self.state == "wanted" { "; under way" } else { "" };
        let reason = if self.reason.is_empty() { String::new() } else { format!("; {}", self.reason) };
        let plural = if images == 1 { "" } else { "s" };
        format!(
            "{} wanted from {}, {found}, {held} here whole ({images} image{plural} in all){under_way}{reason}",
            self.wanted, self.from
        )
    }
}

/// Writes the wishes of the rules that match, once for each rule and study. Yields whether any is new.
pub fn want(
    writer: &Writer<'_>,
    study_id: i64,
    study_uid: &Phi<String>,
    routing: &Routing,
    rules: &RuleSet,
    facts: &[SeriesFacts],
) -> Result<bool, LedgerError> {
    let (now, mut new) = (writer.now_ms(), false);
    for asked in &routing.priors {
        let settings = rules.rule(&asked.rule).and_then(|rule| rule.priors.as_ref());
        let series = facts.iter().find(|series| series.series_uid == asked.series_uid);
        let (Some(settings), Some(series)) = (settings, series) else { continue };
        let attributes = &series.attributes;
        let ask = Ask {
            study_uid: study_uid.clone(),
            patient_id: attributes.patient_id.clone(),
            issuer: attributes.patient_issuer.clone(),
            study_date: attributes.study_date.clone(),
            study_time: attributes.study_time.clone(),
            modality: attributes.modality.clone(),
            body_part: attributes.body_part.clone(),
            latest: settings.latest,
            same_modality: settings.same.contains(&Same::Modality),
            same_body_part: settings.same.contains(&Same::BodyPart),
            within_days: settings.within_days,
            by_get: settings.by == PriorsBy::Get,
            by_web: settings.by == PriorsBy::Dicomweb,
        };
        let deadline_ms = i64::try_from(settings.deadline_seconds).unwrap_or(600) * 1000;
        let written = writer
            .tx()
            .prepare_cached(
                "INSERT INTO prior_fetches (study_id, rule, peer, ask, state, wanted, created_at, until)
                 VALUES (?1,?2,?3,?4,'wanted',?5,?6,?7) ON CONFLICT (study_id, rule) DO NOTHING",
            )?
            .execute(params![
                study_id,
                asked.rule,
                settings.from,
                json!(ask).to_string(),
                settings.latest,
                now,
                now + deadline_ms,
            ])?;
        new |= written > 0;
    }
    Ok(new)
}

/// Whether every wish of a routing is written already.
pub fn all_wanted(reader: &Connection, study_id: i64, routing: &Routing) -> Result<bool, LedgerError> {
    for asked in &routing.priors {
        let there: bool = reader
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM prior_fetches WHERE study_id = ?1 AND rule = ?2)")?
            .query_row(params![study_id, asked.rule], |row| row.get(0))?;
        if !there {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Has the jobs that were just written wait for the priors that their rules ask for, to the deadline at most.
pub fn attach(
    writer: &Writer<'_>,
    study_id: i64,
    routing: &Routing,
    rules: &RuleSet,
) -> Result<(), LedgerError> {
    let models: std::collections::BTreeSet<&String> = routing
        .priors
        .iter()
        .filter_map(|asked| rules.rule(&asked.rule))
        .flat_map(|rule| &rule.models)
        .collect();
    for model in models {
        let of_model: Vec<&str> = routing
            .priors
            .iter()
            .filter(|asked| rules.rule(&asked.rule).is_some_and(|rule| rule.models.contains(model)))
            .map(|asked| asked.rule.as_str())
            .collect();
        let names = json!(of_model).to_string();
        writer
            .tx()
            .prepare_cached(
                "UPDATE jobs SET asks_priors = ?3, next_at = max(next_at, coalesce((
                    SELECT max(f.until) FROM prior_fetches f WHERE f.study_id = ?1 AND f.state = 'wanted'
                        AND f.rule IN (SELECT value FROM json_each(?3))), 0))
                 WHERE study_id = ?1 AND model = ?2 AND state = ?4 AND started_at IS NULL AND asks_priors IS NULL",
            )?
            .execute(params![study_id, model, names, JobState::Waiting.as_str()])?;
    }
    Ok(())
}

/// The wishes that are open, STAT studies first.
pub fn open(reader: &Connection) -> Result<Vec<Fetch>, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT f.id, s.key, f.rule, f.peer, f.ask, f.until FROM prior_fetches f
             JOIN studies s ON s.id = f.study_id WHERE f.state = 'wanted' ORDER BY s.priority DESC, f.id",
        )?
        .query_map([], |row| {
            Ok(Fetch {
                id: row.get(0)?,
                study_key: row.get(1)?,
                rule: row.get(2)?,
                peer: row.get(3)?,
                ask: json_column(row, 4)?,
                until: row.get(5)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// An earlier study that is about to be retrieved, or need not be.
#[derive(Clone, Debug)]
pub struct NewPrior {
    /// Study Instance UID.
    pub study_uid: Phi<String>,
    /// Its key.
    pub study_key: String,
    /// Study Date.
    pub date: Phi<String>,
    /// Its wanted series, and how many instances the peer has of each.
    pub series: Vec<(Phi<String>, Option<u32>)>,
}

impl NewPrior {
    /// Instances of all wanted series at the peer; `None` where it does not tell of one.
    pub fn instances(&self) -> Option<u32> {
        self.series.iter().map(|(_, instances)| *instances).sum()
    }
}

/// Writes down what was chosen. From now on what comes of it is known as fetched.
pub fn choose(
    writer: &Writer<'_>,
    fetch: &Fetch,
    found: u32,
    chosen: &[NewPrior],
) -> Result<(), LedgerError> {
    let tx = writer.tx();
    tx.prepare_cached("UPDATE prior_fetches SET found = ?2 WHERE id = ?1")?
        .execute(params![fetch.id, found])?;
    // After a crash the peer may have other studies than before it.
    tx.prepare_cached("DELETE FROM priors WHERE fetch_id = ?1 AND state = 'fetching'")?
        .execute([fetch.id])?;
    for prior in chosen {
        tx.prepare_cached(
            "INSERT INTO priors (fetch_id, study_uid, study_key, date, peer, state, instances, held, reason, until)
             VALUES (?1,?2,?3,?4,?5,'fetching',?6,0,'',?7) ON CONFLICT (fetch_id, study_uid) DO NOTHING",
        )?
        .execute(params![
            fetch.id,
            prior.study_uid.expose(),
            prior.study_key,
            prior.date.expose(),
            fetch.peer,
            prior.instances(),
            fetch.until + STRAGGLERS_MS,
        ])?;
    }
    Ok(())
}

/// Instances of a series that are here.
pub fn held(
    reader: &Connection,
    study_uid: &Phi<String>,
    series_uid: &Phi<String>,
) -> Result<u32, LedgerError> {
    Ok(reader
        .prepare_cached(
            "SELECT count(*) FROM instances WHERE study_id = (SELECT id FROM studies WHERE study_uid = ?1)
                AND series_uid = ?2 AND state IN ('kept', 'unreadable')",
        )?
        .query_row([study_uid.expose(), series_uid.expose()], |row| row.get(0))?)
}

/// Whether the study was sent to us and is still here, and so is not completed from elsewhere.
pub fn was_sent(reader: &Connection, study_uid: &Phi<String>) -> Result<bool, LedgerError> {
    let state: Option<String> = reader
        .prepare_cached("SELECT state FROM studies WHERE study_uid = ?1")?
        .query_row([study_uid.expose()], |row| row.get(0))
        .optional()?;
    let not_sent = [StudyState::Fetched.as_str(), StudyState::Purged.as_str()];
    Ok(state.is_some_and(|state| !not_sent.contains(&state.as_str())))
}

/// Writes down how far a prior got; `reason` is empty where all of it is here.
pub fn settle(
    writer: &Writer<'_>,
    fetch: i64,
    prior: &NewPrior,
    held: u32,
    reason: &str,
) -> Result<(), LedgerError> {
    let complete = reason.is_empty() || prior.instances().is_some_and(|there| held >= there && held > 0);
    let state = match (complete, held) {
        (true, _) => "held",
        (false, 0) => "failed",
        (false, _) => "partial",
    };
    let reason = if complete { "" } else { reason };
    writer
        .tx()
        .prepare_cached(
            "UPDATE priors SET state = ?3, held = ?4, reason = ?5 WHERE fetch_id = ?1 AND study_uid = ?2",
        )?
        .execute(params![fetch, prior.study_uid.expose(), state, held, reason])?;
    Ok(())
}

/// Ends a wish, and lets the jobs start that waited for nothing else.
pub fn end(writer: &Writer<'_>, fetch: &Fetch, reason: &str) -> Result<(), LedgerError> {
    let (tx, now) = (writer.tx(), writer.now_ms());
    let ended = tx
        .prepare_cached(
            "UPDATE prior_fetches SET state = 'ended', reason = ?2, ended_at = ?3 WHERE id = ?1 AND state = 'wanted'",
        )?
        .execute(params![fetch.id, reason, now])?;
    if ended == 0 {
        return Ok(());
    }
    // What was under way when time ran out: what came of it is kept.
    tx.prepare_cached(
        "UPDATE priors SET held = (SELECT count(*) FROM instances i JOIN studies s ON s.id = i.study_id
            WHERE s.study_uid = priors.study_uid AND i.state IN ('kept', 'unreadable'))
         WHERE fetch_id = ?1 AND state = 'fetching'",
    )?
    .execute([fetch.id])?;
    tx.prepare_cached(
        "UPDATE priors SET reason = ?2, state = CASE WHEN held > 0 THEN 'partial' ELSE 'failed' END
         WHERE fetch_id = ?1 AND state = 'fetching'",
    )?
    .execute(params![fetch.id, reason])?;
    tx.prepare_cached(
        "UPDATE jobs SET next_at = ?2
         WHERE study_id = (SELECT study_id FROM prior_fetches WHERE id = ?1) AND state = ?3
            AND started_at IS NULL AND asks_priors IS NOT NULL AND next_at > ?2
            AND NOT EXISTS (SELECT 1 FROM prior_fetches f WHERE f.study_id = jobs.study_id AND f.state = 'wanted'
                AND f.rule IN (SELECT value FROM json_each(jobs.asks_priors)))",
    )?
    .execute(params![fetch.id, now, JobState::Waiting.as_str()])?;
    let line = line(tx, fetch.id)?;
    let held = line.priors.iter().filter(|prior| prior.state == "held").count();
    writer.audit(
        &Event::new(
            EventKind::PriorsFetched,
            fetch.study_key.as_str(),
            json!({
                "rule": fetch.rule, "peer": fetch.peer, "wanted": line.wanted, "found": line.found,
                "chosen": line.priors.len(), "held": held, "reason": reason,
            }),
        )
        .with_outcome(if reason.is_empty() { Outcome::Success } else { Outcome::Minor }),
    )
}

/// Fixes what a job that is claimed for the first time is told of priors.
pub fn fix(writer: &Writer<'_>, job: i64) -> Result<(), LedgerError> {
    let tx = writer.tx();
    let asked: Option<(i64, Vec<String>)> = tx
        .prepare_cached(
            "SELECT study_id, asks_priors FROM jobs WHERE id = ?1 AND asks_priors IS NOT NULL AND priors IS NULL",
        )?
        .query_row([job], |row| Ok((row.get(0)?, json_column(row, 1)?)))
        .optional()?;
    let Some((study_id, rules)) = asked else { return Ok(()) };
    let mut lines = of_study(tx, study_id)?;
    lines.retain(|line| rules.contains(&line.rule));
    tx.prepare_cached("UPDATE jobs SET priors = ?2 WHERE id = ?1")?
        .execute(params![job, json!(lines).to_string()])?;
    Ok(())
}

/// Whether an instance of that study from that peer comes because we fetch it.
pub fn is_fetched(
    connection: &Connection,
    study_uid: &Phi<String>,
    peer: &str,
    now: i64,
) -> Result<bool, LedgerError> {
    Ok(connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM priors WHERE study_uid = ?1 AND peer = ?2 AND until > ?3)",
        )?
        .query_row(params![study_uid.expose(), peer, now], |row| row.get(0))?)
}

/// The wishes of a study and what came of them.
pub fn of_study(connection: &Connection, study_id: i64) -> Result<Vec<FetchLine>, LedgerError> {
    let ids: Vec<i64> = connection
        .prepare_cached("SELECT id FROM prior_fetches WHERE study_id = ?1 ORDER BY id")?
        .query_map([study_id], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    ids.into_iter().map(|id| line(connection, id)).collect()
}

fn line(connection: &Connection, fetch: i64) -> Result<FetchLine, LedgerError> {
    let priors = connection
        .prepare_cached(
            "SELECT study_key, date, state, instances, held, reason FROM priors WHERE fetch_id = ?1 ORDER BY id",
        )?
        .query_map([fetch], |row| {
            Ok(PriorLine {
                study: row.get(0)?,
                date: Phi::new(row.get(1)?),
                state: row.get(2)?,
                instances: row.get(3)?,
                held: row.get(4)?,
                reason: row.get(5)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(connection
        .prepare_cached(
            "SELECT rule, peer, state, reason, wanted, found, ended_at - created_at FROM prior_fetches WHERE id = ?1",
        )?
        .query_row([fetch], |row| {
            Ok(FetchLine {
                rule: row.get(0)?,
                from: row.get(1)?,
                state: row.get(2)?,
                reason: row.get(3)?,
                wanted: row.get(4)?,
                found: row.get(5)?,
                took_ms: row.get(6)?,
                priors,
            })
        })?)
}
