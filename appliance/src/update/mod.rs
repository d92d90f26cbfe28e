//! How a signed model comes to run on this box, and stops.
//!
//! [`Updates`] is one task. It looks at the repository ([`check`]), takes each new version from state to state
//! ([`steps`]), runs it on this hardware ([`acceptance`]), and makes it the active one when the plan and the
//! people that it asks for agree. Two tasks beside it: [`Shadow`] runs a candidate on live studies without output, and
//! [`Monitors`] watch the active version. What it decides, `lightbox_models` decides; what it knows, the ledger knows:
//! whatever instant it is killed at, the next start goes on from the last row that was written.
//!
//! The switch is a row of the ledger (`store::models`). [`registry`] opens what that row names.

mod acceptance;
mod anew;
mod back;
mod check;
mod decisions;
mod equivalence;
mod evidence;
mod files;
pub(crate) mod mirror;
mod monitor;
mod recall;
pub mod registry;
mod report;
mod settle;
mod shadow;
mod steps;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lightbox_bootstrap::identity::DeviceIdentity;
use lightbox_models::Manifest;
use lightbox_models::life_cycle::State;
use lightbox_provisioning::site::Site;
use rusqlite::Connection;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::admin::ModelLine;
use crate::clock::SharedClock;
use crate::config::chain;
use crate::dicom::tls::live::Live;
use crate::infer;
use crate::infer::engine::EngineHandle;
use crate::store::ledger::{Ledger, LedgerError};
use crate::store::models;
use crate::store::objects::Objects;
use crate::web::client::MirrorOf;

pub use anew::begin_anew;
pub use back::{go_back, verify_kept};
pub use decisions::{Approved, approve, order};
pub use evidence::Kept;
pub use files::Folders;
pub use monitor::Monitors;
use registry::Registry;
pub use report::{Asked, Named, ShadowReport, approval_refused, plan};
pub use shadow::Shadow;

/// How often the ledger is asked whether somebody wants something.
const TICK: Duration = Duration::from_millis(500);
/// A version that waits is judged again after this long, though nothing was written: plans end, hours pass.
const JUDGE_AGAIN: Duration = Duration::from_secs(60);

/// A model that comes from the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Managed {
    /// Its name in the site file.
    pub name: String,
    /// What its bundles' names begin with.
    pub target: String,
    /// Its plan.
    pub plan: String,
}

impl Managed {
    /// Whether a target is a bundle of this model: what follows the model's name begins with a digit, so that
    /// `detector` does not take `detector-mr-1.lightbox`.
    pub fn is_bundle(&self, target: &str) -> bool {
        target
            .strip_prefix(&self.target)
            .and_then(|rest| rest.strip_prefix(['-', '/']))
            .and_then(|rest| rest.strip_suffix(".lightbox"))
            .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()) && !rest.contains('/'))
    }

    /// Where an acceptance set lies, sealed: for this box alone, or for several.
    fn sets(&self, sha256: &str, fingerprint: &str) -> [String; 2] {
        let folder = format!("{}/sets/{sha256}", self.target);
        [format!("{folder}/{fingerprint}.age"), format!("{folder}.age")]
    }
}

/// The models that a site takes from the repository.
pub fn managed(site: &Site) -> Vec<Managed> {
    let models = site.file.model.iter();
    models
        .map(|model| Managed {
            name: model.name.clone(),
            target: model.target.clone(),
            plan: model.plan.clone(),
        })
        .collect()
}

/// The same, as the ledger notes them.
pub fn slots(site: &Site) -> Vec<(String, String, String)> {
    managed(site).into_iter().map(|model| (model.name, model.target, model.plan)).collect()
}

/// The secret that acceptance sets for this device are sealed to.
pub fn acceptance_secret(identity: &DeviceIdentity) -> [u8; 32] {
    acceptance::secret(identity)
}

/// What the overview shows of the signed models.
pub fn model_lines(reader: &Connection) -> Result<Vec<ModelLine>, LedgerError> {
    let mut lines = Vec::new();
    for slot in models::slots(reader)?.into_iter().filter(|slot| slot.managed) {
        let versions = models::versions(reader, Some(&slot.slot))?;
        let active = versions.iter().find(|version| version.state == State::Active);
        let manifest = active.and_then(|version| manifest(version).ok());
        lines.push(ModelLine {
            name: slot.slot,
            title: match (&manifest, active) {
                (Some(manifest), Some(active)) => title(manifest, active, &slot.note),
                _ => String::new(),
            },
            digest: active.map(|version| version.digest.clone()).unwrap_or_default(),
            not_for_clinical_use: manifest
                .as_ref()
                .is_some_and(|manifest| manifest.model.not_for_clinical_use),
            fault: active.is_none().then(|| {
                let told = versions.iter().filter(|version| !version.note.is_empty());
                let last = told.max_by_key(|version| version.since).map(|version| version.note.as_str());
                let why = last.or_else(|| Some(slot.note.as_str()).filter(|note| !note.is_empty()));
                format!("no version is active{}", why.map(|why| format!(": {why}")).unwrap_or_default())
            }),
        });
    }
    Ok(lines)
}

