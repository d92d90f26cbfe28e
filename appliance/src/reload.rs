//! Certificates, keys, authorities, revocation lists and pins, read again when their files change or a
//! SIGHUP comes. What cannot be used changes nothing: the old ones stay, and the log, the audit log
//! and the health page say what to mend. Also warns before any of them expires.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lightbox_provisioning::site::{Site, SiteError};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::audit::{Event, EventKind, Outcome};
use crate::clock::SharedClock;
use crate::config::tls_problem;
use crate::dicom::tls::live::{Expiry, Live, URGENT_MS, WARN_MS};
use crate::store::ledger::Ledger;
use crate::store::queries;

/// How often the files are looked at. Certificate and key are two files: what has changed is read
/// only when it has stood still from one look to the next.
const LOOK: Duration = Duration::from_secs(2);
/// How often expiries are warned of.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Modification time and length of each file; `None` where there is none.
type Seen = BTreeMap<PathBuf, Option<(SystemTime, u64)>>;

/// What the last reload said, for the health page; `None` where all is in use.
pub type Fault = Arc<Mutex<Option<String>>>;

/// Keeps the certificates in use up to date.
pub struct Reload {
    site: Arc<Site>,
    live: watch::Sender<Arc<Live>>,
    ledger: Ledger,
    clock: SharedClock,
    fault: Fault,
    hangup: Signal,
}

fn look(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The files that a site file names for TLS, and itself.
fn files(site: &Site) -> Vec<PathBuf> {
    let tls = &site.file.appliance.tls;
    let mut all = vec![site.path.clone(), tls.certificate.clone(), tls.key.clone()];
    all.extend(tls.authorities.iter().cloned());
    all.extend(tls.crl.iter().cloned());
    all
}

fn look_at(site: &Site) -> Seen {
    files(site).into_iter().map(|path| (path.clone(), look(&path))).collect()
}

/// Reads everything again.
fn load(path: &Path) -> Result<(Site, Live), SiteError> {
    let site = Site::load(path)?;
    site.check_files()?;
    let live = Live::load(&site)
        .map_err(|error| SiteError { path: site.path.clone(), problems: vec![tls_problem(&site, &error)] })?;
    Ok((site, live))
}

impl Reload {
    /// From the site file and the certificates with which the daemon has started.
    ///
    /// # Errors
    /// The system gives no notice of SIGHUP.
    pub fn new(
        site: Arc<Site>,
        live: watch::Sender<Arc<Live>>,
        ledger: Ledger,
        clock: SharedClock,
        fault: Fault,
    ) -> std::io::Result<Self> {
        Ok(Reload { site, live, ledger, clock, fault, hangup: signal(SignalKind::hangup())? })
    }

    /// Runs until `stop` turns true.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut in_use = self.look().await;
        let mut before = in_use.clone();
        let mut warn_at = Instant::now();
        loop {
            if Instant::now() >= warn_at {
                self.warn().await;
                warn_at = Instant::now() + WARN_EVERY;
            }
            let asked = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                asked = self.hangup.recv() => asked.is_some(),
                () = tokio::time::sleep(LOOK) => false,
            };
            let now = self.look().await;
            if asked || (now != in_use && now == before) {
                self.reload().await;
                // The files may be others now: the site file names them.
                in_use = self.look().await;
                before = in_use.clone();
                self.warn().await;
            } else {
                before = now;
            }
        }
    }

    async fn look(&self) -> Seen {
        let site = self.site.clone();
        tokio::task::spawn_blocking(move || look_at(&site)).await.unwrap_or_default()
    }

    async fn reload(&mut self) {
        let path = self.site.path.clone();
        let loaded = tokio::task::spawn_blocking(move || load(&path)).await;
        let (outcome, detail, fault) = match loaded {
            Ok(Ok((site, live))) => {
                if site.revision != self.site.revision {
                    tracing::warn!(
                        "the site file has changed: its certificates are in use, all else takes effect at the next start"
                    );
                }
                self.live.send_replace(Arc::new(live));
                let detail = json!({ "in_use": true, "site": site.revision });
                self.site = Arc::new(site);
                tracing::info!("certificates, keys, authorities and revocation lists were read again");
                (Outcome::Success, detail, None)
            }
            Ok(Err(error)) => {
                let why = error.to_string();
                tracing::error!(
                    reason = why,
                    "the new certificates cannot be used; the old ones stay in use"
                );
                (Outcome::Serious, json!({ "in_use": false, "reason": why }), Some(why))
            }
            Err(_) => {
                let why = "reading the certificates failed in the code that does it".to_owned();
                tracing::error!(reason = why, "the old certificates stay in use");
                (Outcome::Serious, json!({ "in_use": false, "reason": why }), Some(why))
            }
        };
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        let event = Event::new(EventKind::CertificatesReloaded, "daemon", detail).with_outcome(outcome);
        if let Err(error) = self.ledger.write(move |writer| writer.audit(&event)).await {
            tracing::error!(reason = error.to_string(), "the reload could not be audited");
        }
    }

    /// Warns in the log of what expires soon.
    async fn warn(&self) {
        let now = self.clock.now_ms();
        let live = self.live.borrow().clone();
        let seen = match self.ledger.read(queries::peer_certificates).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::error!(reason = error.to_string(), "the peers' certificates could not be looked up");
                BTreeMap::new()
            }
        };
        for expiry in expiries(&live, &seen) {
            let left = expiry.not_after_ms - now;
            let (who, days) = (&expiry.who, left.div_euclid(24 * 3600 * 1000));
            if left < URGENT_MS {
                tracing::error!(who, days, "expires in less than 7 days, or has expired; renew it");
            } else if left < WARN_MS {
                tracing::warn!(who, days, "expires in less than 30 days; renew it");
            }
        }
    }
}

/// What expires when: ours, the authorities', the lists', and what each peer showed last.
pub fn expiries(live: &Live, seen: &BTreeMap<String, queries::CertificateLine>) -> Vec<Expiry> {
    let peers =
        seen.iter().map(|(peer, line)| Expiry { who: format!("peer {peer}"), not_after_ms: line.not_after });
    live.expiries.iter().cloned().chain(peers).collect()
}
