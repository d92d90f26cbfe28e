//! Where results go, and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Certificate;
use crate::site::routing::Edits;

/// `[deliver]`: how results are sent.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Deliver {
    /// What is sent for a model that could not run: `partial` sends an SR with completion flag
    /// PARTIAL that gives the reason, `none` sends nothing. Either way the study shows it.
    pub failed_run: FailedRun,
    /// Wait before the second try, in seconds; it doubles with each try, with jitter.
    pub retry_first_seconds: u64,
    /// Longest wait between two tries, in seconds.
    pub retry_max_seconds: u64,
    /// A delivery that has not succeeded for this long goes to the dead letters, in hours.
    pub give_up_hours: u64,
    /// Time that a destination has to accept a connection, in seconds.
    pub connect_timeout_seconds: u64,
    /// Time that a destination has to answer, in seconds.
    pub response_timeout_seconds: u64,
    /// Time that a destination with `commit = true` has to report on a request for storage commitment,
    /// in minutes; then it is asked again, until `give_up_hours`.
    pub commit_report_minutes: u64,
}

impl Default for Deliver {
    fn default() -> Self {
        Deliver {
            failed_run: FailedRun::Partial,
            retry_first_seconds: 5,
            retry_max_seconds: 300,
            give_up_hours: 72,
            connect_timeout_seconds: 10,
            response_timeout_seconds: 30,
            commit_report_minutes: 60,
        }
    }
}

/// What is sent for a model that could not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailedRun {
    /// An SR with completion flag PARTIAL that gives the reason.
    Partial,
    /// Nothing.
    None,
}

/// `[[destination]]`: exactly one of `dicom`, `dicomweb` and `hl7`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// Name that rules use.
    pub name: String,
    /// Send the DICOM SR, and forwarded images, to a peer.
    pub dicom: Option<DicomDestination>,
    /// Send the DICOM SR, and forwarded images, to a peer by DICOMweb (STOW-RS).
    pub dicomweb: Option<WebDestination>,
    /// Send an ORU^R01 by MLLP.
    pub hl7: Option<Hl7Destination>,
}

/// `destination.dicomweb`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebDestination {
    /// Name of the peer, which must have `dicomweb` and the capability `receive`.
    pub peer: String,
    /// Elements to change in every image that is forwarded to this destination; see `rule.set`. A
    /// rule's own `set` goes before it. Transfer syntaxes are not negotiated in DICOMweb: images leave as
    /// they came.
    #[serde(default)]
    pub set: Edits,
}

/// `destination.dicom`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DicomDestination {
    /// Name of the peer, which must have an `address` and the capability `receive`.
    pub peer: String,
    /// After each delivery ask the peer to commit to it (storage commitment). Its report is taken on the
    /// same association or on one that it opens to us.
    #[serde(default)]
    pub commit: bool,
    /// Transfer syntaxes into which forwarded images may be changed where the peer does not accept
    /// their own, in order of preference: `explicit` (Explicit VR Little Endian), `implicit` (Implicit VR
    /// Little Endian), or their UIDs. JPEG, JPEG-LS, JPEG 2000 and RLE are decompressed, which loses
    /// nothing. What came in Implicit VR stays so: every peer must take it (PS3.5 §10.1). Empty: images leave
    /// as they came, or become dead letters that say what the peer takes.
    #[serde(default)]
    pub transcode: Vec<String>,
    /// Elements to change in every image that is forwarded to this destination; see `rule.set`. A
    /// rule's own `set` goes before it.
    #[serde(default)]
    pub set: Edits,
}

/// `destination.hl7`: an HL7 v2.5.1 receiver.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hl7Destination {
    /// Host and port of the MLLP receiver, e.g. `ris.example.org:2575`.
    pub address: String,
    /// Use TLS, with our certificate shown to the receiver.
    #[serde(default)]
    pub tls: bool,
    /// How the receiver's certificate is known. Needed with `tls = true`.
    pub certificate: Option<Certificate>,
    /// MSH-5.
    #[serde(default)]
    pub receiving_application: String,
    /// MSH-6.
    #[serde(default)]
    pub receiving_facility: String,
    /// MSH-4.
    #[serde(default)]
    pub sending_facility: String,
    /// PID-3.4 where the study names no issuer of the patient ID.
    #[serde(default)]
    pub assigning_authority: String,
    /// What to do on an application error (AE, CE): `dead_letter` (the message itself is at fault) or
    /// `retry`.
    #[serde(default)]
    pub on_error: OnNegative,
    /// What to do on a rejection (AR, CR): `retry` or `dead_letter`. A rejection for an unsupported
    /// message type or version always goes to the dead letters.
    #[serde(default = "default_on_reject")]
    pub on_reject: OnNegative,
    /// Wait for the application acknowledgement (AA, AE, AR) after a commit acknowledgement (CA).
    #[serde(default)]
    pub enhanced_wait_for_application: bool,
}

fn default_on_reject() -> OnNegative {
    OnNegative::Retry
}

/// What to do with a message after a negative acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnNegative {
    /// Keep it for a person to look at and replay.
    #[default]
    DeadLetter,
    /// Send it again later.
    Retry,
}
