//! `lightbox studies`: where each study is, and why it went there.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use super::SiteArg;
use super::place::{Place, who};
use super::print::{plain, print_json, print_table};
use crate::audit::{Event, EventKind};
use crate::clock::utc_text;
use crate::finding::Completeness;
use crate::job::{JobState, State, StudyState};
use crate::store::objects::Archive;
use crate::store::queries::{self, ByState, Job, Revision, StudyDetail, StudyFilter};
use crate::store::replay;

/// Lists studies, and says of one why it went where it went.
///
/// Studies are named by their study key, which means nothing outside this box; logs and the
/// administration page use the same key.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(flatten)]
    site: SiteArg,
    /// Without a verb: `list`.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The studies, the one that came last first.
    #[command(
        after_help = "Examples:\n  lightbox studies list --problems\n  lightbox studies list --state unrouted --json"
    )]
    List {
        /// Only studies in this state.
        #[arg(long, value_parser = PossibleValuesParser::new(StudyState::ALL.iter().map(|state| state.as_str())))]
        state: Option<String>,
        /// Only studies that a person should look at: a model that failed or could not run, a dead
        /// letter, an instance that came twice with different content or cannot be read.
        #[arg(long)]
        problems: bool,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Runs the failed models of a study again, once what made them fail is mended. A new result names
    /// the earlier one as its predecessor.
    Rerun {
        /// The study key.
        key: String,
    },
    /// Writes what was received as DICOM files, byte for byte: for a downtime, or to send it by other
    /// means. Works beside a running daemon and without one. Goes to the audit log.
    #[command(
        after_help = "Examples:\n  lightbox studies export abcdefghijkm --to /media/usb\n  lightbox studies export --all --to /media/usb"
    )]
    Export {
        /// The study key, from `list`, a log or the administration page.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        key: Option<String>,
        /// Everything that the box holds.
        #[arg(long)]
        all: bool,
        /// Folder for the files, one sub-folder a study; made if it is missing. The files hold patient
        /// data, their names do not.
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
    /// One study: its series, why it counted as complete, what each rule saw and decided, what the
    /// models said, and where the results went. The view goes to the audit log.
    Show {
        /// The study key, from `list`, a log or the administration page.
        key: String,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.write(&mut std::io::stdout().lock())
    }

    pub(super) fn write(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let place = Place::open(&self.site)?;
        let usual = Command::List { state: None, problems: false, limit: 50, json: false };
        match self.command.unwrap_or(usual) {
            Command::List { state, problems, limit, json } => {
                let state = state.as_deref().and_then(StudyState::parse);
                let filter = StudyFilter { state, problems_only: problems, limit, before: None };
                let lines = queries::studies(&place.reader()?, &filter)?;
                if json {
                    print_json(out, &lines)?;
                } else {
                    let rows: Vec<Vec<String>> = lines
                        .iter()
                        .map(|line| {
                            vec![
                                line.key.clone(),
                                line.state.clone(),
                                line.revision.to_string(),
                                line.series.to_string(),
                                line.instances.to_string(),
                                utc_text(line.last_at),
                                numbers(&line.jobs),
                                numbers(&line.deliveries),
                                if line.problem { format!("! {}", line.note) } else { line.note.clone() },
                            ]
                        })
                        .collect();
                    let headings = [
                        "STUDY",
                        "STATE",
                        "REV",
                        "SERIES",
                        "IMAGES",
                        "LAST IMAGE",
                        "JOBS",
                        "DELIVERIES",
                        "NOTE",
                    ];
                    print_table(out, &headings, &rows)?;
                }
            }
            Command::Rerun { key } => {
                let by = who();
                let failed = failed_jobs(&queries::study(&place.reader()?, &key)?);
                anyhow::ensure!(
                    !failed.is_empty(),
                    "no model has failed on the last revision of study {key}"
                );
                let count = failed.len();
                // One transaction: either all of them run again, or none.
                place.ledger()?.write_blocking(move |writer| {
                    failed.iter().try_for_each(|job| replay::replay_job(writer, *job, &by).map(drop))
                })?;
                writeln!(out, "{count} will run again")?;
            }
            Command::Export { key, all: _, to } => {
                let (written, failed) = export(&place, key.as_deref(), &to)?;
                writeln!(out, "{written} instances written below {}", to.display())?;
                anyhow::ensure!(failed == 0, "{failed} instances could not be read back: see above");
            }
            Command::Show { key, json } => {
                let detail = queries::study(&place.reader()?, &key)?;
                audit_view(&place, &detail.line.key)?;
                if json { print_json(out, &detail)? } else { show(out, &detail)? }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the objects of one study, or all; yields how many were written and how many could not be.
fn export(place: &Place, key: Option<&str>, to: &Path) -> anyhow::Result<(usize, usize)> {
    if let Some(key) = key {
        queries::study(&place.reader()?, key)?;
    }
    let by = who();
    let detail = json!({ "action": "exported", "through": by.through, "study": key.unwrap_or("all") });
    let event = Event::new(EventKind::OperatorAction, by.operator, detail);
    place.ledger()?.write_blocking(move |writer| writer.audit(&event))?;
    let archive = Archive::open(&place.site.file.appliance.data_dir)?;
    let (mut written, mut failed) = (0, 0);
    for id in archive.list()?.iter().filter(|id| key.is_none_or(|key| id.study_key() == key)) {
        let path = to.join(id.as_str()).with_extension("dcm");
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("{} cannot be made", folder.display()))?;
        }
        let file = std::fs::File::create(&path).with_context(|| format!("{}", path.display()))?;
        let mut file = std::io::BufWriter::new(file);
        match archive.write(id, &mut file).map_err(anyhow::Error::from).and_then(|()| Ok(file.flush()?)) {
            Ok(()) => written += 1,
            Err(error) => {
                failed += 1;
                eprintln!("study {}: an instance was left out: {error:#}", id.study_key());
                std::fs::remove_file(&path)?;
            }
        }
    }
    Ok((written, failed))
}

/// The failed jobs of the last revision.
fn failed_jobs(detail: &StudyDetail) -> Vec<i64> {
    let last = detail.revisions.iter().filter(|revision| revision.revision == detail.line.revision);
    last.flat_map(|revision| &revision.jobs)
        .filter(|job| job.state == JobState::Failed.as_str())
        .map(|job| job.id)
        .collect()
}

/// Puts the view on record, as the administration page does. On a full disk the study is shown
/// all the same: it may be what the person needs to see.
fn audit_view(place: &Place, key: &str) -> anyhow::Result<()> {
    let by = who();
    let event = Event::new(
        EventKind::OperatorAction,
        by.operator,
        json!({ "action": "viewed", "through": by.through, "study": key }),
    );
    match place.ledger()?.write_blocking(move |writer| writer.audit(&event)) {
        Err(error) if error.is_full() => {
            eprintln!("warning: the disk is full, this view is not on the audit log");
            Ok(())
        }
        other => Ok(other?),
    }
}

fn numbers(counts: &ByState) -> String {
    counts.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}

fn show(out: &mut impl Write, detail: &StudyDetail) -> anyhow::Result<()> {
    let line = &detail.line;
    let stat = if detail.stat { ", STAT" } else { "" };
    writeln!(out, "Study {}: {}, revision {}{stat}", line.key, line.state, line.revision)?;
    writeln!(out, "First image {}, last {}", utc_text(line.first_at), utc_text(line.last_at))?;
    if !line.note.is_empty() {
        writeln!(out, "{}", plain(&line.note))?;
    }
    writeln!(out)?;
    let rows: Vec<Vec<String>> = detail
        .series_list
        .iter()
        .map(|series| {
            vec![
                series.number.to_string(),
                series.modality.clone(),
                series.description.expose().clone(),
                series.instances.to_string(),
                series.conflicts.to_string(),
                series.unreadable.to_string(),
                series.peers.clone(),
            ]
        })
        .collect();
    print_table(
        out,
        &["SERIES", "MODALITY", "DESCRIPTION", "IMAGES", "CONFLICTS", "UNREADABLE", "SENT BY"],
        &rows,
    )?;
    for fetch in &detail.priors {
        writeln!(out, "\nPriors for rule {}: {}", plain(&fetch.rule), plain(&fetch.words()))?;
        for prior in &fetch.priors {
            let there = prior.instances.map_or("?".to_owned(), |there| there.to_string());
            let (date, reason) = (plain(prior.date.expose()), plain(&prior.reason));
            writeln!(
                out,
                "  {} of {date}: {}, {} of {there} images {reason}",
                prior.study, prior.state, prior.held
            )?;
        }
    }
    if !detail.early_jobs.is_empty() {
        writeln!(out, "\nRevision {} is open; on series that are complete:", line.revision + 1)?;
        for job in &detail.early_jobs {
            show_job(out, job)?;
        }
    }
    for revision in &detail.revisions {
        show_revision(out, revision)?;
    }
    Ok(())
}

fn show_revision(out: &mut impl Write, revision: &Revision) -> anyhow::Result<()> {
    writeln!(out, "\nRevision {}, closed {}", revision.revision, utc_text(revision.closed_at))?;
    writeln!(out, "  because: {}", plain(&revision.verdict))?;
    for piece in items(&revision.evidence, "evidence") {
        let text = |name: &str| plain(piece[name].as_str().unwrap_or_default());
        writeln!(out, "    {} says {}: {}", text("kind"), text("says"), text("text"))?;
    }
    for series in items(&revision.evidence, "by_series") {
        let state = if series["complete"] == true { "complete" } else { "NOT COMPLETE" };
        let because = plain(series["because"].as_str().unwrap_or_default());
        writeln!(
            out,
            "    series {}: {} instances, {state}: {because}",
            series["series"], series["instances"]
        )?;
    }
    writeln!(out, "  rules of site file {}", revision.rule_set.get(..12).unwrap_or(&revision.rule_set))?;
    let mut series = None;
    for decision in &revision.decisions {
        if series != Some(decision.series) {
            series = Some(decision.series);
            writeln!(out, "\n  Series {} was seen as: {}", decision.series, seen(decision.inputs.expose()))?;
        }
        let matched = if decision.matched { "MATCHED" } else { "no" };
        writeln!(out, "    {:8} {}: {}", matched, plain(&decision.rule), plain(decision.because.expose()))?;
    }
    if revision.jobs.is_empty() {
        writeln!(out, "\n  It went to no model.")?;
    }
    for job in &revision.jobs {
        show_job(out, job)?;
    }
    Ok(())
}

fn items<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    object[name].as_array().into_iter().flatten()
}

/// What a rule saw, without the values that the series does not have.
fn seen(inputs: &Value) -> String {
    let Value::Object(fields) = inputs else { return String::new() };
    let present = fields.iter().filter(|(_, value)| !value.is_null());
    plain(&present.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "))
}

fn show_job(out: &mut impl Write, job: &Job) -> anyhow::Result<()> {
    writeln!(out, "\n  Job {}: model {}, {}, {} tries", job.id, plain(&job.model), job.state, job.attempts)?;
    if let Some(verdict) = &job.verdict {
        writeln!(out, "    on series {:?} by itself, because: {}", job.series, plain(verdict))?;
    }
    for fetch in &job.priors {
        writeln!(out, "    priors at its start: {}", plain(&fetch.words()))?;
    }
    if let Some(error) = &job.error {
        writeln!(out, "    error: {}", plain(error))?;
    }
    if !job.timings.is_empty() {
        let timings: Vec<String> =
            job.timings.iter().map(|(stage, ms)| format!("{stage} {ms:.0} ms")).collect();
        writeln!(out, "    {}", timings.join(", "))?;
    }
    if let Some(outcome) = &job.outcome {
        let mark = if outcome.not_for_clinical_use { ", NOT FOR CLINICAL USE" } else { "" };
        writeln!(out, "    {}{mark}, bundle {}", plain(&outcome.model), outcome.digest)?;
        if let (Some(plan), Some(record)) = (&outcome.plan, &outcome.acceptance) {
            writeln!(out, "    under plan {}, acceptance record {record}", plain(plan))?;
        }
        match &outcome.completeness {
            Completeness::Complete => writeln!(out, "    {} images examined", outcome.examined)?,
            Completeness::Partial(why) => writeln!(out, "    INCOMPLETE: {}", plain(why))?,
            Completeness::NotRun(why) => writeln!(out, "    NOT EXAMINED: {}", plain(why))?,
        }
        for finding in &outcome.findings {
            let image = finding.image.map(|image| format!(", image {image}")).unwrap_or_default();
            writeln!(
                out,
                "    {:10} {} ({:.3}) in series {}{image}, frame {} {}",
                finding.tier.as_str(),
                plain(&finding.finding.meaning),
                finding.score,
                finding.series,
                finding.frame,
                plain(&finding.measurements.join(", ")),
            )?;
        }
    }
    for result in &job.results {
        writeln!(out, "    result made {}, SR in results/{}", utc_text(result.created_at), result.sr_file)?;
        for delivery in &result.deliveries {
            let reason = delivery
                .last_reason
                .as_ref()
                .map(|reason| format!(": {}", plain(reason.expose())))
                .unwrap_or_default();
            writeln!(
                out,
                "    delivery {} to {}: {}, {} tries{reason}",
                delivery.id, delivery.destination, delivery.state, delivery.attempts
            )?;
        }
    }
    Ok(())
}
