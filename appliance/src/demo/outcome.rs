//! What came out of the demo: the results read back from the peers, compared with what was sent,
//! drawn, written down and shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use lightbox_bootstrap::identity::DeviceIdentity;
use rusqlite::Connection;

use super::child::Ready;
use super::folder::Folder;
use super::pacs::Pacs;
use super::preview::{self, Subject};
use super::ris::{self, Ris};
use super::site::{DemoSite, P12_PASSWORD, party};
use super::studies::Sent;
use super::summary::{self, AuditSummary, Files, Summary};
use super::watch::{Job, Snapshot, Study};
use crate::audit::export;
use crate::finding::{Finding, Tier};
use crate::phi::Phi;

/// Lines of a message that are shown.
const LINES_SHOWN: usize = 16;

/// Where to look for the outcome.
#[derive(Debug)]
pub struct World<'a> {
    /// The demo's folder.
    pub folder: &'a Folder,
    /// The PACS.
    pub pacs: &'a Pacs,
    /// The RIS.
    pub ris: &'a Ris,
}

/// The outcome.
#[derive(Debug)]
pub struct Outcome {
    summary: Summary,
    /// Why the demo has not shown what it was to show.
    faults: Vec<String>,
    /// One message, for the terminal.
    example: Option<Phi<String>>,
    /// Whether there is a picture.
    picture: bool,
}

/// Reads the results back from the peers and compares.
pub async fn collect(
    world: &World<'_>,
    sent: &[Sent],
    snapshot: &Snapshot,
    missing: Vec<String>,
) -> anyhow::Result<Outcome> {
    let (results, oru) = (world.folder.make("results")?, world.folder.make("oru")?);
    let held = world.pacs.held().await.context("reading the SRs back from the PACS")?;
    let kept = world.ris.kept().context("reading the messages that the RIS kept")?;
    let (mut studies, mut faults, mut example) = (Vec::new(), Vec::new(), None);
    let mut expected = 0;
    for study in sent {
        let found = snapshot.study(&study.study_uid).ok_or_else(|| anyhow!("{} is lost", study.what))?;
        let mut files = Files::default();
        for job in &found.jobs {
            let Some(made) = &job.result else {
                faults.push(format!("{} (study {}): no result was made", study.what, found.key));
                continue;
            };
            expected += 1;
            let name = format!("{}-{}", found.key, job.model);
            match held.iter().find(|object| object.sop_instance_uid == made.sr_instance_uid) {
                Some(object) => {
                    write(&results.join(format!("{name}.dcm")), object.file.expose())?;
                    files.sr.push(format!("results/{name}.dcm"));
                }
                None => faults.push(format!("{} (study {}): the PACS has no SR", study.what, found.key)),
            }
            let to_ris = made.deliveries.iter().any(|delivery| delivery.destination == "ris");
            match kept.iter().find(|message| message.control_id == made.control_id) {
                Some(message) => {
                    write(&oru.join(format!("{name}.hl7")), message.message.expose().as_bytes())?;
                    files.oru.push(format!("oru/{name}.hl7"));
                    example.get_or_insert_with(|| message.message.clone());
                }
                None if to_ris => {
                    faults.push(format!("{} (study {}): the RIS has no message", study.what, found.key));
                }
                // The rule sends it to the PACS only.
                None => {}
            }
        }
        if study.examined && found.jobs.is_empty() {
            faults.push(format!("{} (study {}): no rule gave it to a model", study.what, found.key));
        }
        let truth = compare(study, found, &mut faults);
        studies.push(summary::study(study, found, files, truth));
    }
    if held.len() != expected {
        faults.push(format!("the PACS has {} objects instead of {expected}", held.len()));
    }
    let picture = draw(world.folder, sent, snapshot)?;
    let deliveries = summary::deliveries(snapshot);
    let summary = Summary {
        ok: false,
        pacs: world.pacs.describe(),
        studies,
        deliveries,
        audit: AuditSummary { records: 0, verified: false },
        missing,
        seconds: 0.0,
    };
    Ok(Outcome { summary, faults, example, picture })
}

/// A phantom's answers against its truth.
fn compare(study: &Sent, found: &Study, faults: &mut Vec<String>) -> Option<String> {
    let truth = study.truth.as_ref()?;
    let findings: Vec<Finding> = found
        .jobs
        .iter()
        .filter_map(|job| job.outcome.as_ref())
        .flat_map(|outcome| outcome.findings.clone())
        .collect();
    Some(match truth.check(&findings) {
        Ok(sentence) => sentence,
        Err(problem) => {
            faults.push(format!("{} (study {}): the answer is wrong: {problem}", study.what, found.key));
            format!("WRONG: {problem}")
        }
    })
}

