//! The demo's view of the daemon's work: what the ledger says, read beside the running daemon.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::deliver::context::ResultContext;
use crate::finding::ModelResult;
use crate::job::{DeliveryState, JobState, State as _, StudyState};
use crate::phi::Phi;
use crate::store::ledger::LedgerError;

/// A study.
#[derive(Debug)]
pub struct Study {
    /// The name that means nothing outside the box.
    pub key: String,
    /// Study Instance UID.
    pub study_uid: Phi<String>,
    /// Where it is.
    pub state: String,
    /// First and last instance, and when it was closed, in ms since the epoch.
    pub first_ms: i64,
    /// See [`first_ms`](Self::first_ms).
    pub last_ms: i64,
    /// See [`first_ms`](Self::first_ms).
    pub closed_ms: Option<i64>,
    /// Why no rule took it: rule and condition. May quote the header.
    pub refused_by: Vec<Phi<String>>,
    /// What runs on it.
    pub jobs: Vec<Job>,
}

/// A model on a study.
#[derive(Debug)]
pub struct Job {
    /// Its name in the site file.
    pub model: String,
    /// Where the job is.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// First claim and end, ms since the epoch.
    pub started_ms: Option<i64>,
    /// See [`started_ms`](Self::started_ms).
    pub finished_ms: Option<i64>,
    /// Milliseconds by stage.
    pub timings: BTreeMap<String, u64>,
    /// What the model said.
    pub outcome: Option<ModelResult>,
    /// What was made of it.
    pub result: Option<Made>,
}

/// A result.
#[derive(Debug)]
pub struct Made {
    /// SOP Instance UID of the SR.
    pub sr_instance_uid: Phi<String>,
    /// MSH-10 of the message.
    pub control_id: String,
    /// What it was made of.
    pub context: Option<ResultContext>,
    /// Where it goes.
    pub deliveries: Vec<Delivery>,
}

/// A result on its way to one destination.
#[derive(Debug)]
pub struct Delivery {
    /// The destination.
    pub destination: String,
    /// Where it is.
    pub state: String,
    /// Tries.
    pub attempts: u32,
    /// When it arrived, ms since the epoch.
    pub delivered_ms: Option<i64>,
    /// The peer's last words.
    pub last_reason: Option<Phi<String>>,
}

/// Where all studies are.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The studies, in the order in which they came.
    pub studies: Vec<Study>,
}

fn rows<T>(
    ledger: &Connection,
    sql: &str,
    id: i64,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    ledger.prepare_cached(sql)?.query_map([id], read)?.collect()
}

impl Snapshot {
    /// Reads the ledger, as it is at one instant.
    pub fn read(ledger: &Connection) -> Result<Snapshot, LedgerError> {
        let snapshot = ledger.unchecked_transaction()?;
        let mut studies = rows(
            &snapshot,
            "SELECT s.id, s.key, s.study_uid, s.state, s.first_at, s.last_at, r.closed_at FROM studies s
             LEFT JOIN revisions r ON r.study_id = s.id AND r.revision = s.revision WHERE s.id > ?1 ORDER BY s.id",
            0,
            |row| {
                let study = Study {
                    key: row.get(1)?,
                    study_uid: Phi::new(row.get(2)?),
                    state: row.get(3)?,
                    first_ms: row.get(4)?,
                    last_ms: row.get(5)?,
                    closed_ms: row.get(6)?,
                    refused_by: Vec::new(),
                    jobs: Vec::new(),
                };
                Ok((row.get::<_, i64>(0)?, study))
            },
        )?;
        for (id, study) in &mut studies {
            study.refused_by = rows(
                &snapshot,
                "SELECT rule, because FROM decisions WHERE study_id = ?1 AND matched = 0 ORDER BY id",
                *id,
                |row| {
                    Ok(Phi::new(format!(
                        "rule \"{}\": {}",
                        row.get::<_, String>(0)?,
                        row.get::<_, String>(1)?
                    )))
                },
            )?;
            study.jobs = jobs(&snapshot, *id)?;
        }
        Ok(Snapshot { studies: studies.into_iter().map(|(_, study)| study).collect() })
    }

