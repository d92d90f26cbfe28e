//! The site file as it is written. The doc comments here are the site file's reference:
//! `provisioning/SITE.md` is generated from them, and a test keeps it true.

mod appliance;
mod destinations;
mod ingest;
mod peers;
mod rules;
mod updates;

use schemars::JsonSchema;
use serde::Deserialize;

pub use appliance::*;
pub use destinations::*;
pub use ingest::*;
pub use peers::*;
pub use rules::*;
pub use updates::*;

/// The whole site file (TOML). Unknown keys are refused. Relative paths are taken from the folder
/// of the site file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteFile {
    /// This box.
    pub appliance: Appliance,
    /// The DICOM listener and its limits.
    #[serde(default)]
    pub dicom: Dicom,
    /// Instances by DICOMweb.
    #[serde(default)]
    pub dicomweb: Dicomweb,
    /// The administration page.
    #[serde(default)]
    pub admin: Admin,
    /// The object store and the ledger.
    #[serde(default)]
    pub store: Store,
    /// When a study counts as complete.
    #[serde(default)]
    pub timers: Timers,
    /// Orders from the RIS.
    #[serde(default)]
    pub orders: Orders,
    /// How models are run.
    #[serde(default)]
    pub infer: Infer,
    /// Where signed models come from.
    #[serde(default)]
    pub updates: Updates,
    /// Updates of the firmware image: of the whole system.
    #[serde(default)]
    pub system: System,
    /// How results are sent, for all destinations.
    #[serde(default)]
    pub deliver: Deliver,
    /// How PACS are queried, and studies retrieved from them.
    #[serde(default)]
    pub query: Query,
    /// DICOM peers: application entities that may send to this box or receive from it.
    #[serde(default)]
    pub peer: Vec<Peer>,
    /// People who may open the administration page, by client certificate.
    #[serde(default)]
    pub operator: Vec<Operator>,
    /// Models that rules may name.
    #[serde(default)]
    pub model: Vec<Model>,
    /// Where results and forwarded images go.
    #[serde(default)]
    pub destination: Vec<Destination>,
    /// Which studies go to which models and which destinations. Every rule that matches applies,
    /// in the order of the file, unless an earlier one said `stop`.
    #[serde(default)]
    pub rule: Vec<Rule>,
}
