//! `lightbox demo`: the whole line on this machine. A site is made up, the real daemon is started
//! beside a PACS and a RIS, studies are sent to it, and what arrives at the other end is checked.

pub mod child;
pub mod folder;
pub mod orthanc;
pub mod outcome;
pub mod pacs;
pub mod preview;
pub mod ris;
pub mod show;
pub mod site;
pub mod studies;
pub mod summary;
pub mod vendor;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use lightbox_models::life_cycle::State;
use rusqlite::Connection;
use tokio::time::Instant;

use crate::clock::{SharedClock, SystemClock};
use crate::dicom::scu::{Step, Target};
use crate::store::ledger::open_reader;
use crate::store::models;
use child::Daemon;
use folder::Folder;
use pacs::Pacs;
use ris::Ris;
use show::Show;
use site::{DemoSite, Peers, ae, party};
use studies::Sent;
use watch::{Snapshot, Standing};

/// How long the studies have to go through the line and be delivered.
const LINE_WAIT: Duration = Duration::from_secs(50);
/// How often the ledger is asked.
const LOOK: Duration = Duration::from_millis(200);

/// What the demo is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder for everything that it writes; `None`: `target/demo` in a checkout, else `lightbox-demo`.
    pub out: Option<PathBuf>,
    /// Folder of the real studies; `None`: where `./justw parts` puts them.
    pub samples: Option<PathBuf>,
    /// Folder of the reference bundles; `None`: where `./justw parts` puts them.
    pub bundles: Option<PathBuf>,
    /// Leave everything running at the end, until Ctrl-C.
    pub keep_running: bool,
    /// Seed of the phantoms.
    pub seed: u64,
    /// Use the PACS in this process even if Orthanc is installed.
    pub in_process_pacs: bool,
}

/// The parts that are not in the repository, as far as they are here.
#[derive(Clone, Debug)]
pub struct Parts {
    /// ONNX Runtime's library.
    pub onnxruntime: PathBuf,
    /// The real studies.
    pub samples: Option<PathBuf>,
    /// The brain tumour bundle.
    pub brain_tumour: Option<PathBuf>,
}

impl Parts {
    /// Looks for the parts; only ONNX Runtime must be there.
    fn find(options: &Options) -> anyhow::Result<Parts> {
        let folder = |given: &Option<PathBuf>, option: &str, usual: &str| match given {
            None => Ok(built(usual)),
            Some(path) if path.is_dir() => Ok(path.canonicalize().ok()),
            Some(path) => Err(anyhow!("{option} {}: no such folder; remedy: name another", path.display())),
        };
        let bundles = folder(&options.bundles, "--bundles", "bundles")?;
        let whole = |bundle: PathBuf| lightbox_models::Bundle::open(&bundle).is_ok().then_some(bundle);
        Ok(Parts {
            onnxruntime: onnxruntime()?,
            samples: folder(&options.samples, "--samples", "parts/samples")?,
            brain_tumour: bundles.map(|folder| folder.join("brain-tumour")).and_then(whole),
        })
    }
}

/// What `./justw parts` has put under `target/`: of the checkout that we stand in, else of the one
/// whose build we are (`target/debug/lightbox`).
fn built(path: &str) -> Option<PathBuf> {
    let here = Path::new("target").join(path).canonicalize().ok();
    here.or_else(|| std::env::current_exe().ok()?.parent()?.parent()?.join(path).canonicalize().ok())
}

/// Where ONNX Runtime's library is: as the environment says, else where `./justw parts` puts it.
pub fn onnxruntime() -> anyhow::Result<PathBuf> {
    for name in ["LIGHTBOX_ONNXRUNTIME", "ORT_DYLIB_PATH"] {
        let Some(path) = std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from) else {
            continue;
        };
        return path.canonicalize().map_err(|_| {
            anyhow!(
                "{name}: there is no ONNX Runtime at {}; remedy: in a checkout run ./justw parts, or set {name} to libonnxruntime.so",
                path.display()
            )
        });
    }
    built("parts/onnxruntime/libonnxruntime.so").ok_or_else(|| {
        anyhow!(
            "no ONNX Runtime is here; remedy: in a checkout run ./justw parts, else set LIGHTBOX_ONNXRUNTIME to libonnxruntime.so"
        )
    })
}

