//! Stage 4, report: sentences made of findings, and nothing else.
//!
//! [`realise`] fills a template; [`verify`] reads the finished text against the findings, without
//! the template's help. Text that does not pass is not repaired but replaced by a minimal one.

pub mod realise;
pub mod verify;

use crate::finding::{Completeness, ModelResult, Tier};

pub use realise::{Realised, Segment};
pub use verify::Rejection;

/// The text of one model's result: one sentence a line, ASCII unless the bundle's names are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What was found, in the order of the findings.
    pub findings: Vec<String>,
    /// What it comes to.
    pub impression: Vec<String>,
    /// Why the template's text was rejected, if it was: the lines are then the minimal ones.
    pub rejected: Option<Rejection>,
}

/// Drafts the text for a result on revision `revision` (from 1) of a study. The same result always
/// yields the same text. The banner is not part of it: every output has its own.
pub fn draft(result: &ModelResult, revision: u32) -> Draft {
    checked(result, revision, realise::realise(result, revision))
}

fn checked(result: &ModelResult, revision: u32, realised: Realised) -> Draft {
    match verify::verify(result, revision, &realised) {
        Ok(()) => {
            let lines = |segments: Vec<Segment>| segments.into_iter().map(|segment| segment.text).collect();
            Draft {
                findings: lines(realised.findings),
                impression: lines(realised.impression),
                rejected: None,
            }
        }
        Err(rejection) => minimal(result, rejection),
    }
}

/// Text without a single word from the bundle: it counts, and points to the coded findings.
fn minimal(result: &ModelResult, rejection: Rejection) -> Draft {
    let shown = result.visible().count();
    let flagged = result.visible().filter(|finding| finding.tier == Tier::Flagged).count();
    let examined = match result.completeness {
        Completeness::Complete => None,
        Completeness::Partial(_) => Some("The examination by the algorithm is incomplete."),
        Completeness::NotRun(_) => Some("The algorithm did not examine this study."),
    };
    let mut lines = Vec::new();
    if shown > 0 {
        lines.push(format!(
            "Coded findings that accompany this text: {shown}, of which flagged for explicit attention: {flagged}."
        ));
    } else if !matches!(result.completeness, Completeness::NotRun(_)) {
        lines.push("No coded finding accompanies this text.".to_owned());
    }
    lines.extend(examined.map(str::to_owned));
    Draft { findings: lines.clone(), impression: lines, rejected: Some(rejection) }
}

#[cfg(test)]
mod tests;
