//! The box looks at itself, so that a machine without a shell can be checked from outside.
//!
//! Two programs make a report. A unit of the image, which sees every process but talks to nobody, collects what
//! is so ([`collect`]) and leaves it as a file ([`FACTS`]). The daemon, which talks to people but sees only
//! itself, puts that file into a report with the asker's nonce, the time and what it alone knows, and signs it with the device's
//! key ([`envelope`]). [`judge`] says what in a report is as it should be and what is not; the administration page and
//! `lightbox inspect verify`, on anybody's machine, ask the same judge.
//!
//! A report proves that the holder of the device's key said so then. It is not the TPM's quote: a system that was taken
//! over could lie. It finds what was built, configured or started wrongly, and what has changed.

pub mod collect;
pub mod envelope;
pub mod facts;
pub mod judge;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use lightbox_bootstrap::identity::DeviceIdentity;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use self::envelope::Envelope;
pub use self::facts::Facts;

/// Version of the report's form.
pub const SCHEMA: u32 = 1;
/// Where the image's unit leaves what it has collected.
pub const FACTS: &str = "/run/lightbox-inspect/facts.json";
/// Another place for it: for tests on machines that are no boxes.
const FACTS_VARIABLE: &str = "LIGHTBOX_INSPECT_FACTS";
/// Longest file of facts that is read, in bytes.
const FACTS_MAX: u64 = 4 << 20;
/// Longest nonce, in characters.
pub const NONCE_MAX: usize = 128;

/// What the box says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What the asker sent, so that an old report cannot be shown for a new one.
    pub nonce: Option<String>,
    /// When the report was signed, in UTC (RFC 3339).
    pub signed_at: String,
    /// The device.
    pub device: Device,
    /// The daemon that signs.
    pub daemon: Daemon,
    /// What was collected.
    pub facts: Facts,
}

/// The device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `appliance.name` of the site file.
    pub name: String,
    /// First digits of the SHA-256 of the device's public key, as on the Health page.
    pub fingerprint: String,
    /// `appliance.udi_di` of the site file.
    pub udi_di: Option<String>,
}

/// The daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Version of the program.
    pub version: String,
    /// When it started, in UTC (RFC 3339).
    pub started_at: String,
    /// SHA-256 of the site file.
    pub site_sha256: String,
    /// Addresses that it listens on, by what they are for.
    pub listens: BTreeMap<String, String>,
    /// Active models: name in the site file, SHA-256 of the bundle.
    pub models: BTreeMap<String, String>,
    /// Last record of the audit log.
    pub audit: Option<AuditHead>,
}

/// Last record of the audit log: with two reports, what lies between can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Its number.
    pub sequence: i64,
    /// Its hash.
    pub hash: String,
}

impl Report {
    /// Puts a report together.
    pub fn new(
        nonce: Option<String>,
        signed_at: String,
        device: Device,
        daemon: Daemon,
        facts: Facts,
    ) -> Self {
        Report { schema: SCHEMA, nonce, signed_at, device, daemon, facts }
    }

    /// Signs it.
    pub fn sign(&self, identity: &DeviceIdentity) -> Result<Envelope, serde_json::Error> {
        Ok(Envelope::sign(serde_json::to_vec(self)?, identity))
    }
}

/// Whether that can be a nonce: it stands in addresses and on pages.
pub fn is_nonce(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NONCE_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// What the image's unit has collected; where there is none, what this process may see by itself, and says so. Blocks on
/// files.
pub fn facts(now: OffsetDateTime) -> Facts {
    let path = std::env::var_os(FACTS_VARIABLE).map_or_else(|| FACTS.into(), std::path::PathBuf::from);
    match read_facts(&path) {
        Ok(facts) => facts,
        Err(why) => {
            let mut facts = collect::Machine::running().collect(now);
            facts.collected_by = format!("the daemon itself, which sees little of other processes ({why})");
            facts
        }
    }
}

/// A time as reports have it: UTC, RFC 3339.
pub fn instant(ms: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

fn read_facts(path: &Path) -> Result<Facts, String> {
    let failed = |error: std::io::Error| format!("{}: {}", path.display(), error.kind());
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = Vec::new();
    file.take(FACTS_MAX).read_to_end(&mut text).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}
