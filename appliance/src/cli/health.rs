//! `lightbox health`: is the daemon well? The image's health gate and its watch ask by it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::Parser;
use lightbox_provisioning::site::Peer;
use rusqlite::{Connection, OptionalExtension as _};

use super::SiteArg;
use super::place::Place;
use crate::dicom::scu::{Instance, Step, Target};
use crate::dicom::tls::{self, OwnIdentity};
use crate::finding::{Completeness, ModelResult};
use crate::job::{JobState, State as _};
use crate::phantom::truth::Truth;
use crate::phantom::{Kind, Phantom, Spec, generate};

/// The peer of the site file by which the box sends to itself.
pub const SELF_TEST_PEER: &str = "self-test";

/// Time for each answer of the daemon.
const ANSWER: Duration = Duration::from_secs(20);
/// Pause between two tries, and between two looks into the ledger.
const PAUSE: Duration = Duration::from_millis(300);

/// Ask the running daemon whether it is well: a C-ECHO over TLS, and a look into its ledger. With
/// `--phantom`, a study with exactly known findings goes through it, and the answer must be exact.
///
/// The box sends to itself, with its own certificate, as the peer `self-test` of the site file, which a
/// rule of its own should send to the phantom detector and to no destination:
///
/// [[peer]]
/// name = "self-test"
/// ae_title = "SELF-TEST"
/// certificate = { sha256 = "..." }    # of appliance.tls.certificate
/// networks = ["127.0.0.1"]
///
/// [[rule]]
/// name = "self-test"
/// match = { peer = "self-test" }
/// models = ["phantom"]
/// deliver = []
/// stop = true
///
/// Exit code 0: well. Otherwise the reason is on standard error.
#[derive(Debug, Parser)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(flatten)]
    site: SiteArg,
    /// Send a phantom study and compare the findings with the truth.
    #[arg(long)]
    phantom: bool,
    /// Seconds to wait for the daemon, all in all.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

impl Args {
    /// Asks.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let deadline = started + Duration::from_secs(self.wait);
        let place = Place::open(&self.site)?;
        // A box that came back from a newer release: the daemon does not start on such a ledger, however long we wait.
        place.is_no_newer_releases()?;
        let target = target(&place)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(echo(&target, deadline))?;
        let ledger = place.reader()?;
        let said = if self.phantom {
            runtime.block_on(phantom_study(&target, &ledger, deadline))?
        } else {
            "it answers, and its ledger can be read".to_owned()
        };
        println!("healthy: {said}; {:.1} s", started.elapsed().as_secs_f64());
        Ok(ExitCode::SUCCESS)
    }
}

/// The daemon as the peer `self-test` reaches it: on this machine, known by its own certificate.
fn target(place: &Place) -> anyhow::Result<Target> {
    let file = &place.site.file;
    let peer: &Peer = file.peer.iter().find(|peer| peer.name == SELF_TEST_PEER).ok_or_else(|| {
        anyhow!(
            "the site file has no peer \"{SELF_TEST_PEER}\", by which the box sends to itself; remedy: add it, as `lightbox health --help` shows"
        )
    })?;
    let own = OwnIdentity::load(&file.appliance.tls.certificate, &file.appliance.tls.key)
        .context("appliance.tls cannot be used")?;
    let known = own.known().ok_or_else(|| anyhow!("appliance.tls.certificate holds no certificate"))?;
    Ok(Target {
        address: local(&file.dicom.listen)?,
        called: file.appliance.ae_title.clone(),
        calling: peer.ae_title.clone(),
        tls: Some(tls::client_config(known, None, Some(&own))?),
        wait: ANSWER,
    })
}

/// Where a listener is reached from this machine.
fn local(listen: &str) -> anyhow::Result<String> {
    let (host, port) =
        listen.rsplit_once(':').ok_or_else(|| anyhow!("dicom.listen is no address with a port"))?;
    Ok(match host.trim_matches(['[', ']']) {
        "0.0.0.0" => format!("127.0.0.1:{port}"),
        "::" | "" => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    })
}

/// C-ECHO, tried again until the daemon is up.
async fn echo(target: &Target, deadline: Instant) -> anyhow::Result<()> {
    loop {
        let error = match target.send(&[], true, &mut |_| {}).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(error.context("the daemon does not answer C-ECHO"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A folder that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let mut chance = [0; 8];
        getrandom::fill(&mut chance).map_err(|_| anyhow!("the machine gives no random numbers"))?;
        let path = std::env::temp_dir().join(format!("lightbox-health-{:016x}", u64::from_ne_bytes(chance)));
        std::fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // In a folder for temporary files: what stays is removed with it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Sends a phantom that the box has never seen and waits for the exact answer.
async fn phantom_study(target: &Target, ledger: &Connection, deadline: Instant) -> anyhow::Result<String> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|_| anyhow!("the machine gives no random numbers"))?;
    let kind = Kind::Ct { slices: 4 };
    let spec = Spec { rows: 128, columns: 128, disks: 3, ..Spec::new(kind, u64::from_ne_bytes(seed)) };
    let phantom = generate(&spec)?;
    let scratch = Scratch::new()?;
    let mut instances = Vec::new();
    for (index, file) in phantom.files.iter().enumerate() {
        let path = scratch.0.join(format!("{index}.dcm"));
        std::fs::write(&path, &file.bytes)
            .with_context(|| format!("{} cannot be written", path.display()))?;
        instances.push(Instance::open(&path).ok_or_else(|| anyhow!("the phantom is no DICOM file"))?);
    }
    let mut refused = None;
    let failed = target
        .send(&instances, false, &mut |step| {
            if let Step::Sent(_, Some(problem)) = step {
                refused = Some(problem.to_owned());
            }
        })
        .await
        .context("the phantom study was not taken")?;
    if failed > 0 {
        bail!(
            "{failed} of {} images of the phantom were not stored: {}",
            instances.len(),
            refused.unwrap_or_default()
        );
    }
    let outcome = loop {
        if let Some(outcome) = outcome(ledger, &phantom)? {
            break outcome;
        }
        if Instant::now() >= deadline {
            bail!(
                "the phantom study was stored and no model has answered in time; remedy: look at `lightbox studies list`: is there a rule for the peer \"{SELF_TEST_PEER}\"?"
            );
        }
        tokio::time::sleep(PAUSE).await;
    };
    match &outcome.completeness {
        Completeness::Complete => {}
        Completeness::Partial(why) | Completeness::NotRun(why) => {
            bail!("the model did not examine the whole phantom: {why}")
        }
    }
    Truth::new(phantom, &spec)
        .check(&outcome.findings)
        .map_err(|wrong| anyhow!("the phantom's answer is wrong: {wrong}"))
}

/// What the model said of the phantom, once it has; an error where it failed.
fn outcome(ledger: &Connection, phantom: &Phantom) -> anyhow::Result<Option<ModelResult>> {
    let row: Option<(String, Option<String>, Option<String>)> = ledger
        .query_row(
            "SELECT j.state, j.error, j.outcome FROM jobs j JOIN studies s ON s.id = j.study_id
             WHERE s.study_uid = ?1 ORDER BY j.id DESC LIMIT 1",
            [phantom.study_uid.expose()],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()
        .context("the ledger cannot be read")?;
    let Some((state, error, outcome)) = row else { return Ok(None) };
    if state == JobState::Failed.as_str() {
        bail!("the model failed on the phantom: {}", error.unwrap_or_default());
    }
    match outcome {
        Some(text) => {
            Ok(Some(serde_json::from_str(&text).context("the ledger holds an outcome that cannot be read")?))
        }
        None => Ok(None),
    }
}
