//! `lightbox rules diff`: what a changed site file would do otherwise with the studies that are stored.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use lightbox_provisioning::site::Site;
use serde::Serialize;

use super::compile;
use crate::cli::SiteArg;
use crate::cli::place::Place;
use crate::cli::print::{plain, print_json};
use crate::clock::{Clock, SystemClock, utc_text};
use crate::ingest::rules::diff::{Change, diff};
use crate::store::queries;

/// The exit code where a study would be treated otherwise: neither success, nor an error.
const CHANGED: u8 = 3;

/// A study that would be treated otherwise.
#[derive(Debug, Serialize)]
struct Changed {
    study: String,
    last_at: i64,
    changes: Vec<Change>,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Revision of the rules in force.
    before: String,
    /// Revision of the changed rules.
    after: String,
    /// Only studies with an instance since then were looked at.
    since: i64,
    studies: usize,
    unchanged: usize,
    changed: Vec<Changed>,
}

pub(super) fn run(
    out: &mut impl Write,
    site: &SiteArg,
    new: &Path,
    since: Duration,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let place = Place::open(site)?;
    let (before, after) = (compile(&place.site)?, compile(&Site::load(new)?)?);
    let since = SystemClock.now_ms() - since.as_millis() as i64;
    let studies = queries::facts_since(&place.reader()?, since)?;
    let changed: Vec<Changed> = studies
        .iter()
        .map(|study| Changed {
            study: study.key.clone(),
            last_at: study.last_at,
            changes: diff(&before, &after, &study.series),
        })
        .filter(|study| !study.changes.is_empty())
        .collect();
    let report = Report {
        before: before.revision,
        after: after.revision,
        since,
        studies: studies.len(),
        unchanged: studies.len() - changed.len(),
        changed,
    };
    if json {
        print_json(out, &report)?
    } else {
        print(out, &report)?
    }
    Ok(if report.changed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHANGED) })
}

fn print(out: &mut impl Write, report: &Report) -> anyhow::Result<()> {
    for study in &report.changed {
        writeln!(out, "study {}, last image {}", study.study, utc_text(study.last_at))?;
        for change in &study.changes {
            writeln!(out, "  {}", plain(&change.words()))?;
        }
    }
    let studies = |count: usize| if count == 1 { "1 study".to_owned() } else { format!("{count} studies") };
    writeln!(
        out,
        "{} since {}: {} would change, {} would not",
        studies(report.studies),
        utc_text(report.since),
        report.changed.len(),
        report.unchanged
    )?;
    if report.before == report.after {
        writeln!(out, "the rules of both site files are the same")?;
    }
    Ok(())
}
