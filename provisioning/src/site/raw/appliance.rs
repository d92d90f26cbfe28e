//! The box itself: its name, its identity, the administration page and who may open it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Certificate;

/// `[appliance]`: this box.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Appliance {
    /// Station name, shown in results and on the administration page, e.g. `RAD-AI-1`.
    pub name: String,
    /// Our AE title: 1 to 16 printable characters without backslash. Case counts.
    pub ae_title: String,
    /// Folder for the ledger, the received objects and the results. Made if it is missing.
    pub data_dir: PathBuf,
    /// Name of the institution, for the results' headers.
    #[serde(default)]
    pub institution: String,
    /// Our certificate and whom we trust.
    pub tls: Tls,
    /// This device's own identifier, the UDI-DI under which it was cleared: only models and plans that name
    /// it come to run. Needed where there is a model.
    #[serde(default)]
    pub udi_di: Option<String>,
    /// Local time, as a fixed offset from UTC, e.g. `+02:00`: the schedules of rules are in it. There
    /// is no change to daylight saving time: the hours of a schedule stay where they are in UTC.
    #[serde(default = "default_utc_offset")]
    pub utc_offset: String,
}

fn default_utc_offset() -> String {
    "+00:00".into()
}

/// `[appliance.tls]`: one identity for DICOM, HL7 and the administration page.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Our certificate chain, PEM, our own certificate first.
    pub certificate: PathBuf,
    /// The key of the first certificate, PEM (PKCS #8, PKCS #1 or SEC 1).
    pub key: PathBuf,
    /// PEM files of the certificate authorities whose certificates peers and operators may show.
    /// Needed by every peer that is not pinned.
    #[serde(default)]
    pub authorities: Vec<PathBuf>,
    /// Certificate revocation lists, PEM or DER, of the authorities or of whoever issued a pinned
    /// certificate. A certificate that one of them lists is refused, however it is known. These files,
    /// the certificate, the key, the authorities and the peers' and operators' `certificate` entries
    /// are read again when they change, and on SIGHUP; open associations go on.
    #[serde(default)]
    pub crl: Vec<PathBuf>,
    /// What to do when a revocation list is past its next update: `warn` goes on with the list as it
    /// is, so that a forgotten update stops no images; `refuse` takes no certificate of its issuer
    /// until a newer list is there.
    #[serde(default)]
    pub expired_crl: ExpiredCrl,
}

/// What to do when a revocation list is past its next update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpiredCrl {
    /// Go on with the list as it is, and warn.
    #[default]
    Warn,
    /// Take no certificate of its issuer.
    Refuse,
}

/// `[admin]`: the administration page (HTTPS with a client certificate).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address and port.
    pub listen: String,
}

impl Default for Admin {
    fn default() -> Self {
        Admin { listen: "127.0.0.1:8443".into() }
    }
}

/// `[[operator]]`: a person or group that may open the administration page.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// Name that the audit log shows.
    pub name: String,
    /// How their client certificate is known.
    pub certificate: Certificate,
    /// `viewer` sees, `operator` may also act (replay a delivery).
    #[serde(default)]
    pub role: Role,
}

/// What an operator may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees everything, changes nothing.
    #[default]
    Viewer,
    /// Sees everything, may replay deliveries.
    Operator,
}