    /// The study with that UID.
    pub fn study(&self, uid: &Phi<String>) -> Option<&Study> {
        self.studies.iter().find(|study| study.study_uid == *uid)
    }
}

fn jobs(ledger: &Connection, study: i64) -> rusqlite::Result<Vec<Job>> {
    let mut jobs = rows(
        ledger,
        "SELECT id, model, state, error, started_at, finished_at, timings, outcome FROM jobs
         WHERE study_id = ?1 ORDER BY id",
        study,
        |row| {
            let timings: Option<String> = row.get(6)?;
            let outcome: Option<String> = row.get(7)?;
            let job = Job {
                model: row.get(1)?,
                state: row.get(2)?,
                error: row.get(3)?,
                started_ms: row.get(4)?,
                finished_ms: row.get(5)?,
                timings: timings.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
                outcome: outcome.and_then(|text| serde_json::from_str(&text).ok()),
                result: None,
            };
            Ok((row.get::<_, i64>(0)?, job))
        },
    )?;
    for (id, job) in &mut jobs {
        let made = rows(
            ledger,
            "SELECT id, sr_instance_uid, message_control_id, context FROM results WHERE job_id = ?1 ORDER BY id",
            *id,
            |row| {
                let made = Made {
                    sr_instance_uid: Phi::new(row.get(1)?),
                    control_id: row.get(2)?,
                    context: serde_json::from_str(&row.get::<_, String>(3)?).ok(),
                    deliveries: Vec::new(),
                };
                Ok((row.get::<_, i64>(0)?, made))
            },
        )?;
        if let Some((result, mut made)) = made.into_iter().next_back() {
            made.deliveries = rows(
                ledger,
                "SELECT destination, state, attempts, delivered_at, last_reason FROM deliveries
                 WHERE result_id = ?1 ORDER BY id",
                result,
                |row| {
                    Ok(Delivery {
                        destination: row.get(0)?,
                        state: row.get(1)?,
                        attempts: row.get(2)?,
                        delivered_ms: row.get(3)?,
                        last_reason: row.get::<_, Option<String>>(4)?.map(Phi::new),
                    })
                },
            )?;
            job.result = Some(made);
        }
    }
    Ok(jobs.into_iter().map(|(_, job)| job).collect())
}

/// Where a study stands on its way to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everything was done and delivered, or no rule takes it.
    Ended,
    /// Not yet: the stage that it is in.
    Underway(String),
    /// It went wrong for good: stage and error.
    Failed(String, String),
}

impl Study {
    /// Where it stands.
    pub fn standing(&self) -> Standing {
        for job in &self.jobs {
            if job.state == JobState::Failed.as_str() {
                let error = job.error.clone().unwrap_or_else(|| "no reason was written down".into());
                return Standing::Failed(format!("model \"{}\"", job.model), error);
            }
        }
        for delivery in self.deliveries() {
            if delivery.state == DeliveryState::Dead.as_str() {
                return Standing::Failed(
                    format!("delivery to \"{}\"", delivery.destination),
                    delivery.reason(),
                );
            }
        }
        if self.state == StudyState::Unrouted.as_str() {
            return Standing::Ended;
        }
        if self.state != StudyState::Done.as_str() {
            let running = self.jobs.iter().find(|job| job.state == JobState::Running.as_str());
            return Standing::Underway(match running {
                Some(job) => format!("model \"{}\" runs", job.model),
                None => self.state.clone(),
            });
        }
        let open = self.deliveries().find(|delivery| {
            DeliveryState::parse(&delivery.state)
                .is_none_or(|state| !matches!(state, DeliveryState::Delivered | DeliveryState::Held))
        });
        match open {
            None => Standing::Ended,
            Some(delivery) => Standing::Underway(format!("delivery to \"{}\"", delivery.destination)),
        }
    }

    /// All its deliveries.
    pub fn deliveries(&self) -> impl Iterator<Item = &Delivery> {
        self.jobs.iter().filter_map(|job| job.result.as_ref()).flat_map(|made| &made.deliveries)
    }

