//! `summary.json`: what the demo did, for programs. Studies go by their keys; no value of a
//! patient's is in it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::studies::Sent;
use super::watch::{Snapshot, Study};
use crate::finding::{Completeness, ModelResult, Tier};

/// The whole summary.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// True: every study ended, every result arrived, every phantom's answers are the truth, and
    /// the audit chain verifies.
    pub ok: bool,
    /// What received the SRs.
    pub pacs: String,
    /// One entry for each study that was sent.
    pub studies: Vec<StudySummary>,
    /// One entry for each result and destination.
    pub deliveries: Vec<DeliverySummary>,
    /// The audit log.
    pub audit: AuditSummary,
    /// What the demo could not send, and why.
    pub missing: Vec<String>,
    /// From the start to the end.
    pub seconds: f64,
}

/// A study.
#[derive(Debug, Serialize)]
pub struct StudySummary {
    /// What it is.
    pub what: String,
    /// Its key.
    pub key: String,
    /// `done` or `unrouted`.
    pub state: String,
    /// Instances sent.
    pub instances: usize,
    /// The models that examined it, as the site file names them.
    pub models: Vec<String>,
    /// Findings of each tier: `reported`, `flagged`, `suppressed`.
    pub findings: BTreeMap<&'static str, usize>,
    /// The visible findings, in the order in which they are reported.
    pub visible: Vec<Visible>,
    /// Whether every model saw all of it: its words where one did not.
    pub incomplete: Vec<String>,
    /// Why no model examined it.
    pub kept_because: Vec<String>,
    /// For a phantom: how the answers compare with the truth.
    pub truth: Option<String>,
    /// Its SRs, as the PACS gave them back; relative to the summary.
    pub sr: Vec<String>,
    /// Its messages, as the RIS kept them; relative to the summary.
    pub oru: Vec<String>,
    /// Seconds by stage: `ingest`, `wait`, `infer`, `structure`, `report`, `build`, `deliver`.
    pub seconds: BTreeMap<&'static str, f64>,
}

/// A visible finding.
#[derive(Debug, PartialEq, Serialize)]
pub struct Visible {
    /// Its coded meaning.
    pub finding: String,
    /// The model's score.
    pub score: f64,
    /// Its tier.
    pub tier: Tier,
}

/// A delivery.
#[derive(Debug, Serialize)]
pub struct DeliverySummary {
    /// The study's key.
    pub study: String,
    /// The model.
    pub model: String,
    /// Where to.
    pub destination: String,
    /// Where it is.
    pub state: String,
    /// Tries.
    pub attempts: u32,
}

/// The audit log.
#[derive(Debug, Serialize)]
pub struct AuditSummary {
    /// Records in the chain.
    pub records: i64,
    /// Whether the chain verifies with the device's key.
    pub verified: bool,
}

/// Files of a study's results, relative to the summary.
#[derive(Debug, Default)]
pub struct Files {
    /// SRs.
    pub sr: Vec<String>,
    /// Messages.
    pub oru: Vec<String>,
}

/// A study's entry. `truth` is the phantom's comparison, if it is one.
pub fn study(sent: &Sent, found: &Study, files: Files, truth: Option<String>) -> StudySummary {
    let outcomes: Vec<&ModelResult> = found.jobs.iter().filter_map(|job| job.outcome.as_ref()).collect();
    let of_tier = |tier: Tier| {
        let all = outcomes.iter().flat_map(|outcome| &outcome.findings);
        (tier.as_str(), all.filter(|finding| finding.tier == tier).count())
    };
    let findings = [Tier::Reported, Tier::Flagged, Tier::Suppressed].map(of_tier).into();
    StudySummary {
        what: sent.what.clone(),
        key: found.key.clone(),
        state: found.state.clone(),
        instances: sent.instances.len(),
        models: found.jobs.iter().map(|job| job.model.clone()).collect(),
        findings,
        visible: outcomes
            .iter()
            .flat_map(|outcome| outcome.visible())
            .map(|finding| Visible {
                finding: finding.finding.meaning.clone(),
                score: finding.score,
                tier: finding.tier,
            })
            .collect(),
        incomplete: outcomes
            .iter()
            .filter_map(|outcome| match &outcome.completeness {
                Completeness::Complete => None,
                Completeness::Partial(reason) | Completeness::NotRun(reason) => Some(reason.clone()),
            })
            .collect(),
        kept_because: if found.jobs.is_empty() { kept_because(found) } else { Vec::new() },
        truth,
        sr: files.sr,
        oru: files.oru,
        seconds: found.seconds(),
    }
}

/// The rules that refused a study. The reasons quote what the rules looked at (modality, body part),
/// which the person at the demo's own terminal may see.
fn kept_because(found: &Study) -> Vec<String> {
    if found.refused_by.is_empty() {
        return vec!["the site file has no rule".into()];
    }
    let mut reasons: Vec<String> = found.refused_by.iter().map(|reason| reason.expose().clone()).collect();
    reasons.dedup();
    reasons
}

/// The deliveries' entries.
pub fn deliveries(snapshot: &Snapshot) -> Vec<DeliverySummary> {
    let mut all = Vec::new();
    for study in &snapshot.studies {
        for job in &study.jobs {
            for delivery in job.result.iter().flat_map(|made| &made.deliveries) {
                all.push(DeliverySummary {
                    study: study.key.clone(),
                    model: job.model.clone(),
                    destination: delivery.destination.clone(),
                    state: delivery.state.clone(),
                    attempts: delivery.attempts,
                });
            }
        }
    }
    all
}

impl StudySummary {
    /// One line for a person.
    pub fn line(&self) -> String {
        let outcome = if self.models.is_empty() {
            format!("kept and shown, no model: {}", self.kept_because.join("; "))
        } else {
            let count = |tier: &str| self.findings.get(tier).copied().unwrap_or(0);
            let mut text = format!(
                "{}: {} reported, {} flagged, {} suppressed",
                self.models.join(", "),
                count("reported"),
                count("flagged"),
                count("suppressed")
            );
            for reason in &self.incomplete {
                text.push_str(&format!("; not complete: {reason}"));
            }
            text
        };
        format!("{} ({}): {outcome}", self.what, self.key)
    }

    /// Its stages, for a person.
    pub fn stages(&self) -> String {
        const ORDER: [&str; 7] = ["ingest", "wait", "infer", "structure", "report", "build", "deliver"];
        let stages = ORDER
            .iter()
            .filter_map(|stage| self.seconds.get(stage).map(|seconds| format!("{stage} {seconds:.2} s")));
        stages.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phi::Phi;

    #[test]
    fn a_study_without_a_rule_says_why_and_nothing_of_the_patient() {
        let sent = Sent {
            what: "CR of a chest".into(),
            study_uid: Phi::from("1.2.3.4"),
            instances: Vec::new(),
            truth: None,
            examined: false,
        };
        let found = Study {
            key: "k1".into(),
            study_uid: Phi::from("1.2.3.4"),
            state: "unrouted".into(),
            first_ms: 0,
            last_ms: 500,
            closed_ms: Some(2_500),
            refused_by: vec![Phi::from("rule \"phantoms\": body_part \"CHEST\" is none of: PHANTOM")],
            jobs: Vec::new(),
        };
        let summary = study(&sent, &found, Files::default(), None);
        assert!(summary.line().contains("kept and shown, no model: rule \"phantoms\""));
        assert_eq!(summary.stages(), "ingest 0.50 s, wait 2.00 s");
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!((&json["state"], &json["seconds"]["wait"]), (&"unrouted".into(), &2.0.into()));
        assert!(!json.to_string().contains("1.2.3.4"));
    }
}
