//! The daemon: everything put together, in the order in which it must come up, and taken down
//! again.
//!
//! Nothing listens before the whole configuration is checked, the ledger is open, its index agrees
//! with the objects, and what an earlier start left under way is queued again.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lightbox_bootstrap::identity::{DeviceIdentity, IdentityError};
use lightbox_provisioning::site::{Site, SiteError};
use metrics_exporter_prometheus::PrometheusHandle;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde_json::json;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::admin::{self, AdminState, Listening, ModelLine};
use crate::audit::{self, Event, EventKind};
use crate::clock::SharedClock;
use crate::config::{Config, chain};
use crate::deliver::queue::{Backoff, Queue};
use crate::deliver::sender::Route;
use crate::dicom::tls::live::Live;
use crate::infer;
use crate::infer::engine::EngineHandle;
use crate::infer::onnx::OnnxEngine;
use crate::ingest::completion;
use crate::ingest::listener::Listener;
use crate::ingest::listener::places::Places;
use crate::ingest::receive::Receiver;
use crate::pipeline::Pipeline;
use crate::reload::{self, Reload};
use crate::store::index::{self, MendError};
use crate::store::ledger::{Ledger, LedgerError};
use crate::store::objects::{ObjectError, Objects};
use crate::store::results::{Results, ResultsError};
use crate::store::{deliveries, jobs};
use crate::structure;

/// Longest time that a stop waits for work under way.
const STOP_WAIT: Duration = Duration::from_secs(20);

/// The daemon could not start. Each message says what to do.
#[derive(Debug, Error)]
pub enum StartError {
    /// The site file, or what it names, cannot be used.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The data folder cannot be used.
    #[error("appliance.data_dir {path}: {what}; remedy: give the daemon's user a folder it can write")]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Another daemon has the data folder.
    #[error("appliance.data_dir {path} is in use by another daemon; remedy: stop it, or name another folder")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The device key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The audit log's head was not signed by this device's key.
    #[error(
        "device key {path} is not the one that signed the audit log ({why}); restore the right key from the backup"
    )]
    ForeignKey {
        /// The key file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The object store.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The results.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// The index of instances.
    #[error("the index of instances cannot be brought in line with the objects")]
    Mend(#[from] MendError),
    /// Signals.
    #[error("the system gives no notice of SIGHUP")]
    Signal(#[source] std::io::Error),
    /// A bundle that the engine refuses.
    #[error("model \"{model}\" does not load")]
    Model {
        /// Its name in the site file.
        model: String,
        /// Why.
        #[source]
        source: infer::Error,
    },
    /// A port.
    #[error("{key}: {address} cannot be listened on ({kind}); remedy: free the port, or choose another")]
    Port {
        /// Key in the site file.
        key: &'static str,
        /// Address.
        address: String,
        /// Why.
        kind: std::io::ErrorKind,
    },
    /// A thread of this start failed.
    #[error("starting failed in the code that does it")]
    Interrupted,
}

/// Where the daemon listens, printed once as one JSON line when it is ready.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// DICOM over TLS.
    pub dicom: String,
    /// DICOM without TLS.
    pub plaintext: Option<String>,
    /// The administration page.
    pub admin: String,
}

/// A running daemon.
pub struct Daemon {
    /// Where it listens.
    pub ready: Ready,
    ledger: Ledger,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// Held for as long as the daemon runs.
    _lock: Flock<File>,
}

/// Takes the data folder for this process alone. The kernel gives it back when the process ends,
/// however it ends.
fn lock(data_dir: &Path) -> Result<Flock<File>, StartError> {
    let unusable = |error: std::io::Error| StartError::DataDir {
        path: data_dir.to_owned(),
        what: format!("cannot be written ({})", error.kind()),
    };
    std::fs::create_dir_all(data_dir).map_err(unusable)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data_dir.join("lock"))
        .map_err(unusable)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| StartError::Locked { path: data_dir.to_owned() })
}

async fn bind(key: &'static str, address: &str) -> Result<(TcpListener, String), StartError> {
    let port =
        |error: std::io::Error| StartError::Port { key, address: address.to_owned(), kind: error.kind() };
    let listener = TcpListener::bind(address).await.map_err(port)?;
    let bound = listener.local_addr().map_err(port)?.to_string();
    Ok((listener, bound))
}

