//! One study: what came, who decided what and why, what the models said, and where it went.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde_json::Value;

use super::{DeliveryLine, ForwardLine, PROBLEM, STUDY_COLUMNS, StudyLine};
use crate::dispatch::Dispatch;
use crate::finding::{Code, Completeness, Finding, ModelResult, Region, Tier};
use crate::phi::Phi;
use crate::store::ledger::{LedgerError, json_column};
use crate::store::priors::{self, FetchLine};

/// Everything about one study that a person may ask.
#[derive(Clone, Debug, Serialize)]
pub struct StudyDetail {
    /// The study in one line.
    #[serde(flatten)]
    pub line: StudyLine,
    /// Its series, in the order of their first instance.
    pub series_list: Vec<Series>,
    /// Whether it goes before others.
    pub stat: bool,
    /// Earlier studies that rules wanted with it, and what came of that.
    pub priors: Vec<FetchLine>,
    /// Models on single series of the revision that is still open.
    pub early_jobs: Vec<Job>,
    /// Its closed revisions, the last first.
    pub revisions: Vec<Revision>,
}

/// A series.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// Its place in the study, from 1: its name here, as its UID is the patient's.
    pub number: u32,
    /// Modality.
    pub modality: String,
    /// Series description of its first instance.
    pub description: Phi<String>,
    /// Instances, conflicting and unreadable ones included.
    pub instances: u32,
    /// Instances that came again with other bytes.
    pub conflicts: u32,
    /// Instances that are kept as received and cannot be read.
    pub unreadable: u32,
    /// Sum of the data sets.
    pub bytes: u64,
    /// Peers that sent it, as named in the site file.
    pub peers: String,
}

/// A closed revision.
#[derive(Clone, Debug, Serialize)]
pub struct Revision {
    /// Its number, from 1.
    pub revision: u32,
    /// When it was closed.
    pub closed_at: i64,
    /// Why the study counted as complete.
    pub verdict: String,
    /// What that rests on.
    pub evidence: Value,
    /// Revision of the rules that decided.
    pub rule_set: String,
    /// Every rule's word on every series.
    pub decisions: Vec<Decision>,
    /// The models that ran, run or will run.
    pub jobs: Vec<Job>,
    /// What is sent on as it was received.
    pub forwards: Vec<ForwardLine>,
}

/// One rule's word on one series.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// [`Series::number`]; 0 for a series that the index no longer has.
    pub series: u32,
    /// The rule.
    pub rule: String,
    /// Whether it matched.
    pub matched: bool,
    /// The condition that decided.
    pub because: Phi<String>,
    /// The values that the rule saw.
    pub inputs: Phi<Value>,
}

/// One model on one revision.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    /// What a replay names.
    pub id: i64,
    /// Model, as named in the site file.
    pub model: String,
    /// [`crate::job::JobState`].
    pub state: String,
    /// The series that it got, by number.
    pub series: Vec<u32>,
    /// Of a job on one series by itself: why the series counted as complete.
    pub verdict: Option<String>,
    /// Where its result goes: destination and mode.
    pub deliver: BTreeMap<String, Dispatch>,
    /// Tries so far.
    pub attempts: u32,
    /// The next try.
    pub next_at: i64,
    /// When the rules made it.
    pub created_at: i64,
    /// When it ended.
    pub finished_at: Option<i64>,
    /// Digest of the bundle that ran.
    pub model_digest: Option<String>,
    /// Milliseconds per stage.
    pub timings: BTreeMap<String, f64>,
    /// Why it failed.
    pub error: Option<String>,
    /// What was there of the priors that its rules ask for when it started.
    pub priors: Vec<FetchLine>,
    /// What the model said.
    pub outcome: Option<Outcome>,
    /// It said something that this release cannot read.
    pub outcome_unreadable: bool,
    /// What was made of it.
    pub results: Vec<ResultLine>,
}

/// What a model said, in short.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Name and version.
    pub model: String,
    /// Digest of the bundle.
    pub digest: String,
    /// The change-control plan under which it came to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Digest of the record of its acceptance on this box.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acceptance: Option<String>,
    /// Whether every output carries the mark.
    pub not_for_clinical_use: bool,
    /// How far it got.
    pub completeness: Completeness,
    /// Images examined.
    pub examined: usize,
    /// Findings by tier; every tier is there.
    pub tiers: BTreeMap<String, usize>,
    /// All findings: reported, flagged, suppressed.
    pub findings: Vec<FindingLine>,
}

/// A finding, with its place in the study.
#[derive(Clone, Debug, Serialize)]
pub struct FindingLine {
    /// Its tier.
    pub tier: Tier,
    /// The model's label.
    pub label: String,
    /// What was found.
    pub finding: Code,
    /// Where in the body.
    pub site: Option<Code>,
    /// Which side.
    pub laterality: Option<Code>,
    /// The model's score.
    pub score: f64,
    /// Measurements with their unit.
    pub measurements: Vec<String>,
    /// [`Series::number`].
    pub series: u32,
    /// Instance Number (0020,0013), where the instance has one.
    pub image: Option<i64>,
    /// Frame, from 1.
    pub frame: u32,
    /// The region, for a detection.
    pub region: Option<Region>,
}