/// The folder for the output where none is named.
fn usual_out() -> PathBuf {
    let checkout = Path::new("appliance/Cargo.toml").is_file() && Path::new("justw").is_file();
    if checkout { "target/demo".into() } else { "lightbox-demo".into() }
}

/// A demo that has been shown.
pub struct Shown {
    /// What came out.
    pub outcome: outcome::Outcome,
    daemon: Option<Daemon>,
    /// Held for as long as anything runs: dropping them ends them.
    _world: (Pacs, Ris, Folder),
}

impl Shown {
    /// Whether anything keeps running.
    pub fn is_running(&self) -> bool {
        self.daemon.is_some()
    }

    /// Stops what keeps running.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        match self.daemon.take() {
            Some(daemon) => daemon.stop().await,
            None => Ok(()),
        }
    }
}

/// Runs the demo; an error says what went wrong, and where the log is.
pub async fn run(options: Options) -> anyhow::Result<Shown> {
    let mut show = Show::new();
    let clock: SharedClock = Arc::new(SystemClock);
    let parts = Parts::find(&options)?;
    let folder = Folder::prepare(&options.out.clone().unwrap_or_else(usual_out))?;

    let site = DemoSite::make(&folder.make("site")?, clock.now())?;
    show.say("made a site: its authority, and certificates for box, modality, PACS, RIS and operator");
    let pacs = pacs::start(&site, &folder, options.in_process_pacs, clock.clone()).await?;
    show.say(format!("PACS: {}, DICOM over mutual TLS on {}", pacs.describe(), pacs.address()));
    let ris = Ris::start(site.server(party::RIS)?, &folder.make("ris")?, clock.clone()).await?;
    show.say(format!("RIS: HL7 (MLLP) over mutual TLS on {}", ris.address));

    let data_dir = folder.join("data");
    let peers = Peers { pacs: pacs.address().to_owned(), ris: ris.address.clone() };
    show.now("signing the models as the demonstration vendor".into());
    let models = site.sign_models(&data_dir, &parts, clock.now())?;
    let site_file = site.write_site_file(&data_dir, &parts, &models, &peers)?;
    show.say("made a model vendor: keys, signed bundles (not for clinical use), change-control plans");
    show.now("starting the daemon: checking the site file".into());
    let mut daemon = Daemon::start(&site_file, &folder.join("daemon.log")).await?;
    show.say(format!("daemon: ready, DICOM over mutual TLS on {}", daemon.ready.dicom));

    let (sent, missing) = studies::gather(&folder, &parts, options.seed)?;
    missing.iter().for_each(|line| show.say(line));
    let ledger = open_reader(&data_dir.join("ledger.db"))?;
    let installed = models_installed(&ledger, &mut daemon, &mut show).await;
    let installed = installed
        .map_err(|error| anyhow!("{error:#}; the daemon's log: {}", folder.join("daemon.log").display()))?;
    installed.iter().for_each(|line| show.say(line));
    send(&sent, &site, &daemon, &mut show).await?;

    let snapshot = go_through(&sent, &ledger, &mut daemon, &mut show)
        .await
        .map_err(|error| anyhow!("{error:#}; the daemon's log: {}", folder.join("daemon.log").display()))?;
    show.now("reading the results back".into());
    let world = outcome::World { folder: &folder, pacs: &pacs, ris: &ris };
    let mut outcome = outcome::collect(&world, &sent, &snapshot, missing).await?;

    let mut running = Some(daemon);
    if !options.keep_running
        && let Some(daemon) = running.take()
    {
        // Before the audit log is verified, so that the stop is in it.
        show.now("stopping the daemon".into());
        daemon.stop().await?;
    }
    outcome.verify_audit(&ledger, &data_dir)?;
    show.done();
    outcome.finish(&folder, show.seconds())?;
    outcome.print(&folder, &site, running.as_ref().map(|daemon| &daemon.ready), &pacs);
    Ok(Shown { outcome, daemon: running, _world: (pacs, ris, folder) })
}

/// Ends on Ctrl-C or SIGTERM.
pub async fn wait_for_stop() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

