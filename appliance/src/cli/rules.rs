//! `lightbox rules`: tries the rules on studies, without a daemon.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use dicom_dictionary_std::tags;
use lightbox_provisioning::site::Site;

use super::files::files_under;
use crate::dicom::attributes::Attributes;
use crate::dicom::{header, part_ten};
use crate::dispatch::Dispatch;
use crate::ingest::rules::{RuleSet, SeriesFacts};
use crate::phi::Phi;

/// Try routing rules on studies on disk.
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
}

impl Args {
    /// Runs the verb.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Verb::Test { file, studies, calling_ae, peer } = self.verb;
        let site = Site::load(&file)?;
        let rules = RuleSet::compile(&site).map_err(|problems| lightbox_provisioning::site::SiteError {
            path: site.path.clone(),
            problems,
        })?;
        let mut found: BTreeMap<String, Vec<SeriesFacts>> = BTreeMap::new();
        let mut unread = 0;
        for path in files_under(&studies)? {
            match facts(&path, &calling_ae, &peer) {
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
