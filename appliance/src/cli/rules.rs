//! `lightbox rules`: tries the rules on studies, without a daemon, and shows those of the past.

mod diff;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use dicom_dictionary_std::tags;
use lightbox_provisioning::site::{Site, SiteError};

use super::SiteArg;
use super::files::files_under;
use super::place::Place;
use super::print::{print_json, print_table};
use crate::clock::utc_text;
use crate::dicom::attributes::Attributes;
use crate::dicom::{header, part_ten};
use crate::dispatch::Dispatch;
use crate::ingest::rules::{RuleSet, SeriesFacts};
use crate::phi::Phi;
use crate::store::rule_sets;

/// Try routing rules on studies, compare them with changed ones, and show those of the past.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show, series by series, which rules match, why, and what would run and be sent where.
    /// Nothing is sent or stored.
    Test {
        /// The site file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// DICOM files, or folders of them.
        #[arg(value_name = "STUDY", required = true)]
        studies: Vec<PathBuf>,
        /// AE title of the imagined sender, for rules that ask for it.
        #[arg(long, default_value = "")]
        calling_ae: String,
        /// Name of the imagined sender in the site file.
        #[arg(long, default_value = "")]
        peer: String,
    },
    /// Show, study by study, what a changed site file would do otherwise with the studies that were
    /// received: each decision, model, destination and forward that changes, with its rule and reason.
    /// Reads the headers in the ledger; nothing is changed, sent or run. The reasons may hold values of
    /// the studies' headers.
    ///
    /// Ends with 0 where no study would be treated otherwise, with 3 where one would be, with 78 where
    /// a site file cannot be used.
    #[command(
        after_help = "Examples:\n  lightbox rules diff new.toml --since 7d\n  lightbox rules diff new.toml --since 12h --json"
    )]
    Diff {
        /// The changed site file.
        #[arg(value_name = "NEW")]
        new: PathBuf,
        /// The site file that is in force; it says where the ledger is.
        #[command(flatten)]
        site: SiteArg,
        /// How far back: days, hours or minutes, e.g. 7d, 12h, 30m.
        #[arg(long, default_value = "7d", value_parser = parse_since)]
        since: Duration,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// List the rule sets that were active, and on how many study revisions each one decided.
    History {
        #[command(flatten)]
        site: SiteArg,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Print a rule set of the past, as TOML with all defaults.
    #[command(after_help = "Example:\n  lightbox rules show 3f2a91")]
    Show {
        /// Its revision, as decisions and `history` name it, or the first digits.
        #[arg(value_name = "REVISION")]
        revision: String,
        #[command(flatten)]
        site: SiteArg,
    },
}

/// How far back: a count of days, hours or minutes.
fn parse_since(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is no time span; write e.g. 7d, 12h or 30m");
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let count: u64 = digits.parse().ok().filter(|count| (1..=100_000).contains(count)).ok_or_else(wrong)?;
    match unit {
        "d" => Ok(Duration::from_secs(count * 86_400)),
        "h" => Ok(Duration::from_secs(count * 3_600)),
        "m" => Ok(Duration::from_secs(count * 60)),
        _ => Err(wrong()),
    }
}

impl Args {
    /// Runs the verb.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.write(&mut std::io::stdout().lock())
    }

    pub(super) fn write(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Test { file, studies, calling_ae, peer } => test(&file, &studies, &calling_ae, &peer),
            Verb::Diff { new, site, since, json } => diff::run(out, &site, &new, since, json),
            Verb::History { site, json } => history(out, &site, json),
            Verb::Show { revision, site } => show(out, &site, &revision),
        }
    }
}

/// The compiled rules of a site file.
fn compile(site: &Site) -> Result<RuleSet, SiteError> {
    RuleSet::compile(site).map_err(|problems| SiteError { path: site.path.clone(), problems })
}

