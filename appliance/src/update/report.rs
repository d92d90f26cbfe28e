//! What people read of a candidate in shadow before they approve it, and what keeps them from approving.

use std::collections::BTreeMap;

use lightbox_models::life_cycle::State;
use lightbox_models::plan::Plan;
use lightbox_models::shadow::{Comparison, Heading, compare, page, text};
use rusqlite::Connection;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::manifest;
use crate::audit::chain::hex;
use crate::store::ledger::LedgerError;
use crate::store::models::shadow::{self, Standing};
use crate::store::models::{self, VersionRow};

/// A version by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// `model.version`.
    pub version: String,
    /// The bundle's digest.
    pub digest: String,
}

/// What a plan asks of a candidate in shadow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Asked {
    /// Hours.
    pub hours: f64,
    /// Studies.
    pub studies: u32,
}

/// A candidate beside the active version.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShadowReport {
    /// The model's name in the site file.
    pub model: String,
    /// The version that it is compared with.
    pub active: Named,
    /// The candidate.
    pub candidate: Named,
    /// How far it has come.
    pub standing: Standing,
    /// What the plan asks.
    pub asked: Option<Asked>,
    /// The figures of each label that has a study on which both ran.
    pub labels: Vec<Comparison>,
    /// Why the candidate failed, each with the number of studies.
    pub failures: BTreeMap<String, u32>,
    /// Digest of the page.
    pub sha256: String,
    /// The page, HTML with the plots.
    #[serde(skip)]
    pub page: String,
}

impl ShadowReport {
    /// The report of a version that is in shadow, or was; none where it never was.
    pub fn of(reader: &Connection, slot: &str, digest: &str) -> Result<Option<ShadowReport>, LedgerError> {
        let Some(standing) = shadow::standing(reader, slot, digest)? else { return Ok(None) };
        let versions = models::versions(reader, Some(slot))?;
        let find = |digest: &str| versions.iter().find(|version| version.digest == digest);
        let (Some(active), Some(candidate)) = (find(&standing.beside), find(digest)) else { return Ok(None) };
        let manifest = manifest(candidate)?;
        let labels: Vec<&str> =
            manifest.label.iter().filter(|label| !label.negative).map(|label| label.name.as_str()).collect();
        let (pairs, failures) = shadow::pairs(reader, slot, digest, &standing.beside, &labels)?;
        let title = |version: &VersionRow| {
            format!("{} ({})", version.version, version.digest.get(..12).unwrap_or_default())
        };
        let heading = Heading {
            model: slot,
            active: &title(active),
            candidate: &title(candidate),
            failures: &failures,
        };
        let page = page(&heading, &labels, &pairs);
        Ok(Some(ShadowReport {
            model: slot.to_owned(),
            active: Named { version: active.version.clone(), digest: active.digest.clone() },
            candidate: Named { version: candidate.version.clone(), digest: candidate.digest.clone() },
            asked: plan(reader, slot)?
                .map(|plan| Asked { hours: plan.site.shadow_hours, studies: plan.site.canary_cases }),
            labels: labels.iter().filter_map(|label| compare(label, &pairs).ok()).collect(),
            failures,
            sha256: hex(&Sha256::digest(page.as_bytes())),
            page,
            standing,
        }))
    }

    /// The figures for a terminal.
    pub fn text(&self) -> String {
        let mut text = text(&self.active.version, &self.candidate.version, &self.labels);
        if self.labels.is_empty() {
            text.push_str("\nThere is no study yet on which both ran.\n");
        }
        for (reason, count) in &self.failures {
            text.push_str(&format!("\nThe candidate failed on {count}: {reason}\n"));
        }
        text
    }
}

/// The plan in force of a model, where one came.
pub fn plan(reader: &Connection, slot: &str) -> Result<Option<Plan>, LedgerError> {
    models::plan_of_slot(reader, slot)?.map(|row| row.read()).transpose()
}

/// How far a candidate has come beside the version that is active now.
pub(super) fn standing(
    reader: &Connection,
    slot: &str,
    digest: &str,
) -> Result<Option<Standing>, LedgerError> {
    let active = models::active(reader, slot)?;
    let standing = shadow::standing(reader, slot, digest)?;
    Ok(standing.filter(|standing| active.is_some_and(|active| active.digest == standing.beside)))
}

/// What is left of the plan's duty in shadow; none where nothing is.
pub(super) fn left(plan: &Plan, standing: Option<&Standing>) -> Option<String> {
    let (asked, site) = (standing, &plan.site);
    let (hours, studies) = asked.map_or((0.0, 0), |standing| (standing.hours, standing.studies));
    let mut left = Vec::new();
    if hours < site.shadow_hours {
        left.push(format!("{:.2} of {} hours", site.shadow_hours - hours, site.shadow_hours));
    }
    if studies < site.canary_cases {
        left.push(format!("{} of {} studies", site.canary_cases - studies, site.canary_cases));
    }
    (!left.is_empty()).then(|| left.join(" and "))
}

/// Whether no version is active.
pub(super) fn is_empty(versions: &[VersionRow]) -> bool {
    versions.iter().all(|version| version.state != State::Active)
}

/// What keeps a version from its time in shadow where none is active.
pub(super) fn nothing_beside(left: &str) -> String {
    format!(
        "the plan asks that it runs beside the active version first ({left} are left), and none is active; remedy: \
         bring an earlier one back (`lightbox models approve` with its --digest), or ask the vendor for a plan without \
         time in shadow (site.shadow_hours and site.canary_cases 0)"
    )
}

/// Why a version cannot be approved yet; none where it can.
pub fn approval_refused(
    reader: &Connection,
    slot: &str,
    digest: &str,
) -> Result<Option<String>, LedgerError> {
    let versions = models::versions(reader, Some(slot))?;
    let Some(version) = versions.iter().find(|version| version.digest == digest) else {
        return Err(LedgerError::NotFound("version of that model"));
    };
    match version.state {
        State::Accepted | State::Shadow => {}
        // It was judged when it first became active; coming back is up to the people.
        State::RolledBack => return Ok(None),
        // Good until it was followed, by one that is out of service now.
        State::Retired if is_empty(&versions) => {
            return Ok((!version.kept).then(|| format!("the files of version {} are gone", version.version)));
        }
        state => {
            return Ok(Some(format!(
                "version {} is {state}: only one that was accepted on this hardware, or that was rolled back, can be \
                 approved (one that was followed, while no version is active)",
                version.version
            )));
        }
    }
    let Some(plan) = plan(reader, slot)? else {
        return Ok(Some(format!("model \"{slot}\" has no plan")));
    };
    let first = !versions.iter().any(|other| other.last_active > 0 && other.digest != digest);
    let standing = standing(reader, slot, digest)?;
    let left = left(&plan, standing.as_ref()).filter(|_| !first);
    Ok(left.map(|left| {
        if is_empty(&versions) {
            return format!("version {}: {}", version.version, nothing_beside(&left));
        }
        let fault = standing.map(|standing| standing.fault).filter(|fault| !fault.is_empty());
        let fault = fault.map(|fault| format!(" It does not run: {fault}.")).unwrap_or_default();
        format!(
            "the plan asks that version {} runs beside the active one first: {left} are left.{fault} `lightbox models \
             shadow {slot}` shows the report so far",
            version.version
        )
    }))
}
