//! What versions said of live studies: of those whose results leave the box (monitors watch them), in the
//! same transaction as the end of the job.

use std::collections::BTreeMap;

use lightbox_models::Manifest;
use lightbox_models::plan::{Observed, Tier};
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::audit::chain::hex;
use crate::finding::{self, Completeness, ModelResult};
use crate::store::jobs::Claim;
use crate::store::ledger::{LedgerError, Writer, json_column};

/// What a version said of one study, as far as statistics need it. No patient data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// Why it failed; none where it ran.
    pub failed: Option<String>,
    /// How long the run took, in ms.
    pub latency_ms: f64,
    /// Whether any finding was flagged.
    pub flagged: bool,
    /// By label.
    pub labels: BTreeMap<String, Scored>,
    /// SHA-256 over all that it said, hex: equal digests are equal results.
    pub output: String,
}

/// What a version said of one label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scored {
    /// The greatest score; 0 where nothing was found.
    pub score: f64,
    /// The highest tier.
    pub tier: Tier,
}

impl Reading {
    /// Of a model that ran; none where nothing was there for it to look at: that is no word of the model's.
    pub fn of(manifest: &Manifest, result: &ModelResult, latency_ms: f64) -> Option<Reading> {
        if matches!(result.completeness, Completeness::NotRun(_)) {
            return None;
        }
        let labels = manifest.label.iter().filter(|label| !label.negative);
        let labels = labels.map(|label| {
            let of_label = result.findings.iter().filter(|finding| finding.label == label.name);
            let mut scored = Scored { score: 0.0, tier: Tier::Suppressed };
            for finding in of_label {
                scored.score = scored.score.max(finding.score);
                scored.tier = scored.tier.max(tier(finding.tier));
            }
            (label.name.clone(), scored)
        });
        let said = serde_json::json!([result.completeness, result.findings, result.examined]);
        Some(Reading {
            failed: None,
            latency_ms,
            flagged: result.findings.iter().any(|finding| finding.tier == finding::Tier::Flagged),
            labels: labels.collect(),
            output: hex(&Sha256::digest(said.to_string().as_bytes())),
        })
    }

    /// Of a model that failed.
    pub fn failed(why: &str) -> Reading {
        Reading {
            failed: Some(why.to_owned()),
            latency_ms: 0.0,
            flagged: false,
            labels: BTreeMap::new(),
            output: String::new(),
        }
    }

    fn observed(self, place: i64) -> Observed {
        Observed {
            place,
            failed: self.failed.is_some(),
            flagged: self.flagged,
            latency_ms: self.latency_ms,
            scores: self.labels.into_iter().map(|(label, scored)| (label, scored.score)).collect(),
        }
    }
}

fn tier(tier: finding::Tier) -> Tier {
    match tier {
        finding::Tier::Suppressed => Tier::Suppressed,
        finding::Tier::Flagged => Tier::Flagged,
        finding::Tier::Reported => Tier::Reported,
    }
}

/// Keeps what a job's version said; of a job that is replayed, the last.
pub fn keep_run(
    writer: &Writer<'_>,
    claim: &Claim,
    digest: &str,
    reading: &Reading,
) -> Result<(), LedgerError> {
    writer
        .tx()
        .prepare_cached(
            "INSERT OR REPLACE INTO model_runs (job_id, study_id, slot, digest, activation, at, reading)
             SELECT ?1, ?2, slot, digest, last_active, ?5, ?6 FROM model_versions WHERE slot = ?3 AND digest = ?4",
        )?
        .execute(params![
            claim.id,
            claim.study_id,
            claim.model,
            digest,
            writer.now_ms(),
            serde_json::json!(reading).to_string()
        ])?;
    Ok(())
}

/// The place of a version's last live study; 0: none yet.
pub fn last_run(reader: &Connection, slot: &str, digest: &str) -> Result<i64, LedgerError> {
    Ok(reader
        .prepare_cached("SELECT coalesce(max(id), 0) FROM model_runs WHERE slot = ?1 AND digest = ?2")?
        .query_row([slot, digest], |row| row.get(0))?)
}

fn observed(row: &Row<'_>) -> rusqlite::Result<Observed> {
    let reading: Reading = json_column(row, 1)?;
    Ok(reading.observed(row.get(0)?))
}

/// A version's last live studies of one activation, at most `count`, the oldest first.
pub fn live(
    reader: &Connection,
    slot: &str,
    digest: &str,
    activation: u64,
    count: u32,
) -> Result<Vec<Observed>, LedgerError> {
    let mut found: Vec<Observed> = reader
        .prepare_cached(
            "SELECT id, reading FROM model_runs WHERE slot = ?1 AND digest = ?2 AND activation = ?3
             ORDER BY id DESC LIMIT ?4",
        )?
        .query_map(params![slot, digest, activation as i64, count], observed)?
        .collect::<rusqlite::Result<_>>()?;
    found.reverse();
    Ok(found)
}

/// The studies that a version ran on first, at most `count`: in shadow, then live.
pub fn first(
    reader: &Connection,
    slot: &str,
    digest: &str,
    count: u32,
) -> Result<Vec<Observed>, LedgerError> {
    // Those in shadow have places of their own below 0.
    let mut found: Vec<Observed> = reader
        .prepare_cached(
            "SELECT -id, candidate FROM shadow_runs WHERE slot = ?1 AND digest = ?2 AND state = 'ran'
             ORDER BY id LIMIT ?3",
        )?
        .query_map(params![slot, digest, count], observed)?
        .collect::<rusqlite::Result<_>>()?;
    let left = (count as usize).saturating_sub(found.len());
    let mut statement = reader.prepare_cached(
        "SELECT id, reading FROM model_runs WHERE slot = ?1 AND digest = ?2
            AND json_extract(reading, '$.failed') IS NULL ORDER BY id LIMIT ?3",
    )?;
    let live = statement.query_map(params![slot, digest, left as i64], observed)?;
    for row in live {
        found.push(row?);
    }
    Ok(found)
}
