//! Earlier studies that a rule wants fetched, and their checks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Problems;
use super::raw::Names;
use super::{Capability, SiteFile};

/// `rule.priors`: earlier studies of the patient that are fetched from a PACS before the rule's models run.
///
/// The PACS is asked (C-FIND or QIDO-RS) as soon as the rule matches a series that has begun to come, so that the fetch
/// overlaps with the rest of the study. Only plain criteria count, those below. Priors never hold a study up: when
/// they are missing, slow or refused, the models start at the deadline at the latest, and the study shows
/// what was wanted, found and got, and why not more. What is fetched is kept as `fetched`: no model gets it for
/// itself, and it is neither forwarded nor reported, unless it is sent to us later as any other
/// study. This release's models do not use priors yet, and no report speaks of them; the list goes with the job.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Priors {
    /// Name of the peer that is asked. It needs `query` and `retrieve` in its `may`, and an `address`, or
    /// `dicomweb` for `by = "dicomweb"`. With `by = "move"` it is this peer that must send to us.
    pub from: String,
    /// `move`: C-MOVE to our own AE, which the PACS must know. `get`: C-GET. `dicomweb`: QIDO-RS and WADO-RS.
    #[serde(default)]
    pub by: PriorsBy,
    /// How many earlier studies are wanted, the latest ones, 1 to 20.
    #[serde(default = "default_latest")]
    pub latest: u32,
    /// What a series of an earlier study must have in common with the series that the rule matched; such
    /// series are fetched. Where the PACS names no body part, its study or series description must hold
    /// the word. Empty: every series of every earlier study fits.
    #[serde(default = "default_same")]
    pub same: Vec<Same>,
    /// How much earlier a study may be, in days. Left out: any time.
    pub within_days: Option<u32>,
    /// Time for all of it, in seconds, from when the rule first matches, 1 to 600.
    #[serde(default = "default_deadline")]
    pub deadline_seconds: u64,
}

fn default_latest() -> u32 {
    2
}

fn default_same() -> Vec<Same> {
    vec![Same::Modality, Same::BodyPart]
}

fn default_deadline() -> u64 {
    20
}

/// How priors are retrieved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PriorsBy {
    /// C-MOVE to our own AE.
    #[default]
    Move,
    /// C-GET.
    Get,
    /// QIDO-RS and WADO-RS.
    Dicomweb,
}

/// What an earlier series must have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Same {
    /// Modality (0008,0060).
    Modality,
    /// Body Part Examined (0018,0015).
    BodyPart,
}

pub(super) fn check(file: &SiteFile, peers: &Names, problems: &mut Problems<'_>) {
    for (index, rule) in file.rule.iter().enumerate() {
        let Some(priors) = &rule.priors else { continue };
        let key = |name: &str| format!("rule[{index}].priors.{name}");
        let remedy = "name a [[peer]] of this file that has an address (with by = \"dicomweb\": `dicomweb`), and \"query\" and \"retrieve\" in its `may`";
        match peers.get(&priors.from).and_then(|found| file.peer.get(*found)) {
            None => problems.add(key("from"), format!("there is no peer \"{}\"", priors.from), remedy),
            Some(peer) => {
                let may = |one| peer.may.contains(&one);
                let is_reached = match priors.by {
                    PriorsBy::Move | PriorsBy::Get => peer.address.is_some(),
                    PriorsBy::Dicomweb => peer.dicomweb.is_some(),
                };
                if !is_reached || !may(Capability::Query) || !may(Capability::Retrieve) {
                    let what = format!("nothing can be fetched from the peer \"{}\"", priors.from);
                    problems.add(key("from"), what, remedy);
                }
            }
        }
        let ranges = [
            ("latest", u64::from(priors.latest), 20),
            ("within_days", priors.within_days.map_or(1, u64::from), 36_500),
            ("deadline_seconds", priors.deadline_seconds, 600),
        ];
        for (name, value, most) in ranges {
            if !(1..=most).contains(&value) {
                let what = format!("{value} is outside 1 to {most}");
                problems.add(key(name), what, format!("choose a value from 1 to {most}"));
            }
        }
        if rule.models.is_empty() {
            problems.add(
                format!("rule[{index}].priors"),
                "this rule names no model that could want them",
                "add `models`, or take `priors` out",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::site::Site;

    #[test]
    fn what_cannot_be_fetched_is_named() {
        let site = include_str!("../../examples/site.toml");
        let (head, _) = site.split_once("[[rule]]").expect("the example has rules");
        let refused = |priors: &str, models: &str| {
            let text =
                format!("{head}\n[[rule]]\nname = \"x\"\nmodels = [{models}]\npriors = {{ {priors} }}\n");
            let error = Site::parse(Path::new("site.toml"), &text).expect_err(priors);
            error.problems.iter().map(|problem| problem.key.clone()).collect::<Vec<_>>()
        };
        assert_eq!(refused("from = \"nowhere\"", "\"phantom\""), ["rule[0].priors.from"]);
        // It receives, but may not be asked.
        assert_eq!(refused("from = \"pacs\"", "\"phantom\""), ["rule[0].priors.from"]);
        assert_eq!(
            refused("from = \"nowhere\", latest = 0, deadline_seconds = 9999", ""),
            [
                "rule[0].priors.from",
                "rule[0].priors.latest",
                "rule[0].priors.deadline_seconds",
                "rule[0].priors"
            ]
        );
    }
}