/// Name and version, and what people should know of it: a monitor warns, another one was taken out of service
/// for it, or what is published for it cannot be had: that may be its recall.
fn title(manifest: &Manifest, active: &models::VersionRow, of_slot: &str) -> String {
    let title = format!("{} {}", manifest.model.name, manifest.model.version);
    let told = monitor::is_told(&active.note) || models::is_in_place(&active.note);
    let told = Some(active.note.as_str()).filter(|_| told);
    let told: Vec<&str> = told.into_iter().chain(Some(of_slot).filter(|note| !note.is_empty())).collect();
    if told.is_empty() { title } else { format!("{title} ({})", told.join("; ")) }
}

/// A version's manifest, as it was when its bundle was checked.
pub fn manifest(version: &models::VersionRow) -> Result<Manifest, LedgerError> {
    Manifest::read(std::path::Path::new("manifest.toml"), &version.manifest).map_err(|problem| {
        LedgerError::Illegal(format!(
            "the manifest of version {} cannot be read back: {problem}",
            version.digest
        ))
    })
}

/// The service.
pub struct Updates {
    models: Vec<Managed>,
    site: Arc<Site>,
    ledger: Ledger,
    identity: Arc<DeviceIdentity>,
    clock: SharedClock,
    registry: Registry,
    engine: EngineHandle,
    /// The same for what has time: a candidate's acceptance waits while patients' studies do not.
    behind: EngineHandle,
    /// The version that runs on this hardware now, to be accepted or not.
    trial: Mutex<Option<(String, String)>>,
    /// Told when a job may run that could not before.
    work: Arc<Notify>,
    folders: Folders,
    mirror: Option<mirror::Mirror>,
}

impl Updates {
    /// The service of a site; none where it takes no model from a repository.
    pub fn of_site(
        site: &Arc<Site>,
        ledger: &Ledger,
        identity: &Arc<DeviceIdentity>,
        clock: &SharedClock,
        registry: &Registry,
        engine: Option<&EngineHandle>,
        work: &Arc<Notify>,
    ) -> Option<Self> {
        let models = managed(site);
        let engine = engine.filter(|_| !models.is_empty())?.clone();
        Some(Updates {
            models,
            site: site.clone(),
            ledger: ledger.clone(),
            identity: identity.clone(),
            clock: clock.clone(),
            registry: registry.clone(),
            behind: engine.clone(),
            engine,
            trial: Mutex::default(),
            work: work.clone(),
            folders: Folders::of(&site.file.appliance.data_dir),
            mirror: None,
        })
    }

    /// The plan's monitors of the same models.
    pub fn monitors(&self) -> Monitors {
        Monitors {
            models: self.models.clone(),
            ledger: self.ledger.clone(),
            folders: self.folders.clone(),
            work: self.work.clone(),
        }
    }

    /// The runs in shadow of the same models; they wait while `busy`.
    pub fn shadow(&self, objects: &Objects, busy: watch::Receiver<bool>) -> Shadow {
        Shadow {
            models: self.models.clone(),
            ledger: self.ledger.clone(),
            objects: objects.clone(),
            registry: self.registry.clone(),
            engine: self.engine.behind(busy),
        }
    }

    /// The same; what has time waits while `busy`.
    #[must_use]
    pub fn giving_way_to(mut self, busy: watch::Receiver<bool>) -> Self {
        self.behind = self.engine.behind(busy);
        self
    }

    /// The same with the mirror that the site may name, known by the newest certificates.
    #[must_use]
    pub fn with_mirror(mut self, live: &watch::Receiver<Arc<Live>>) -> Self {
        self.mirror = mirror::Mirror::of_site(&self.site, live, MirrorOf::Models);
        self
    }