impl Daemon {
    /// Checks everything, brings everything up, and listens.
    pub async fn start(
        site: Site,
        clock: SharedClock,
        prometheus: PrometheusHandle,
    ) -> Result<Self, StartError> {
        let config = tokio::task::spawn_blocking(move || Config::load(site))
            .await
            .map_err(|_| StartError::Interrupted)??;
        let site = config.site.clone();
        let file = &site.file;
        let lock = lock(&file.appliance.data_dir)?;
        let store_site = site.clone();
        let store_clock = clock.clone();
        let store = tokio::task::spawn_blocking(move || open_store(&store_site, store_clock))
            .await
            .map_err(|_| StartError::Interrupted)??;

        let (dicom, dicom_at) = bind("dicom.listen", &file.dicom.listen).await?;
        let (admin, admin_at) = bind("admin.listen", &file.admin.listen).await?;
        let plaintext = match &file.dicom.plaintext_listen {
            Some(address) => Some(bind("dicom.plaintext_listen", address).await?),
            None => None,
        };
        let engine = start_engine(&config).await?;

        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let work = Arc::new(Notify::new());
        let wakes: Vec<Arc<Notify>> = file.destination.iter().map(|_| Arc::new(Notify::new())).collect();
        let pipeline = Pipeline {
            site: site.clone(),
            rules: config.rules.clone(),
            bundles: Arc::new(config.bundles.clone()),
            engine: engine.clone(),
            ledger: store.ledger.clone(),
            objects: store.objects.clone(),
            results: store.results.clone(),
            identity: store.identity.clone(),
            clock: clock.clone(),
            work: work.clone(),
            queued: Arc::new(wakes.clone()),
        };
        tasks.spawn(pipeline.clone().close_studies(stopped.clone()));
        tasks.spawn(pipeline.run_jobs(stopped.clone()));
        let (new_live, live) = watch::channel(config.live.clone());
        spawn_queues(&config, &store, &clock, &wakes, &live, &stopped, &mut tasks);
        let reload_fault = reload::Fault::default();
        let reload =
            Reload::new(site.clone(), new_live, store.ledger.clone(), clock.clone(), reload_fault.clone())
                .map_err(StartError::Signal)?;
        tasks.spawn(reload.run(stopped.clone()));

        let places = Arc::new(Places::new(file.dicom.max_associations));
        let receiver = Receiver {
            objects: store.objects.clone(),
            ledger: store.ledger.clone(),
            identity: store.identity.clone(),
            clock: clock.clone(),
            ae_title: file.appliance.ae_title.clone(),
        };
        let listener =
            Arc::new(Listener::new(&site, receiver, config.policy.clone(), places.clone(), live.clone()));
        tasks.spawn(listener.clone().run(dicom, true, stopped.clone()));
        let plaintext_at = plaintext.map(|(port, bound)| {
            tracing::warn!(
                address = bound,
                "PLAINTEXT DICOM IS ON: patient data crosses this port unencrypted and unauthenticated"
            );
            tasks.spawn(listener.run(port, false, stopped.clone()));
            bound
        });
        let admin_state = AdminState {
            site: site.clone(),
            ledger: store.ledger.clone(),
            objects: store.objects.clone(),
            identity: store.identity.clone(),
            clock: clock.clone(),
            listening: Listening { dicom: dicom_at.clone(), plaintext: plaintext_at.clone() },
            started_ms: clock.now_ms(),
            prometheus,
            models: model_lines(&config),
            engine_fault: engine_fault(engine),
            changed: work,
            places,
            live,
            reload_fault,
        };
        let admin_stop = stopped.clone();
        tasks.spawn(async move {
            if let Err(error) = admin::serve(admin, admin_state, admin_stop).await {
                tracing::error!(reason = chain(&error), "the administration page does not run");
            }
        });

        let station = file.appliance.name.clone();
        let detail = json!({
            "version": env!("CARGO_PKG_VERSION"), "site": site.revision, "dicom": dicom_at, "admin": admin_at,
            "plaintext": plaintext_at,
        });
        store
            .ledger
            .write(move |writer| writer.audit(&Event::new(EventKind::Started, station, detail)))
            .await?;
        Ok(Daemon {
            ready: Ready { ready: true, dicom: dicom_at, plaintext: plaintext_at, admin: admin_at },
            ledger: store.ledger,
            stop,
            tasks,
            _lock: lock,
        })
    }

    /// Stops listening, lets work under way end, and writes down that the stop was on purpose.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let ended =
            tokio::time::timeout(STOP_WAIT, async { while self.tasks.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!("work under way did not end in time; the next start takes it up again");
        }
        let event = Event::new(EventKind::Stopped, "daemon", json!({}));
        if let Err(error) = self.ledger.write(move |writer| writer.audit(&event)).await {
            tracing::error!(reason = error.to_string(), "the stop could not be audited");
        }
    }
}

struct Store {
    identity: Arc<DeviceIdentity>,
    ledger: Ledger,
    objects: Objects,
    results: Results,
}