async fn send(sent: &[Sent], site: &DemoSite, daemon: &Daemon, show: &mut Show) -> anyhow::Result<()> {
    let target = Target {
        address: daemon.ready.dicom.clone(),
        called: ae::BOX.into(),
        calling: ae::MODALITY.into(),
        tls: Some(site.client(party::MODALITY, party::BOX)?),
        wait: Duration::from_secs(30),
        window: 1,
    };
    for study in sent {
        show.now(format!("sending {}", study.what));
        let mut problems = Vec::new();
        target
            .send(&study.instances, true, &mut |step| {
                if let Step::Sent(_, Some(problem)) = step {
                    problems.push(problem.to_string());
                }
            })
            .await
            .with_context(|| format!("sending {}", study.what))?;
        if let Some(problem) = problems.first() {
            bail!("sending {}: {} objects were not stored: {problem}", study.what, problems.len());
        }
    }
    let files: usize = sent.iter().map(|study| study.instances.len()).sum();
    show.say(format!(
        "sent {} studies, {files} objects; each was durable before it was acknowledged",
        sent.len()
    ));
    Ok(())
}

/// Waits until every model is active: verified, inside its plan, and accepted on this machine.
async fn models_installed(
    ledger: &Connection,
    daemon: &mut Daemon,
    show: &mut Show,
) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + LINE_WAIT;
    loop {
        daemon.check()?;
        let slots = models::slots(ledger)?;
        let (mut said, mut waiting) = (Vec::new(), Vec::new());
        for slot in &slots {
            let versions = models::versions(ledger, Some(&slot.slot))?;
            if let Some(refused) = versions.iter().find(|version| version.state == State::Refused) {
                bail!("model {}: refused: {}", slot.slot, refused.note);
            }
            match versions.iter().find(|version| version.state == State::Active) {
                Some(active) => {
                    let (plan, version) = active.plan.clone().unwrap_or_default();
                    let record = active.acceptance.as_deref().unwrap_or_default();
                    said.push(format!(
                        "model {} {}: signed, inside plan {plan} version {version}, accepted on this machine (record {}), active",
                        slot.slot,
                        active.version,
                        record.get(..12).unwrap_or(record)
                    ));
                }
                None => {
                    let note =
                        versions.iter().map(|version| version.note.as_str()).find(|note| !note.is_empty());
                    waiting.push(format!("{}: {}", slot.slot, note.unwrap_or(&slot.note)));
                }
            }
        }
        if !slots.is_empty() && waiting.is_empty() {
            return Ok(said);
        }
        if Instant::now() > deadline {
            bail!("no active version after {} s: {}", LINE_WAIT.as_secs(), waiting.join("; "));
        }
        show.now("the box verifies the models, and runs their acceptance on this machine".into());
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until every study has gone all the way; the ledger tells.
async fn go_through(
    sent: &[Sent],
    ledger: &Connection,
    daemon: &mut Daemon,
    show: &mut Show,
) -> anyhow::Result<Snapshot> {
    let deadline = Instant::now() + LINE_WAIT;
    loop {
        daemon.check()?;
        let snapshot = Snapshot::read(ledger)?;
        let mut waiting = Vec::new();
        for study in sent {
            match snapshot.study(&study.study_uid) {
                None => waiting.push(format!("{}: not in the ledger", study.what)),
                Some(found) => match found.standing() {
                    Standing::Ended => {}
                    Standing::Failed(stage, error) => {
                        bail!("{} (study {}): {stage} failed: {error}", study.what, found.key)
                    }
                    Standing::Underway(stage) => {
                        let error = found.last_error().map(|error| format!(", last error: {error}"));
                        let error = error.unwrap_or_default();
                        waiting.push(format!("{} (study {}): {stage}{error}", study.what, found.key));
                    }
                },
            }
        }
        if waiting.is_empty() {
            return Ok(snapshot);
        }
        if Instant::now() > deadline {
            bail!("not done after {} s: {}", LINE_WAIT.as_secs(), waiting.join("; "));
        }
        let first = waiting.first().map(String::as_str).unwrap_or_default();
        show.now(format!("{} of {} studies done; {first}", sent.len() - waiting.len(), sent.len()));
        tokio::time::sleep(LOOK).await;
    }
}