/// A result and where it went.
#[derive(Clone, Debug, Serialize)]
pub struct ResultLine {
    /// When it was made.
    pub created_at: i64,
    /// The SR, in the folder of results.
    pub sr_file: String,
    /// Its deliveries.
    pub deliveries: Vec<DeliveryLine>,
}

/// The study with this key.
pub fn study(connection: &Connection, key: &str) -> Result<StudyDetail, LedgerError> {
    let sql = format!("SELECT {STUDY_COLUMNS}, {PROBLEM} FROM studies s WHERE s.key = ?1");
    let line = connection
        .prepare_cached(&sql)?
        .query_row([key], super::study_line)
        .optional()?
        .ok_or(LedgerError::NotFound("study"))?;
    let line = super::complete_line(connection, line)?;
    let (series_list, numbers) = series(connection, line.id)?;
    let study = Study { connection, id: line.id, numbers };
    let revisions = study.revisions()?;
    let stat = connection
        .prepare_cached("SELECT priority = 1 FROM studies WHERE id = ?1")?
        .query_row([study.id], |row| row.get(0))?;
    let early_jobs = study.jobs(line.revision + 1)?;
    let priors = priors::of_study(connection, study.id)?;
    Ok(StudyDetail { line, series_list, stat, priors, early_jobs, revisions })
}

type Numbers = HashMap<String, u32>;

fn series(connection: &Connection, study: i64) -> Result<(Vec<Series>, Numbers), LedgerError> {
    // With min(id) in the list, SQLite takes the plain columns from the row that has it.
    let mut statement = connection.prepare_cached(
        "SELECT series_uid, min(id), modality, attributes, count(*), total(state = 'conflict'),
            total(state IN ('unreadable', 'missing')), total(size), group_concat(DISTINCT peer)
         FROM instances WHERE study_id = ?1 GROUP BY series_uid ORDER BY min(id)",
    )?;
    let mut rows = statement.query([study])?;
    let (mut list, mut numbers) = (Vec::new(), Numbers::new());
    while let Some(row) = rows.next()? {
        let number = list.len() as u32 + 1;
        numbers.insert(row.get(0)?, number);
        let attributes: String = row.get(3)?;
        let attributes: Value = serde_json::from_str(&attributes).unwrap_or_default();
        list.push(Series {
            number,
            modality: row.get(2)?,
            description: attributes["series_description"].as_str().unwrap_or_default().into(),
            instances: row.get(4)?,
            conflicts: row.get::<_, f64>(5)? as u32,
            unreadable: row.get::<_, f64>(6)? as u32,
            bytes: row.get::<_, f64>(7)? as u64,
            peers: row.get::<_, Option<String>>(8)?.unwrap_or_default(),
        });
    }
    Ok((list, numbers))
}

struct Study<'a> {
    connection: &'a Connection,
    id: i64,
    numbers: Numbers,
}