/// Opens ledger and objects, and mends what a crash left between them. Blocking.
fn open_store(site: &Site, clock: SharedClock) -> Result<Store, StartError> {
    let data_dir = &site.file.appliance.data_dir;
    let key = data_dir.join("device.key");
    let used = data_dir.join("ledger.db").exists() || data_dir.join("objects").exists();
    let identity = if used { DeviceIdentity::open(&key)? } else { DeviceIdentity::open_or_create(&key)? };
    let identity = Arc::new(identity);
    let ledger = Ledger::open(data_dir, identity.clone(), clock)?;
    let objects = Objects::open(data_dir, site.file.store.reserve_mib * 1024 * 1024)?;
    let results = Results::open(data_dir)?;
    let mended = index::mend(&ledger, &objects, &identity)?;
    if mended != index::Mended::default() {
        tracing::warn!(
            added = mended.added,
            studies_with_missing_objects = mended.missing.join(","),
            damaged = mended.damaged,
            "the index of instances was brought in line with the objects"
        );
    }
    let public_key = identity.public_key();
    if let Err(error) = ledger.read_blocking(|reader| Ok(audit::export::check_head(reader, &public_key)))? {
        return Err(StartError::ForeignKey { path: key, why: error.to_string() });
    }
    let owner = ledger.boot().to_owned();
    let (jobs, deliveries) = ledger.write_blocking(move |writer| {
        completion::restart_timers(writer)?;
        Ok((jobs::reclaim(writer, &owner)?, deliveries::reclaim(writer, &owner)?))
    })?;
    if jobs + deliveries > 0 {
        tracing::info!(jobs, deliveries, "work that an earlier start left under way goes on");
    }
    Ok(Store { identity, ledger, objects, results })
}

/// Starts the engine and loads every bundle, so that no study is the first to find a fault. A site
/// without models needs no engine.
pub async fn start_engine(config: &Config) -> Result<Option<EngineHandle>, StartError> {
    if config.bundles.is_empty() {
        return Ok(None);
    }
    let settings = infer::onnx::Config {
        library: config.site.file.infer.onnxruntime.clone(),
        threads: config.site.file.infer.threads.try_into().unwrap_or(1),
    };
    let engine = EngineHandle::start(move || OnnxEngine::new(&settings)).await.map_err(|error| {
        let remedy = "name libonnxruntime.so of ONNX Runtime 1.24 or newer (in a checkout: ./justw parts)";
        let problem = config.site.problem("infer.onnxruntime", chain(&error), remedy);
        SiteError { path: config.site.path.clone(), problems: vec![problem] }
    })?;
    for (model, bundle) in &config.bundles {
        infer::load(bundle, &engine)
            .await
            .map_err(|source| StartError::Model { model: model.clone(), source })?;
        tracing::info!(model, digest = bundle.digest(), engine = engine.describe(), "model loaded");
    }
    Ok(Some(engine))
}

/// What the overview shows of the models: they are loaded at start and stay.
fn model_lines(config: &Config) -> Arc<dyn Fn() -> Vec<ModelLine> + Send + Sync> {
    let lines: Vec<ModelLine> = config
        .bundles
        .iter()
        .map(|(name, bundle)| {
            let model = structure::identity(bundle);
            ModelLine {
                name: name.clone(),
                title: format!("{} {}", model.name, model.version),
                digest: model.digest,
                not_for_clinical_use: model.not_for_clinical_use
                    || config.site.file.appliance.allow_unsigned_models,
                fault: None,
            }
        })
        .collect();
    Arc::new(move || lines.clone())
}

/// Why models cannot be run, if they cannot: the engine's thread is gone.
fn engine_fault(engine: Option<EngineHandle>) -> Arc<dyn Fn() -> Option<String> + Send + Sync> {
    Arc::new(move || {
        let stopped = engine.as_ref().is_some_and(EngineHandle::is_stopped);
        stopped.then(|| "the inference engine has stopped; restart the daemon".to_owned())
    })
}

fn spawn_queues(
    config: &Config,
    store: &Store,
    clock: &SharedClock,
    wakes: &[Arc<Notify>],
    live: &watch::Receiver<Arc<Live>>,
    stopped: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) {
    let deliver = &config.site.file.deliver;
    let queue = Queue {
        ledger: store.ledger.clone(),
        results: store.results.clone(),
        clock: clock.clone(),
        backoff: Backoff {
            first: Duration::from_secs(deliver.retry_first_seconds),
            longest: Duration::from_secs(deliver.retry_max_seconds),
            give_up: Duration::from_secs(deliver.give_up_hours * 3600),
        },
    };
    for (destination, wake) in config.site.file.destination.iter().zip(wakes) {
        if let Some(route) = Route::new(&config.site, destination, live.clone()) {
            tasks.spawn(queue.clone().run(route, wake.clone(), stopped.clone()));
        }
    }
}
