//! The daemon: everything put together, in the order in which it must come up, and taken down
//! again.
//!
//! Nothing listens before the whole configuration is checked, the ledger is open, its index agrees
//! with the objects, and what an earlier start left under way is queued again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lightbox_bootstrap::identity::{DeviceIdentity, IdentityError};
use lightbox_provisioning::site::{Edits, Site, SiteError, parse_transcode};
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
use crate::deliver::commit::Asker;
use crate::deliver::forward::Forwarder;
use crate::deliver::queue::{Backoff, Queue};
use crate::deliver::sender::Route;
use crate::dicom::peer::RemoteAe;
use crate::dicom::query;
use crate::dicom::tls::live::Live;
use crate::infer;
use crate::infer::engine::EngineHandle;
use crate::infer::onnx::OnnxEngine;
use crate::ingest::commitment::Commitments;
use crate::ingest::completion;
use crate::ingest::completion::evidence::CountedSeries;
use crate::ingest::completion::policy::Policy;
use crate::ingest::completion::watch::{Answer, AskCount, Watcher};
use crate::ingest::listener::places::Places;
use crate::ingest::listener::{self, Listener};
use crate::ingest::orders;
use crate::ingest::priors::fetch::Fetcher;
use crate::ingest::priors::way::Ways;
use crate::ingest::receive::Receiver;
use crate::ingest::rules::RuleSet;
use crate::ingest::session::Services;
use crate::pipeline::Pipeline;
use crate::reload::{self, Reload};
use crate::store::index::{self, MendError};
use crate::store::ledger::{Ledger, LedgerError};
use crate::store::objects::{self, ObjectError, Objects, Opened};
use crate::store::results::{Results, ResultsError};
use crate::store::retention::{self, Retention};
use crate::store::scrub::Scrubber;
use crate::store::{deliveries, folder, forwards, indexer, jobs, models, rule_sets};
use crate::system::System;
use crate::system::updates::SystemUpdates;
use crate::update::registry::Registry;
use crate::update::{self, Updates};
use crate::web;
use crate::web::client::Remote;

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
    /// HL7 orders over TLS.
    pub orders: Option<String>,
    /// HL7 orders without TLS.
    pub plaintext_orders: Option<String>,
    /// DICOMweb.
    pub dicomweb: Option<String>,
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
    folder::make(data_dir).map_err(unusable)?;
    // An earlier start may have made it and died before it was synced.
    data_dir.parent().map_or(Ok(()), folder::sync).map_err(unusable)?;
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
        let store_rules = config.rules.clone();
        let store = tokio::task::spawn_blocking(move || open_store(&store_site, store_clock, store_rules))
            .await
            .map_err(|_| StartError::Interrupted)??;

        let (dicom, dicom_at) = bind("dicom.listen", &file.dicom.listen).await?;
        let (admin, admin_at) = bind("admin.listen", &file.admin.listen).await?;
        let plaintext = match &file.dicom.plaintext_listen {
            Some(address) => Some(bind("dicom.plaintext_listen", address).await?),
            None => None,
        };
        let orders = match &file.orders.listen {
            Some(address) => Some(bind("orders.listen", address).await?),
            None => None,
        };
        let plaintext_orders = match &file.orders.plaintext_listen {
            Some(address) => Some(bind("orders.plaintext_listen", address).await?),
            None => None,
        };
        let dicomweb = match &file.dicomweb.listen {
            Some(address) => Some(bind("dicomweb.listen", address).await?),
            None => None,
        };
        let engine = start_engine(&config).await?;
        let registry = Registry::new(&file.appliance.data_dir);

        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let work = Arc::new(Notify::new());
        let wakes = Wakes::new(file.destination.len());
        let busy = Arc::new(watch::channel(false).0);
        let pipeline = Pipeline {
            site: site.clone(),
            registry: registry.clone(),
            engine: engine.clone(),
            ledger: store.ledger.clone(),
            objects: store.objects.clone(),
            results: store.results.clone(),
            identity: store.identity.clone(),
            clock: clock.clone(),
            work: work.clone(),
            queued: Arc::new(wakes.results.clone()),
            busy: busy.clone(),
        };
        let (new_live, live) = watch::channel(config.live.clone());
        let prior_wishes = Arc::new(Notify::new());
        let watcher = Watcher {
            ledger: store.ledger.clone(),
            clock: clock.clone(),
            policy: Arc::new(Policy::of(&site)),
            rules: config.rules.clone(),
            work: work.clone(),
            forwarded: Arc::new(wakes.forwards.clone()),
            priors: prior_wishes.clone(),
            ask: ask_count(&config, &live),
        };
        tasks.spawn(watcher.run(stopped.clone()));
        let (retention, scrubber) = upkeep(&site, &store, &clock);
        tasks.spawn(retention.run(stopped.clone()));
        tasks.spawn(scrubber.run(stopped.clone()));
        tasks.spawn(pipeline.run_jobs(stopped.clone()));
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
        let fetcher = Fetcher {
            receiver: receiver.clone(),
            ways: Arc::new(Ways { dimse: ways(&config, &live), web: web_ways(&config, &live) }),
            wake: prior_wishes,
            work: work.clone(),
        };
        tasks.spawn(fetcher.run(stopped.clone()));
        let commitments = commitments(&config, &store, &clock, &live);
        tasks.spawn(commitments.clone().run(stopped.clone()));
        let services = Services::new(&site, receiver.clone(), commitments);
        let throttles = listener::throttles(&config.policy);
        let dicomweb_at = dicomweb.map(|(port, bound)| {
            let server = web::server::Server::new(
                &site,
                receiver.clone(),
                config.policy.clone(),
                places.clone(),
                throttles.clone(),
                live.clone(),
            );
            tasks.spawn(Arc::new(server).run(port, stopped.clone()));
            bound
        });
        let listener = Arc::new(Listener::new(
            &site,
            receiver,
            services,
            config.policy.clone(),
            places.clone(),
            throttles,
            live.clone(),
        ));
        tasks.spawn(listener.clone().run(dicom, true, stopped.clone()));
        let plaintext_at = plaintext.map(|(port, bound)| {
            tracing::warn!(
                address = bound,
                "PLAINTEXT DICOM IS ON: patient data crosses this port unencrypted and unauthenticated"
            );
            tasks.spawn(listener.run(port, false, stopped.clone()));
            bound
        });
        let (ledger, keep_days) = (store.ledger.clone(), file.orders.keep_days);
        tasks.spawn(orders::retention::run(ledger, keep_days, stopped.clone()));
        let ris = Arc::new(orders::listener::Listener::new(
            &site,
            live.clone(),
            store.ledger.clone(),
            clock.clone(),
        ));
        let orders_at = orders.map(|(port, bound)| {
            tasks.spawn(ris.clone().run(port, true, stopped.clone()));
            bound
        });
        let plaintext_orders_at = plaintext_orders.map(|(port, bound)| {
            tracing::warn!(
                address = bound,
                "PLAINTEXT HL7 IS ON: patient data crosses this port unencrypted and unauthenticated"
            );
            tasks.spawn(ris.run(port, false, stopped.clone()));
            bound
        });
        let admin_state = AdminState {
            site: site.clone(),
            ledger: store.ledger.clone(),
            objects: store.objects.clone(),
            identity: store.identity.clone(),
            clock: clock.clone(),
            listening: Listening {
                dicom: dicom_at.clone(),
                plaintext: plaintext_at.clone(),
                all: [
                    ("dicom", Some(dicom_at.clone())),
                    ("admin", Some(admin_at.clone())),
                    ("plaintext-dicom", plaintext_at.clone()),
                    ("dicomweb", dicomweb_at.clone()),
                    ("orders", orders_at.clone()),
                    ("plaintext-orders", plaintext_orders_at.clone()),
                ]
                .into_iter()
                .filter_map(|(name, address)| Some((name, address?)))
                .collect(),
            },
            started_ms: clock.now_ms(),
            prometheus,
            models: model_lines(&store.ledger),
            engine_fault: engine_fault(engine.clone()),
            changed: work.clone(),
            places: places.clone(),
            live: live.clone(),
            reload_fault,
            image_warning: System::running().and_then(|system| system.warning()),
        };
        if let Some(updates) =
            Updates::of_site(&site, &store.ledger, &store.identity, &clock, &registry, engine.as_ref(), &work)
        {
            tasks.spawn(updates.monitors().run(stopped.clone()));
            tasks.spawn(updates.shadow(&store.objects, busy.subscribe()).run(stopped.clone()));
            let updates = updates.giving_way_to(busy.subscribe()).with_mirror(&live);
            tasks.spawn(updates.run(stopped.clone()));
        }
        if let Some(updates) = SystemUpdates::of_site(&site, &store.ledger, &clock, &places, &live) {
            tasks.spawn(updates.run(stopped.clone()));
        }
        let admin_stop = stopped.clone();
        tasks.spawn(async move {
            if let Err(error) = admin::serve(admin, admin_state, admin_stop).await {
                tracing::error!(reason = chain(&error), "the administration page does not run");
            }
        });

        let station = file.appliance.name.clone();
        let detail = json!({
            "version": env!("CARGO_PKG_VERSION"), "site": site.revision, "rules": config.rules.revision,
            "dicom": dicom_at, "admin": admin_at, "plaintext": plaintext_at, "orders": orders_at,
            "plaintext_orders": plaintext_orders_at, "dicomweb": dicomweb_at,
        });
        store
            .ledger
            .write(move |writer| writer.audit(&Event::new(EventKind::Started, station, detail)))
            .await?;
        Ok(Daemon {
            ready: Ready {
                ready: true,
                dicom: dicom_at,
                plaintext: plaintext_at,
                orders: orders_at,
                plaintext_orders: plaintext_orders_at,
                dicomweb: dicomweb_at,
                admin: admin_at,
            },
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

/// What tells the tasks of destinations that there is something to send, in the order of the site file.
struct Wakes {
    results: Vec<Arc<Notify>>,
    forwards: Vec<Arc<Notify>>,
}

impl Wakes {
    fn new(destinations: usize) -> Self {
        let make = || (0..destinations).map(|_| Arc::new(Notify::new())).collect();
        Wakes { results: make(), forwards: make() }
    }
}

struct Store {
    identity: Arc<DeviceIdentity>,
    ledger: Ledger,
    objects: Objects,
    results: Results,
}

/// The sizes of the object store that the site file asks for.
fn object_sizes(store: &lightbox_provisioning::site::Store) -> objects::Config {
    let mib = |count: u64| count.saturating_mul(1 << 20);
    objects::Config {
        reserve_bytes: mib(store.reserve_mib),
        segment_bytes: mib(store.segment_mib),
        segments: usize::try_from(store.segments_mib / store.segment_mib.max(1)).unwrap_or(usize::MAX).max(1),
    }
}

/// Opens ledger and objects, and mends what a crash left between them. Blocking.
fn open_store(site: &Site, clock: SharedClock, rules: Arc<RuleSet>) -> Result<Store, StartError> {
    let data_dir = &site.file.appliance.data_dir;
    let key = data_dir.join("device.key");
    let used = data_dir.join("ledger.db").exists() || data_dir.join("studies").exists();
    let identity = if used { DeviceIdentity::open(&key)? } else { DeviceIdentity::open_or_create(&key)? };
    let identity = Arc::new(identity);
    let ledger = Ledger::open(data_dir, identity.clone(), clock)?;
    let Opened { objects, entries, committed, broken } =
        Objects::open(data_dir, object_sizes(&site.file.store))?;
    for object in &broken {
        tracing::error!(
            study = object.study_key(),
            "an acknowledged instance's bytes are gone from the store"
        );
    }
    let results = Results::open(data_dir)?;
    let mended = index::mend(&ledger, &objects, entries, &identity)?;
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
    // It ends by itself when the last handle on the objects is gone.
    drop(indexer::start(ledger.clone(), committed).map_err(|error| StartError::DataDir {
        path: data_dir.clone(),
        what: format!("is not served: a thread does not start ({})", error.kind()),
    })?);
    let owner = ledger.boot().to_owned();
    let slots = update::slots(site);
    let (jobs, deliveries, forwards) = ledger.write_blocking(move |writer| {
        completion::restart_timers(writer)?;
        models::manage(writer, &slots)?;
        rule_sets::activate(writer, &rules)?;
        Ok((
            jobs::reclaim(writer, &owner)?,
            deliveries::reclaim(writer, &owner)?,
            forwards::reclaim(writer, &owner)?,
        ))
    })?;
    if jobs + deliveries + forwards > 0 {
        tracing::info!(jobs, deliveries, forwards, "work that an earlier start left under way goes on");
    }
    Ok(Store { identity, ledger, objects, results })
}

/// Starts the engine. A site without models needs none.
pub async fn start_engine(config: &Config) -> Result<Option<EngineHandle>, StartError> {
    if config.site.file.model.is_empty() {
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
    Ok(Some(engine))
}

/// How the PACS is asked for its count, where the site names one.
fn ask_count(config: &Config, live: &watch::Receiver<Arc<Live>>) -> Option<(String, AskCount)> {
    let peer = config.site.file.timers.count_at.as_ref().and_then(|name| config.site.peer(name))?;
    let way = RemoteAe::of_site(&config.site, peer, live).map(Arc::new);
    let web = Remote::of_site(&config.site, peer, live).map(Arc::new);
    if way.is_none() && web.is_none() {
        return None;
    }
    let ask: AskCount = Arc::new(move |study_uid| {
        let (way, web) = (way.clone(), web.clone());
        Box::pin(async move {
            let count = match (way, web) {
                (Some(way), _) => {
                    query::count_study(&way, &study_uid).await.map_err(|error| chain(&error))?
                }
                (None, Some(web)) => {
                    web::query::count_study(&web, &study_uid).await.map_err(|error| chain(&error))?
                }
                (None, None) => return Err("the peer has no address".to_owned()),
            };
            let series = count.series.into_iter().map(|series| CountedSeries {
                series_uid: series.series_uid,
                modality: series.modality,
                instances: series.instances,
            });
            Ok(Answer { instances: count.instances, series: series.collect() })
        })
    });
    Some((peer.name.clone(), ask))
}

/// What the overview shows of the models.
fn model_lines(ledger: &Ledger) -> Arc<dyn Fn() -> Vec<ModelLine> + Send + Sync> {
    let ledger = ledger.clone();
    Arc::new(move || {
        ledger.read_blocking(update::model_lines).unwrap_or_else(|error| {
            tracing::error!(reason = error.to_string(), "the models cannot be looked up");
            Vec::new()
        })
    })
}

/// Why models cannot be run, if they cannot: the engine's thread is gone.
fn engine_fault(engine: Option<EngineHandle>) -> Arc<dyn Fn() -> Option<String> + Send + Sync> {
    Arc::new(move || {
        let stopped = engine.as_ref().is_some_and(EngineHandle::is_stopped);
        stopped.then(|| "the inference engine has stopped; restart the daemon".to_owned())
    })
}

/// What keeps the store in order: aged studies go, objects are reread.
fn upkeep(site: &Site, store: &Store, clock: &SharedClock) -> (Retention, Scrubber) {
    let settings = &site.file.store;
    let hours = |count: u64| i64::try_from(count.saturating_mul(3_600_000)).unwrap_or(i64::MAX);
    let policy = retention::Policy {
        keep_ms: hours(settings.keep_days.saturating_mul(24)),
        keep_at_least_ms: hours(settings.keep_at_least_hours),
        short_of_room_bytes: settings.short_of_room_mib.saturating_mul(1 << 20),
    };
    let retention = Retention {
        ledger: store.ledger.clone(),
        objects: store.objects.clone(),
        results: store.results.clone(),
        clock: clock.clone(),
        policy,
    };
    let scrubber = Scrubber {
        ledger: store.ledger.clone(),
        objects: store.objects.clone(),
        clock: clock.clone(),
        every_ms: hours(settings.scrub_days.saturating_mul(24)),
    };
    (retention, scrubber)
}

/// When what failed is tried again.
fn backoff(site: &Site) -> Backoff {
    let deliver = &site.file.deliver;
    Backoff {
        first: Duration::from_secs(deliver.retry_first_seconds),
        longest: Duration::from_secs(deliver.retry_max_seconds),
        give_up: Duration::from_secs(deliver.give_up_hours * 3600),
    }
}

/// The ways to all peers that have an address.
fn ways(config: &Config, live: &watch::Receiver<Arc<Live>>) -> BTreeMap<String, RemoteAe> {
    let peers = config.site.file.peer.iter();
    peers.filter_map(|peer| Some((peer.name.clone(), RemoteAe::of_site(&config.site, peer, live)?))).collect()
}

/// The ways to all peers that have a DICOMweb service.
fn web_ways(config: &Config, live: &watch::Receiver<Arc<Live>>) -> BTreeMap<String, Remote> {
    let peers = config.site.file.peer.iter();
    peers.filter_map(|peer| Some((peer.name.clone(), Remote::of_site(&config.site, peer, live)?))).collect()
}

/// The storage commitment service, with the ways to the peers that it reports to.
fn commitments(
    config: &Config,
    store: &Store,
    clock: &SharedClock,
    live: &watch::Receiver<Arc<Live>>,
) -> Commitments {
    Commitments {
        ledger: store.ledger.clone(),
        objects: store.objects.clone(),
        clock: clock.clone(),
        backoff: backoff(&config.site),
        peers: Arc::new(ways(config, live)),
        wake: Arc::new(Notify::new()),
    }
}

fn spawn_queues(
    config: &Config,
    store: &Store,
    clock: &SharedClock,
    wakes: &Wakes,
    live: &watch::Receiver<Arc<Live>>,
    stopped: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) {
    let queue = Queue {
        ledger: store.ledger.clone(),
        results: store.results.clone(),
        clock: clock.clone(),
        backoff: backoff(&config.site),
    };
    let forwarder = Forwarder {
        ledger: store.ledger.clone(),
        objects: store.objects.clone(),
        clock: clock.clone(),
        backoff: queue.backoff,
        transcode: Vec::new(),
        set: Edits::default(),
        system: config.site.file.appliance.name.clone(),
    };
    for (index, destination) in config.site.file.destination.iter().enumerate() {
        let route = || Route::new(&config.site, destination, live.clone());
        if let Some(asker) = Asker::new(config, destination, &queue, live) {
            tasks.spawn(asker.run(stopped.clone()));
        }
        if let Some(route) = route() {
            tasks.spawn(queue.clone().run(route, wakes.results[index].clone(), stopped.clone()));
        }
        // A task of its own: a large study on its way to an archive delays no result.
        if destination.hl7.is_none()
            && let Some(route) = route()
        {
            let transcode = destination.dicom.iter().flat_map(|dicom| &dicom.transcode);
            let transcode = transcode.filter_map(|text| parse_transcode(text)).collect();
            let set = match (&destination.dicom, &destination.dicomweb) {
                (Some(dicom), _) => dicom.set.clone(),
                (None, Some(web)) => web.set.clone(),
                (None, None) => Edits::default(),
            };
            let forwarder = Forwarder { transcode, set, ..forwarder.clone() };
            tasks.spawn(forwarder.run(route, wakes.forwards[index].clone(), stopped.clone()));
        }
    }
}