    /// The last error that anything about it met, failed for good or not.
    pub fn last_error(&self) -> Option<String> {
        let of_jobs = self.jobs.iter().filter_map(|job| job.error.clone());
        let of_deliveries =
            self.deliveries().filter(|delivery| delivery.last_reason.is_some()).map(Delivery::reason);
        of_jobs.chain(of_deliveries).last()
    }

    /// Seconds by stage: how long it came in, waited, was worked on, and was delivered. A study that
    /// no rule takes has the first two.
    pub fn seconds(&self) -> BTreeMap<&'static str, f64> {
        let seconds = |from: i64, to: i64| (to - from).max(0) as f64 / 1000.0;
        let mut stages = BTreeMap::from([("ingest", seconds(self.first_ms, self.last_ms))]);
        let started = self.jobs.iter().filter_map(|job| job.started_ms).min();
        if let Some(begun) = started.or(self.closed_ms) {
            stages.insert("wait", seconds(self.last_ms, begun));
        }
        for stage in ["infer", "structure", "report", "build"] {
            let spent: Vec<u64> =
                self.jobs.iter().filter_map(|job| job.timings.get(stage).copied()).collect();
            if !spent.is_empty() {
                stages.insert(stage, spent.iter().sum::<u64>() as f64 / 1000.0);
            }
        }
        let finished = self.jobs.iter().filter_map(|job| job.finished_ms).max();
        let delivered = self.deliveries().filter_map(|delivery| delivery.delivered_ms).max();
        if let (Some(finished), Some(delivered)) = (finished, delivered) {
            stages.insert("deliver", seconds(finished, delivered));
        }
        stages
    }
}

impl Delivery {
    /// The peer's last words, for the person at the demo's terminal.
    fn reason(&self) -> String {
        self.last_reason
            .as_ref()
            .map_or_else(|| "no reason was given".to_owned(), |reason| reason.expose().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn study(state: &str, job: &str, delivery: &str) -> Study {
        let deliveries = vec![Delivery {
            destination: "pacs".into(),
            state: delivery.into(),
            attempts: 1,
            delivered_ms: Some(9_000),
            last_reason: Some(Phi::from("busy")),
        }];
        let result =
            Made { sr_instance_uid: Phi::from("1"), control_id: "c".into(), context: None, deliveries };
        Study {
            key: "k".into(),
            study_uid: Phi::from("1"),
            state: state.into(),
            first_ms: 1_000,
            last_ms: 1_500,
            closed_ms: Some(3_600),
            refused_by: Vec::new(),
            jobs: vec![Job {
                model: "m".into(),
                state: job.into(),
                error: (job == "failed").then(|| "no engine".to_owned()),
                started_ms: Some(4_000),
                finished_ms: Some(8_000),
                timings: BTreeMap::from([("infer".to_owned(), 2_500)]),
                outcome: None,
                result: Some(result),
            }],
        }
    }

    #[test]
    fn a_study_has_ended_when_everything_is_delivered() {
        assert_eq!(study("done", "done", "delivered").standing(), Standing::Ended);
        let underway = |text: &str| Standing::Underway(text.into());
        assert_eq!(study("done", "done", "queued").standing(), underway("delivery to \"pacs\""));
        assert_eq!(study("processing", "running", "queued").standing(), underway("model \"m\" runs"));
        assert_eq!(study("receiving", "waiting", "queued").standing(), underway("receiving"));
        let failed = study("done", "failed", "delivered").standing();
        assert_eq!(failed, Standing::Failed("model \"m\"".into(), "no engine".into()));
        let dead = study("done", "done", "dead").standing();
        assert_eq!(dead, Standing::Failed("delivery to \"pacs\"".into(), "busy".into()));
    }

    #[test]
    fn the_stages_follow_one_another() {
        let seconds = study("done", "done", "delivered").seconds();
        let expected = [("deliver", 1.0), ("infer", 2.5), ("ingest", 0.5), ("wait", 2.5)];
        assert_eq!(seconds.into_iter().collect::<Vec<_>>(), expected);
    }
}