impl Study<'_> {
    fn number(&self, series_uid: &str) -> u32 {
        self.numbers.get(series_uid).copied().unwrap_or_default()
    }

    fn revisions(&self) -> Result<Vec<Revision>, LedgerError> {
        let mut revisions: Vec<Revision> = self
            .connection
            .prepare_cached(
                "SELECT revision, closed_at, verdict, evidence, rule_set FROM revisions
                 WHERE study_id = ?1 ORDER BY revision DESC",
            )?
            .query_map([self.id], |row| {
                Ok(Revision {
                    revision: row.get(0)?,
                    closed_at: row.get(1)?,
                    verdict: row.get(2)?,
                    evidence: parse(&row.get::<_, String>(3)?),
                    rule_set: row.get(4)?,
                    decisions: Vec::new(),
                    jobs: Vec::new(),
                    forwards: Vec::new(),
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        for revision in &mut revisions {
            revision.decisions = self.decisions(revision.revision)?;
            revision.jobs = self.jobs(revision.revision)?;
            revision.forwards = super::forwards::of_revision(self.connection, self.id, revision.revision)?;
        }
        Ok(revisions)
    }

    fn decisions(&self, revision: u32) -> Result<Vec<Decision>, LedgerError> {
        Ok(self
            .connection
            .prepare_cached(
                "SELECT series_uid, rule, matched, because, inputs FROM decisions
                 WHERE study_id = ?1 AND revision = ?2 ORDER BY id",
            )?
            .query_map(params![self.id, revision], |row| {
                Ok(Decision {
                    series: self.number(&row.get::<_, String>(0)?),
                    rule: row.get(1)?,
                    matched: row.get(2)?,
                    because: Phi::new(row.get(3)?),
                    inputs: Phi::new(parse(&row.get::<_, String>(4)?)),
                })
            })?
            .collect::<rusqlite::Result<_>>()?)
    }

    fn jobs(&self, revision: u32) -> Result<Vec<Job>, LedgerError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, model, state, series, deliver, attempts, next_at, created_at, finished_at,
                model_digest, timings, error, outcome, verdict, coalesce(priors, '[]')
             FROM jobs WHERE study_id = ?1 AND revision = ?2 ORDER BY model, id",
        )?;
        let mut rows = statement.query(params![self.id, revision])?;
        let mut jobs = Vec::new();
        while let Some(row) = rows.next()? {
            let series: Vec<String> = serde_json::from_str(&row.get::<_, String>(3)?).unwrap_or_default();
            let timings: Option<String> = row.get(10)?;
            let outcome: Option<String> = row.get(12)?;
            let parsed = outcome.as_deref().map(serde_json::from_str::<ModelResult>);
            let id = row.get(0)?;
            jobs.push(Job {
                id,
                model: row.get(1)?,
                state: row.get(2)?,
                series: series.iter().map(|uid| self.number(uid)).collect(),
                verdict: row.get(13)?,
                deliver: json_column(row, 4)?,
                attempts: row.get(5)?,
                next_at: row.get(6)?,
                created_at: row.get(7)?,
                finished_at: row.get(8)?,
                model_digest: row.get(9)?,
                timings: numbers(timings.as_deref()),
                error: row.get(11)?,
                priors: json_column(row, 14)?,
                outcome_unreadable: matches!(parsed, Some(Err(_))),
                outcome: match parsed {
                    Some(Ok(result)) => Some(self.outcome(&result)?),
                    _ => None,
                },
                results: self.results(id)?,
            });
        }
        Ok(jobs)
    }

    fn outcome(&self, result: &ModelResult) -> Result<Outcome, LedgerError> {
        let tier = |tier: Tier| {
            (tier.as_str().to_owned(), result.findings.iter().filter(|finding| finding.tier == tier).count())
        };
        let mut findings: Vec<FindingLine> =
            result.findings.iter().map(|finding| self.finding(finding)).collect::<Result<_, _>>()?;
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.tier));
        Ok(Outcome {
            model: format!("{} {}", result.model.name, result.model.version),
            digest: result.model.digest.clone(),
            plan: result.model.plan.clone(),
            acceptance: result.model.acceptance.clone(),
            not_for_clinical_use: result.model.not_for_clinical_use,
            completeness: result.completeness.clone(),
            examined: result.examined.len(),
            tiers: [Tier::Reported, Tier::Flagged, Tier::Suppressed].into_iter().map(tier).collect(),
            findings,
        })
    }

    fn finding(&self, finding: &Finding) -> Result<FindingLine, LedgerError> {
        let instance = &finding.source.instance;
        let image = self
            .connection
            .prepare_cached(
                "SELECT json_extract(attributes, '$.instance_number') FROM instances
                 WHERE sop_instance_uid = ?1 AND study_id = ?2 AND state != 'conflict'",
            )?
            .query_row(params![instance.sop_instance_uid.expose(), self.id], |row| row.get(0))
            .optional()?
            .flatten();
        Ok(FindingLine {
            tier: finding.tier,
            label: finding.label.clone(),
            finding: finding.finding.clone(),
            site: finding.site.clone(),
            laterality: finding.laterality.clone(),
            score: finding.score,
            measurements: finding
                .measurements
                .iter()
                .map(|measured| {
                    format!("{} {} {}", measured.name.meaning, measured.value, measured.unit.value)
                })
                .collect(),
            series: self.number(instance.series_uid.expose()),
            image,
            frame: finding.source.frame,
            region: finding.source.region,
        })
    }

    /// The results of a job, the first one first: a job that was run again may have several.
    fn results(&self, job: i64) -> Result<Vec<ResultLine>, LedgerError> {
        let found: Vec<(i64, i64, String)> = self
            .connection
            .prepare_cached("SELECT id, created_at, sr_file FROM results WHERE job_id = ?1 ORDER BY id")?
            .query_map([job], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        found
            .into_iter()
            .map(|(id, created_at, sr_file)| {
                let deliveries = super::deliveries_of_result(self.connection, id)?;
                Ok(ResultLine { created_at, sr_file, deliveries })
            })
            .collect()
    }
}

/// JSON that we wrote; `null` should it be none.
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// The numbers of a JSON object.
fn numbers(text: Option<&str>) -> BTreeMap<String, f64> {
    let Some(Value::Object(object)) = text.map(parse) else { return BTreeMap::new() };
    object.into_iter().filter_map(|(name, value)| Some((name, value.as_f64()?))).collect()
}