/// Draws the frame with the most outlined findings; false where nothing was found anywhere.
fn draw(folder: &Folder, sent: &[Sent], snapshot: &Snapshot) -> anyhow::Result<bool> {
    /// The visible findings on one frame, by one study's job.
    type OnFrame<'a> = (&'a Study, &'a Job, Vec<&'a Finding>);
    let mut frames: BTreeMap<(&Phi<String>, u32), OnFrame<'_>> = BTreeMap::new();
    for study in &snapshot.studies {
        for job in &study.jobs {
            for finding in job.outcome.iter().flat_map(|outcome| &outcome.findings) {
                if finding.tier == Tier::Suppressed {
                    continue;
                }
                let source = &finding.source;
                let place = (&source.instance.sop_instance_uid, source.frame);
                frames.entry(place).or_insert_with(|| (study, job, Vec::new())).2.push(finding);
            }
        }
    }
    let outlined =
        |findings: &[&Finding]| findings.iter().filter(|finding| finding.source.region.is_some()).count();
    let best = frames.into_iter().max_by_key(|(_, (_, _, findings))| (outlined(findings), findings.len()));
    let Some(((instance, number), (study, job, findings))) = best else { return Ok(false) };
    // The file as it was sent: the box has kept the same bytes.
    let files = sent.iter().flat_map(|study| &study.instances);
    let file = files.into_iter().find(|file| file.sop_instance_uid() == instance);
    let path = file
        .ok_or_else(|| anyhow!("study {}: a finding is on an image that was not sent", study.key))?
        .path();
    let image = preview::windowed(path, number)
        .with_context(|| format!("study {}: drawing the picture", study.key))?;
    let model = job.outcome.as_ref().map(|outcome| &outcome.model);
    let captions = [
        format!("study {}  frame {number}", study.key),
        model.map_or_else(|| job.model.clone(), |model| format!("{} {}", model.name, model.version)),
    ];
    let picture = preview::draw(&Subject { image: &image, findings: &findings, captions: &captions });
    let path = folder.join("preview.png");
    picture.save(&path).with_context(|| format!("writing {}", path.display()))?;
    Ok(true)
}

impl Outcome {
    /// Verifies the audit chain with the device's key.
    pub fn verify_audit(&mut self, ledger: &Connection, data_dir: &Path) -> anyhow::Result<()> {
        let key = DeviceIdentity::open_or_create(&data_dir.join("device.key"))?.public_key();
        match export::verify(ledger, key) {
            Ok(records) => self.summary.audit = AuditSummary { records, verified: true },
            Err(error) => self.faults.push(format!("the audit chain does not verify: {error}")),
        }
        Ok(())
    }

    /// Writes `summary.json`.
    pub fn finish(&mut self, folder: &Folder, seconds: f64) -> anyhow::Result<()> {
        self.summary.ok = self.faults.is_empty();
        self.summary.seconds = seconds;
        write(&folder.join("summary.json"), &serde_json::to_vec_pretty(&self.summary)?)
    }

    /// Shows it on the terminal. `running` is set where the daemon keeps running.
    pub fn print(&self, folder: &Folder, site: &DemoSite, running: Option<&Ready>, pacs: &Pacs) {
        println!("\nStudies");
        for study in &self.summary.studies {
            println!("  {}", study.line());
            if let Some(truth) = &study.truth {
                println!("    compared with the truth: {truth}");
            }
            for found in &study.visible {
                println!("    {} {:.2} ({})", found.finding, found.score, found.tier.as_str());
            }
            println!("    {}", study.stages());
        }
        let delivered =
            self.summary.deliveries.iter().filter(|delivery| delivery.state == "delivered").count();
        println!("\nDeliveries: {delivered} of {} acknowledged", self.summary.deliveries.len());
        let audit = &self.summary.audit;
        let verified = if audit.verified { "the chain verifies" } else { "the chain does NOT verify" };
        println!("Audit log: {} records, {verified}", audit.records);
        if let Some(message) = &self.example {
            println!("\nThe text of one message, as the RIS got it:");
            let lines = ris::readable(message.expose());
            lines.iter().take(LINES_SHOWN).for_each(|line| println!("  | {line}"));
            if lines.len() > LINES_SHOWN {
                println!("  | ... ({} more lines)", lines.len() - LINES_SHOWN);
            }
        }
        println!("\nWhere to look");
        let entry = |name: &str, path: PathBuf| println!("  {name:<9} {}", path.display());
        entry("SR", folder.join("results"));
        entry("ORU", folder.join("oru"));
        if self.picture {
            entry("picture", folder.join("preview.png"));
        }
        entry("summary", folder.join("summary.json"));
        entry("site file", folder.join("site").join("site.toml"));
        entry("log", folder.join("daemon.log"));
        match running {
            Some(ready) => print_running(site, ready, pacs),
            None => println!(
                "\nEverything was stopped. `lightbox demo --keep-running` leaves it up, with the administration page."
            ),
        }
        println!("\n{:.1} s in all", self.summary.seconds);
    }

    /// An error if the demo has not shown what it was to show.
    pub fn judge(&self) -> anyhow::Result<()> {
        if self.faults.is_empty() {
            return Ok(());
        }
        bail!("the demo failed: {}", self.faults.join("; "))
    }
}

fn print_running(site: &DemoSite, ready: &Ready, pacs: &Pacs) {
    println!("\nAdministration page");
    println!(
        "  curl --cert {} --key {} --cacert {} https://{}/",
        site.certificate(party::OPERATOR).display(),
        site.key(party::OPERATOR).display(),
        site.authority().display(),
        ready.admin,
    );
    if let Some(p12) = &site.p12 {
        println!("  in a browser: import {} (password \"{P12_PASSWORD}\")", p12.display());
    }
    if let Pacs::Orthanc(orthanc) = pacs {
        println!("The PACS's own page: http://{}/", orthanc.http);
    }
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}
