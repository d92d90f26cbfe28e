//! The administration page: what the PACS team looks at, and the few things it may do.
//!
//! HTTPS only, with a client certificate of one of the site file's `[[operator]]`s; a viewer sees,
//! an operator may also replay. Pages are made on the server and need no script. Studies are shown
//! by study key. Looking at a study and every action are on the audit log before they are answered.
//!
//! - [`server`]: the socket, TLS, who is calling;
//! - [`routes`]: what each address answers;
//! - [`guard`]: who may act, and that the request came from our own page;
//! - [`pages`]: the HTML, pure;
//! - [`metrics`]: the Prometheus text, pure.

mod guard;
pub mod metrics;
pub mod pages;
mod routes;
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;

use lightbox_bootstrap::identity::DeviceIdentity;
use lightbox_provisioning::site::{Role, Site};
use metrics_exporter_prometheus::PrometheusHandle;
use thiserror::Error;
use tokio::sync::{Notify, watch};

pub use server::serve;

use crate::clock::SharedClock;
use crate::dicom::tls::live::Live;
use crate::ingest::listener::places::Places;
use crate::reload::Fault;
use crate::store::ledger::Ledger;
use crate::store::objects::Objects;

/// The administration page could not be started.
#[derive(Debug, Error)]
pub enum AdminError {
    /// No random numbers for the form tokens.
    #[error("the machine gives no random numbers")]
    Random,
    /// The port's own address could not be asked for.
    #[error("the administration port has no address")]
    Address(#[source] std::io::Error),
}

/// A model as the overview shows it.
#[derive(Clone, Debug, Default)]
pub struct ModelLine {
    /// Name in the site file.
    pub name: String,
    /// Name and version in the manifest.
    pub title: String,
    /// SHA-256 over the bundle, hex.
    pub digest: String,
    /// Whether every output of it carries the mark.
    pub not_for_clinical_use: bool,
    /// Why it cannot be run, where it cannot.
    pub fault: Option<String>,
}

/// Where the daemon really listens: the site file may leave a port to the system.
#[derive(Clone, Debug)]
pub struct Listening {
    /// With TLS.
    pub dicom: String,
    /// Without TLS, where that is on.
    pub plaintext: Option<String>,
    /// Every address that is listened on, by what it is for.
    pub all: BTreeMap<&'static str, String>,
}

/// What the pages are made of; clones share it.
#[derive(Clone)]
pub struct AdminState {
    /// The site file.
    pub site: Arc<Site>,
    /// The ledger.
    pub ledger: Ledger,
    /// For the free space.
    pub objects: Objects,
    /// For the form tokens and the device's fingerprint.
    pub identity: Arc<DeviceIdentity>,
    /// For ages and the uptime.
    pub clock: SharedClock,
    /// Where DICOM is listened for.
    pub listening: Listening,
    /// When the daemon started, milliseconds since the epoch.
    pub started_ms: i64,
    /// What the daemon has counted.
    pub prometheus: PrometheusHandle,
    /// The models that are loaded.
    pub models: Arc<dyn Fn() -> Vec<ModelLine> + Send + Sync>,
    /// Why models cannot be run, if they cannot.
    pub engine_fault: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    /// Woken when a replay has put something into a queue.
    pub changed: Arc<Notify>,
    /// The open associations.
    pub places: Arc<Places>,
    /// The newest certificates.
    pub live: watch::Receiver<Arc<Live>>,
    /// Why the newest files of certificates are not in use, where they are not.
    pub reload_fault: Fault,
    /// The name of the running firmware image, where it is not the product.
    pub image_warning: Option<String>,
}

/// A person whose certificate the site file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Name in the site file.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

impl Operator {
    /// The operator whose certificate this is, by the names that [`Trust::owners`](crate::dicom::tls::Trust::owners) found. Where a
    /// certificate fits several entries, all are named and the least of their roles counts.
    fn of(site: &Site, owners: &[&str]) -> Option<Self> {
        let found: Vec<_> =
            site.file.operator.iter().filter(|one| owners.contains(&one.name.as_str())).collect();
        let all_operators = found.iter().all(|one| one.role == Role::Operator);
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        (!found.is_empty()).then(|| Operator {
            name: names.join(" or "),
            role: if all_operators { Role::Operator } else { Role::Viewer },
        })
    }
}

#[cfg(test)]
mod tests;