    /// Runs until `stop` turns true. It may be left at any point: so may a power cut leave it.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.turns() => {}
        }
        // A try that is broken off on purpose is none.
        let broken_off = self.trial.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((slot, digest)) = broken_off {
            let taken =
                self.ledger.write(move |writer| models::take_back_trial(writer, &slot, &digest)).await;
            self.report(taken, "a try on this hardware cannot be taken back");
        }
    }

    async fn turns(&self) {
        self.report(self.clean().await, "what an interrupted installation left cannot be removed");
        self.report(self.apply_recalls().await, "what was recalled cannot be taken out of service");
        self.report(self.load_active().await, "the active versions cannot be looked up");
        let minutes = self.site.file.updates.check_minutes;
        let every = Duration::from_secs(60 * minutes);
        let interrupted = self.is_interrupted().await;
        let mut due = (minutes > 0 || interrupted).then(Instant::now);
        let mut judged = settle::Judged::default();
        loop {
            match self.ledger.read(models::open_request).await {
                Ok(Some(request)) => {
                    let look = self.check(&request.person, request.override_reason.as_deref());
                    let outcome = listening(every, look, || self.hear()).await;
                    let answered = self
                        .ledger
                        .write(move |writer| models::answer_request(writer, request.id, &outcome))
                        .await;
                    self.report(answered, "the request for a look cannot be answered");
                }
                Ok(None) if due.is_some_and(|due| due <= Instant::now()) => {
                    listening(every, self.check("box", None), || self.hear()).await;
                    due = (minutes > 0).then(|| Instant::now() + every);
                }
                Ok(None) => {}
                Err(error) => self.report(Err(error), "requests cannot be looked up"),
            }
            for model in &self.models {
                let settled = self.settle(model, &mut judged).await;
                self.report(settled, "a version cannot be judged");
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Loads what is active, so that no study is the first to find a fault, or has to wait for it.
    async fn load_active(&self) -> Result<(), LedgerError> {
        let versions = self.ledger.read(|reader| models::versions(reader, None)).await?;
        for version in versions.into_iter().filter(|version| version.state == State::Active) {
            let (registry, digest) = (self.registry.clone(), version.digest.clone());
            let opened = tokio::task::spawn_blocking(move || registry.open(&digest)).await;
            let loaded = match opened.map_err(|_| LedgerError::Panicked)? {
                Ok(bundle) => infer::load(&bundle, &self.engine).await.map_err(|error| chain(&error)),
                Err(error) => Err(chain(&error)),
            };
            let (model, digest) = (version.slot, version.digest);
            match loaded {
                Ok(()) => tracing::info!(model, digest, engine = self.engine.describe(), "model loaded"),
                Err(why) => tracing::error!(model, digest, why, "the active version cannot be loaded"),
            }
        }
        Ok(())
    }

    /// Whether a version is on its way that only a look at the repository takes further.
    async fn is_interrupted(&self) -> bool {
        match self.ledger.read(|reader| models::versions(reader, None)).await {
            Ok(versions) => versions
                .iter()
                .any(|version| matches!(version.state, State::Received | State::Verified | State::PlannedIn)),
            Err(error) => {
                self.report(Err(error), "whether an installation was interrupted cannot be looked up");
                // A look too many does no harm; one too few would leave it where it is.
                true
            }
        }
    }

    fn report(&self, done: Result<(), LedgerError>, what: &'static str) {
        if let Err(error) = done {
            tracing::error!(reason = error.to_string(), "{what}");
        }
    }
}

/// Brings a look to its end, and hears recalls meanwhile, so often (0: never): a candidate whose acceptance takes hours
/// must not keep what runs from being stopped.
async fn listening<T, H: Future<Output = ()>>(
    every: Duration,
    look: impl Future<Output = T>,
    hear: impl Fn() -> H,
) -> T {
    let mut look = std::pin::pin!(look);
    if every.is_zero() {
        return look.await;
    }
    loop {
        tokio::select! {
            said = &mut look => return said,
            () = tokio::time::sleep(every) => hear().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn recalls_are_heard_while_a_look_goes_on() {
        let (heard, mut at) = watch::channel(0);
        let hear = || async { heard.send_modify(|count| *count += 1) };
        // A look that ends only once three were heard.
        let look = async { at.wait_for(|count| *count >= 3).await.map(|count| *count) };
        assert!(listening(Duration::from_millis(1), look, hear).await.is_ok_and(|count| count >= 3));
        let before = *heard.borrow();
        assert_eq!(listening(Duration::ZERO, async { 7 }, hear).await, 7);
        assert_eq!(*heard.borrow(), before);
    }

    #[test]
    fn a_model_takes_its_own_versions_only() {
        let model = Managed {
            name: "d".into(),
            target: "vendors/acme/detector".into(),
            plan: "plans/detector.toml".into(),
        };
        for own in ["detector-2.lightbox", "detector-2.1.0.lightbox", "detector/3.lightbox"] {
            assert!(model.is_bundle(&format!("vendors/acme/{own}")), "{own}");
        }
        for other in [
            "detector.lightbox",
            "detector-mr-1.lightbox",
            "detector2-1.lightbox",
            "detector-2.age",
            "detector/1/2.lightbox",
            "other-2.lightbox",
        ] {
            assert!(!model.is_bundle(&format!("vendors/acme/{other}")), "{other}");
        }
    }
}
