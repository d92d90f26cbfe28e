//! Application entities, and how a peer is known.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of the peer by which the box sends to itself, to learn whether it works. From this machine it is let in past
/// a filling disk and taken places, and its studies come first.
pub const SELF_TEST_PEER: &str = "self-test";

/// `[[peer]]`: one application entity.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Name used in this file and on the administration page.
    pub name: String,
    /// Its AE title. Case counts.
    pub ae_title: String,
    /// Host and port at which it receives, e.g. `pacs.example.org:2762`. Needed to send to it.
    pub address: Option<String>,
    /// Where it offers DICOMweb. A peer without `address` is queried (QIDO-RS) and retrieved from
    /// (WADO-RS) by it; one with both is asked by DIMSE. A destination says by itself which it uses.
    pub dicomweb: Option<WebPeer>,
    /// How its certificate is known. Needed unless `plaintext = true`.
    pub certificate: Option<Certificate>,
    /// What it may do, and what may be done with it. `send`: send objects to us (C-STORE), tell us of
    /// them (MPPS, Instance Availability Notification) and ask us to commit to them (storage
    /// commitment). `announce`: only tell us of objects. `commit`: only ask us to commit. `receive`: be
    /// sent results by us. `query`: be queried by us (C-FIND). `retrieve`: be asked by us for studies
    /// (C-MOVE, C-GET), and so send objects to us. C-ECHO is open to each of them.
    #[serde(default = "default_may")]
    pub may: Vec<Capability>,
    /// Talk to it without TLS. Needs `dicom.allow_plaintext = true`.
    #[serde(default)]
    pub plaintext: bool,
    /// More AE titles that it may call with, besides `ae_title`.
    #[serde(default)]
    pub more_ae_titles: Vec<String>,
    /// Networks or addresses that it may call from, e.g. `["10.1.0.0/16", "fd00::/8"]`. Empty: from
    /// everywhere. From elsewhere it is rejected as an unknown calling AE (1/1/3).
    #[serde(default)]
    pub networks: Vec<String>,
    /// Storage SOP classes that it may send: UIDs, or `cr`, `ct`, `dx`, `mg`, `mr`, `nm`, `pet`, `rt`,
    /// `sc`, `seg`, `sr`, `us`, `xa`, `private`. Empty: all. Contexts of other classes are refused
    /// (abstract syntax not supported, 3).
    #[serde(default)]
    pub sop_classes: Vec<String>,
    /// Transfer Syntax UIDs in the order in which we choose among those that it proposes in a context.
    /// The rest come after them, in its own order.
    #[serde(default)]
    pub transfer_syntaxes: Vec<String>,
    /// Associations that it may have at once; one more is rejected as a local limit (2/3/2). Without
    /// it only `dicom.max_associations` counts.
    pub max_associations: Option<u32>,
    /// How fast we read from it, all its associations together, in MiB a second. Without it: as fast as
    /// it sends.
    pub throttle_mib_per_second: Option<u32>,
    /// Longest PDU that we accept from it, in bytes, 4096 to 1048576. Without it: `dicom.max_pdu_bytes`.
    pub max_pdu_bytes: Option<u32>,
    /// A user identity that it must send (PS3.7 D.3.3.7, types 1 and 2), besides its certificate. Without
    /// it, or with another, it is rejected (1/1/1).
    pub user_identity: Option<UserIdentity>,
}

/// `peer.dicomweb`: a DICOMweb service.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebPeer {
    /// Its base URL, e.g. `https://pacs.example.org:8042/dicom-web`. We show our own certificate; the
    /// peer's must be the one of its `certificate`. `http://` needs `plaintext = true`.
    pub url: String,
}

/// `peer.user_identity`: whom a peer must say it is.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserIdentity {
    /// The username. Case counts.
    pub username: String,
    /// SHA-256 of the passcode, hex, as `printf %s PASSCODE | sha256sum` prints it.
    pub passcode_sha256: Option<String>,
    /// A file with the passcode, its last line end not counted. Without either, the username is enough.
    pub passcode_file: Option<PathBuf>,
}

fn default_may() -> Vec<Capability> {
    vec![Capability::Send]
}

/// What a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// C-STORE to us, and what goes with it: MPPS, Instance Availability Notification, storage commitment.
    Send,
    /// Be sent results by us.
    Receive,
    /// Be queried by us (C-FIND).
    Query,
    /// Be asked by us for studies (C-MOVE, C-GET), which it then sends to us.
    Retrieve,
    /// MPPS and Instance Availability Notification to us.
    Announce,
    /// Storage commitment requests to us.
    Commit,
}

/// How a certificate is known: exactly one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// SHA-256 fingerprint of the certificate, hex, colons allowed, as
    /// `openssl x509 -noout -fingerprint -sha256 -in peer.crt` prints it. Works with self-signed
    /// and CA-marked certificates; must be changed when the peer renews its certificate.
    pub sha256: Option<String>,
    /// SHA-256 of the certificate's public key (SPKI, DER), hex. Survives a renewal that keeps the
    /// key.
    pub spki_sha256: Option<String>,
    /// A DNS name, IP address or common name that a certificate issued by one of
    /// `appliance.tls.authorities` must carry.
    pub name: Option<String>,
}