fn history(out: &mut impl Write, site: &SiteArg, json: bool) -> anyhow::Result<ExitCode> {
    let lines = rule_sets::history(&Place::open(site)?.reader()?)?;
    if json {
        print_json(out, &lines)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let until = line.until.map_or_else(|| "active".to_owned(), utc_text);
            vec![line.revision[..12].to_owned(), utc_text(line.since), until, line.decided.to_string()]
        })
        .collect();
    print_table(out, &["REVISION", "SINCE", "UNTIL", "STUDY REVISIONS DECIDED"], &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn show(out: &mut impl Write, site: &SiteArg, revision: &str) -> anyhow::Result<ExitCode> {
    let found = rule_sets::texts(&Place::open(site)?.reader()?, &revision.to_lowercase())?;
    match &found[..] {
        [(_, text)] => write!(out, "{text}")?,
        [] => bail!("no rule set has a revision that begins with {revision}; see `lightbox rules history`"),
        many => bail!("{} rule sets begin with {revision}: give more digits", many.len()),
    }
    Ok(ExitCode::SUCCESS)
}

fn test(file: &Path, studies: &[PathBuf], calling_ae: &str, peer: &str) -> anyhow::Result<ExitCode> {
    let site = Site::load(file)?;
    let rules = compile(&site)?;
    let mut found: BTreeMap<String, Vec<SeriesFacts>> = BTreeMap::new();
    let mut unread = 0;
    for path in files_under(studies)? {
        match facts(&path, calling_ae, peer) {
            Some((study, new)) => {
                let series = found.entry(study).or_default();
                match series.iter_mut().find(|known| known.series_uid == new.series_uid) {
                    Some(known) => known.instances += 1,
                    None => series.push(new),
                }
            }
            None => unread += 1,
        }
    }
    if unread > 0 {
        println!("{unread} files are no DICOM instances and were passed over");
    }
    anyhow::ensure!(
        !found.is_empty(),
        "no DICOM instance was found; name DICOM Part 10 files or folders of them"
    );
    for (index, series) in found.values().enumerate() {
        print_study(index + 1, series, &rules);
    }
    Ok(ExitCode::SUCCESS)
}

/// Study UID and facts of the series that the file belongs to.
fn facts(path: &std::path::Path, calling_ae: &str, peer: &str) -> Option<(String, SeriesFacts)> {
    let opened = part_ten::open(path).ok()?;
    let (header, _) = header::scan(opened.file, opened.length, opened.meta.transfer_syntax());
    let facts = SeriesFacts {
        series_uid: Phi::new(header.uid(tags::SERIES_INSTANCE_UID)?),
        attributes: Attributes::of(&header),
        calling_ae: calling_ae.to_owned(),
        peer: peer.to_owned(),
        sop_class_uid: header.uid(tags::SOP_CLASS_UID)?,
        instances: 1,
    };
    Some((header.uid(tags::STUDY_INSTANCE_UID)?, facts))
}

/// A destination, and when what goes to it may leave.
fn way(destination: &str, dispatch: &Dispatch) -> String {
    match dispatch.words() {
        words if words.is_empty() => destination.to_owned(),
        words => format!("{destination} ({words})"),
    }
}

fn print_study(number: usize, series: &[SeriesFacts], rules: &RuleSet) {
    let instances: usize = series.iter().map(|series| series.instances).sum();
    println!("study {number}: {} series, {instances} instances", series.len());
    let routing = rules.decide(series);
    for (position, facts) in series.iter().enumerate() {
        let modality = facts.attributes.modality.as_deref().unwrap_or("no modality");
        println!("  series {}: {modality}, {} instances", position + 1, facts.instances);
        for decision in routing.decisions.iter().filter(|decision| decision.series_uid == facts.series_uid) {
            let word = if decision.matched { "matches" } else { "does not match" };
            println!("    rule \"{}\" {word}: {}", decision.rule, decision.because.expose());
        }
    }
    if routing.models.is_empty() && routing.forwards.is_empty() {
        println!("  -> no model: the study would be kept and shown, nothing would be sent");
    }
    for forward in &routing.forwards {
        let position = series.iter().position(|facts| facts.series_uid == forward.series_uid);
        println!(
            "  -> series {} sent on to {}",
            position.map_or(0, |position| position + 1),
            way(&forward.destination, &forward.dispatch)
        );
    }
    for (model, assignment) in &routing.models {
        let destinations: Vec<String> =
            assignment.deliver.iter().map(|(name, dispatch)| way(name, dispatch)).collect();
        let to = if destinations.is_empty() { "nowhere".to_owned() } else { destinations.join(", ") };
        println!("  -> model \"{model}\" on {} series, results to {to}", assignment.series.len());
    }
}
