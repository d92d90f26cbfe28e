//! The site file as it is written. The doc comments here are the site file's reference:
//! `provisioning/SITE.md` is generated from them, and a test keeps it true.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::priors::Priors;
use super::routing::{Edits, Schedule};

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

/// `[dicom]`: the DICOM listener and its limits.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dicom {
    /// Address and port for DICOM over mutually authenticated TLS (PS3.15 B.12).
    pub listen: String,
    /// Address and port for DICOM *without* TLS. Needs `allow_plaintext = true`.
    pub plaintext_listen: Option<String>,
    /// Accept patient data over connections that nobody has encrypted or authenticated.
    pub allow_plaintext: bool,
    /// Longest PDU that we accept, in bytes, 4096 to 1048576.
    pub max_pdu_bytes: u32,
    /// Associations at once; one more is rejected as a local limit (transient).
    pub max_associations: u32,
    /// Time that a peer has for the TLS handshake, in seconds.
    pub handshake_timeout_seconds: u64,
    /// Time that a peer has to send A-ASSOCIATE-RQ, and to close after a release (ARTIM), in seconds.
    pub artim_seconds: u64,
    /// Time that a peer has for each PDU, from waiting for it to its last byte, in seconds; then the
    /// association is aborted.
    pub idle_timeout_seconds: u64,
}

impl Default for Dicom {
    fn default() -> Self {
        Dicom {
            listen: "0.0.0.0:2762".into(),
            plaintext_listen: None,
            allow_plaintext: false,
            max_pdu_bytes: 131_072,
            max_associations: 64,
            handshake_timeout_seconds: 10,
            artim_seconds: 10,
            idle_timeout_seconds: 60,
        }
    }
}

/// `[dicomweb]`: instances by DICOMweb (STOW-RS, PS3.18 §10.5), over HTTPS with a client certificate.
/// Who may send is said by `[[peer]]`, as for C-STORE: `certificate`, `may`, `networks`, `sop_classes`,
/// `max_associations` (requests count as associations) and `throttle_mib_per_second`. A peer with
/// `user_identity` cannot send by DICOMweb. The times are those of `[dicom]`: `handshake_timeout_seconds`,
/// `artim_seconds` for a request's head and between two requests, `idle_timeout_seconds` for each 16 KiB
/// of a body. Rules see the peer's `ae_title` as the calling AE.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dicomweb {
    /// Address and port, e.g. `0.0.0.0:8042`. Without it this box takes nothing by DICOMweb.
    pub listen: Option<String>,
    /// What the paths begin with: instances are sent to `{prefix}/studies`.
    pub prefix: String,
    /// Longest body of a request, in MiB, 1 to 1048576.
    pub max_request_mib: u64,
    /// Longest instance, in MiB, 1 to 1048576; a longer one fails, the others of its request do not.
    pub max_instance_mib: u64,
    /// Most instances of one request, 1 to 100000.
    pub max_instances: u32,
}

impl Default for Dicomweb {
    fn default() -> Self {
        Dicomweb {
            listen: None,
            prefix: "/dicom-web".into(),
            max_request_mib: 16_384,
            max_instance_mib: 4096,
            max_instances: 10_000,
        }
    }
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

/// `[store]`: the object store.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Free space that is kept for the ledger and the results, in MiB. Below it, C-STORE answers
    /// 0xA700 (out of resources) before anything is written.
    pub reserve_mib: u64,
    /// Length of a segment, in MiB, 4 to 1024. Instances are received into segments: files that were
    /// written before, so that making an instance durable costs one write.
    pub segment_mib: u64,
    /// Disk space that the segments take all the time, in MiB: about what comes in one burst, before
    /// the instances are moved into files of their own. More is taken when needed, and given back.
    pub segments_mib: u64,
    /// Days after its last image at which a study goes that was delivered: its images and results are
    /// removed, what the ledger says of it stays. What waits to be sent, failed or was given up stays.
    pub keep_days: u64,
    /// Free space, in MiB, below which delivered studies go before their time, the oldest first.
    pub short_of_room_mib: u64,
    /// Hours for which a study stays however short of room the disk is.
    pub keep_at_least_hours: u64,
    /// Days in which every image is reread once, in idle time, and compared with what was received.
    pub scrub_days: u64,
    /// Free space below which new associations of senders are rejected as temporary congestion
    /// (2/3/1), in MiB; those that are open go on. 0 never rejects.
    pub congestion_mib: u64,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            reserve_mib: 256,
            segment_mib: 64,
            segments_mib: 1024,
            keep_days: 30,
            short_of_room_mib: 4096,
            keep_at_least_hours: 24,
            scrub_days: 30,
            congestion_mib: 1024,
        }
    }
}

/// `[timers]`: when a study counts as complete.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timers {
    /// A study with no new instance for this long is closed and processed, in seconds, where no better
    /// evidence tells (procedure steps, announcements, the PACS's count, the order). An image that comes
    /// later opens a new revision.
    pub quiet_seconds: u64,
    /// Evidence against completeness (a procedure step in progress, an instance that is listed and not
    /// here, a higher count at the PACS) keeps a study waiting at most so long after its last instance,
    /// in seconds. Then it is closed, and the verdict says what was missing.
    pub longest_seconds: u64,
    /// Silence after which a mere number is asked for and believed (the PACS's count, the order's
    /// expected series), in seconds.
    pub settle_seconds: u64,
    /// Name of the peer that is asked by C-FIND how many instances a study has. A PACS that does not
    /// answer never holds a study up.
    pub count_at: Option<String>,
}

impl Default for Timers {
    fn default() -> Self {
        Timers { quiet_seconds: 30, longest_seconds: 900, settle_seconds: 2, count_at: None }
    }
}

/// `[orders]`: orders from the RIS by HL7 v2 (ORM^O01, OMI^O23, ADT^A08, ADT^A40) over MLLP.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Orders {
    /// Address and port for MLLP over mutually authenticated TLS, e.g. `0.0.0.0:2575`. Without it this
    /// box takes no orders by TLS.
    pub listen: Option<String>,
    /// Address and port for MLLP *without* TLS. Needs `allow_plaintext = true`.
    pub plaintext_listen: Option<String>,
    /// Accept patient data over connections that nobody has encrypted or authenticated.
    pub allow_plaintext: bool,
    /// Who may send.
    pub source: Vec<OrderSource>,
    /// Largest message, in KiB; a larger one ends the connection.
    pub max_message_kib: u64,
    /// Time that a source has to send one message, from its first byte to its last, in seconds.
    pub message_timeout_seconds: u64,
    /// Time that a connection may stay without a message, in seconds.
    pub idle_timeout_seconds: u64,
    /// Connections of one source at once; one more is closed.
    pub connections_per_source: u32,
    /// Days after its last change at which an order goes, with the messages that brought it. An order is
    /// needed until its study has come. Messages that were refused stay until a person has dealt with them.
    pub keep_days: u64,
    /// Where an order says how many series the study will have: segment and field, e.g. `ZDS-5`. HL7
    /// has no field of its own for it.
    pub expected_series_field: Option<String>,
    /// The same for the number of instances.
    pub expected_instances_field: Option<String>,
}

impl Default for Orders {
    fn default() -> Self {
        Orders {
            listen: None,
            plaintext_listen: None,
            allow_plaintext: false,
            source: Vec::new(),
            max_message_kib: 1024,
            message_timeout_seconds: 30,
            idle_timeout_seconds: 3600,
            connections_per_source: 8,
            keep_days: 400,
            expected_series_field: None,
            expected_instances_field: None,
        }
    }
}

/// `[[orders.source]]`: a RIS or interface engine that may send orders.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderSource {
    /// Name shown with each message.
    pub name: String,
    /// How its certificate is known. Needed unless `address` is given.
    pub certificate: Option<Certificate>,
    /// IP address from which it sends without TLS. Needs `orders.allow_plaintext = true`.
    pub address: Option<String>,
}

/// `[infer]`: how models are run.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Infer {
    /// The ONNX Runtime library (`libonnxruntime.so`). Without it the environment variable
    /// `LIGHTBOX_ONNXRUNTIME` is asked.
    pub onnxruntime: Option<PathBuf>,
    /// Threads for one run of a model.
    pub threads: usize,
}

impl Default for Infer {
    fn default() -> Self {
        Infer { onnxruntime: None, threads: 1 }
    }
}

/// `[updates]`: the signed repository of models (TUF). Nothing of it runs before it is authentic, newer,
/// meant for this device, inside its change-control plan, and was good enough on this very hardware.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Updates {
    /// The repository's root as it was handed over out of band: `root.json`. It is what all trust begins
    /// with; later roots must be signed by the one before.
    pub root: Option<PathBuf>,
    /// The repository: a folder that holds `metadata/` and `targets/`, such as a mounted stick or a share.
    pub repository: Option<PathBuf>,
    /// Instead of `repository`: a mirror of it inside the hospital.
    pub mirror: Option<Mirror>,
    /// Minutes between two looks at the repository. 0 looks only when `lightbox models check` asks for it.
    pub check_minutes: u64,
    /// Longest time that a new version's network may take to load, in seconds. It is loaded in a process of its own
    /// first, as a runtime cannot be stopped while it loads; one that takes longer is refused.
    pub load_seconds: u64,
}

impl Default for Updates {
    fn default() -> Self {
        Updates { root: None, repository: None, mirror: None, check_minutes: 0, load_seconds: 120 }
    }
}

/// `[updates.mirror]`: an HTTPS server that offers the repository's files as they are.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Where `metadata/` and `targets/` are, e.g. `https://mirror.example.org/models`.
    pub url: String,
    /// How the server's certificate is known. Ours is shown if it asks for one.
    pub certificate: Certificate,
}

/// `[system]`: updates of the firmware image. Only a box that was started from its image can take one. A new image is
/// checked whole, then written into the slot that does not run; the box restarts into it at a time of the site's
/// choice, and goes back by itself if it is not well.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct System {
    /// The repository's root: what all trust in images begins with. It is part of the image.
    pub root: PathBuf,
    /// The signed repository of images: a folder that holds `metadata/` and `targets/`. A stick whose file system has
    /// the label LIGHTBOX is found at `/run/stick`.
    pub repository: Option<PathBuf>,
    /// Instead of `repository`: a mirror of it inside the hospital.
    pub mirror: Option<Mirror>,
    /// Minutes between two looks at the repository. 0 looks only when `lightbox system check` asks for it.
    pub check_minutes: u64,
    /// Who decides that a new image is installed: `asked` waits for `lightbox system install`, `window` installs what
    /// is newer by itself.
    pub install: Install,
    /// The hours in which the box may restart into a new image, in local time as `appliance.utc_offset` says. Left
    /// out: at any time.
    pub window: Option<Schedule>,
    /// Studies in flight finish first. After so many minutes within the window the box restarts all the same: what is
    /// under way then is on disk, and goes on after the restart.
    pub drain_minutes: u64,
    /// Where images are kept until they are written, and where the image's own units look for orders.
    pub folder: PathBuf,
}

impl Default for System {
    fn default() -> Self {
        System {
            root: "/usr/share/lightbox/system-root.json".into(),
            repository: None,
            mirror: None,
            check_minutes: 0,
            install: Install::Asked,
            window: None,
            drain_minutes: 30,
            folder: "/var/lib/lightbox/system".into(),
        }
    }
}

/// Who decides that a new image is installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Install {
    /// A person.
    #[default]
    Asked,
    /// The box, in the window.
    Window,
}

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

/// `[query]`: how PACS are queried (C-FIND), and studies retrieved from them (C-MOVE, C-GET).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Query {
    /// Time for a whole query with all its answers, in seconds; then it is cancelled.
    pub deadline_seconds: u64,
    /// Time for a whole retrieval, in seconds; then it is cancelled. What has come by then is kept.
    pub retrieve_deadline_seconds: u64,
    /// Answers that one query takes at most; the rest is cancelled.
    pub max_matches: usize,
}

impl Default for Query {
    fn default() -> Self {
        Query { deadline_seconds: 30, retrieve_deadline_seconds: 600, max_matches: 1000 }
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

/// `[[model]]`: a model that rules may name. It comes from the signed repository that `[updates]` names, and runs
/// only inside its change-control plan. To try a site: `lightbox repository demo`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name that rules use.
    pub name: String,
    /// What the model's versions in the signed repository begin with, e.g. `vendors/acme/detector` for
    /// `vendors/acme/detector-2.lightbox`. Which version runs is said by the plan and by the people who
    /// approve: `lightbox models`. Until one is active, its jobs wait.
    pub target: String,
    /// Its change-control plan in the signed repository, e.g. `plans/detector.toml`.
    pub plan: String,
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

/// `[[rule]]`: looks at each series of a study.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Name shown with each decision.
    pub name: String,
    /// Conditions; all that are given must hold. An empty table matches every series.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// A CEL expression over `study` and `series` that must be true as well, for what a table
    /// cannot say, e.g. `series.instances > 20 && !study.description.contains("phantom")`.
    pub when: Option<String>,
    /// Names of the models that the series goes to. May be empty: the study is kept and shown.
    #[serde(default)]
    pub models: Vec<String>,
    /// Names of the destinations for the results.
    #[serde(default)]
    pub deliver: Vec<String>,
    /// Names of DICOM and DICOMweb destinations to which the series' instances are sent on, as received, once the
    /// study's revision is closed. Works with and without `models`. Images that come late are sent on
    /// with the next revision, each image once to each destination. A series is never sent back to the
    /// peer that it came from.
    #[serde(default)]
    pub forward: Vec<String>,
    /// Keep what this rule delivers and forwards until a person releases it (administration page, or
    /// `lightbox queue release`). Models run at once all the same.
    #[serde(default)]
    pub hold: bool,
    /// Hours in which what this rule delivers and forwards may leave the box, e.g.
    /// `{ days = ["mon", "tue"], from = "19:00", to = "06:00" }`; outside them it waits, retries too.
    /// What is being sent when the hours end is sent to its end. Models run at once all the same, so
    /// that results are there for people when they look. Where two rules send the same to the same
    /// destination, the one that sends sooner counts: at once before in hours, before held, before
    /// shadow.
    pub schedule: Option<Schedule>,
    /// Elements to change in the images that this rule forwards, e.g.
    /// `{ institution_name = "St. Mary", accession_number_prefix = "SM-" }`. Only the keys below: names,
    /// identifiers and UIDs of patient, study and image never change. What was there before is kept in
    /// the Original Attributes Sequence (0400,0561). An image whose character set has not all the
    /// characters of a value becomes a dead letter. Results and stored images stay as they are. Where two
    /// rules set the same, the first one counts.
    #[serde(default, skip_serializing_if = "Edits::is_empty")]
    pub set: Edits,
    /// `assist` sends results and images; `shadow` computes and keeps results, and sends nothing.
    #[serde(default)]
    pub mode: Mode,
    /// If it matches, later rules do not look at this series.
    #[serde(default)]
    pub stop: bool,
    /// Instead of `timers.quiet_seconds` for the series that it matches, in seconds. Where several rules
    /// match, the longest counts.
    pub quiet_seconds: Option<u64>,
    /// `study` starts the models when the study is complete; `series` starts them on each series as soon
    /// as that series is complete, and makes a result of its own for each.
    #[serde(default)]
    pub start: Start,
    /// Earlier studies of the patient that are fetched from a PACS before the rule's models run, e.g.
    /// `{ from = "pacs", by = "move", latest = 2, same = ["modality", "body_part"], deadline_seconds = 20 }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priors: Option<Priors>,
}

/// When a rule's models start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// When the study is complete: one result for all its series.
    #[default]
    Study,
    /// When a series is complete: one result for each.
    Series,
}

/// Whether results leave the box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Computed and sent.
    #[default]
    Assist,
    /// Computed, kept, never sent.
    Shadow,
}

/// `rule.match`: texts are compared without regard to case and may hold `*` and `?`; a list
/// means any of its texts; a range has `min` and `max`, both inclusive and both optional. A
/// condition on a value that the series does not have is false.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Modality (0008,0060).
    pub modality: Option<OneOrMany>,
    /// Body Part Examined (0018,0015).
    pub body_part: Option<OneOrMany>,
    /// Study Description (0008,1030).
    pub study_description: Option<OneOrMany>,
    /// Series Description (0008,103E).
    pub series_description: Option<OneOrMany>,
    /// Protocol Name (0018,1030).
    pub protocol: Option<OneOrMany>,
    /// AE title of the sender.
    pub calling_ae: Option<OneOrMany>,
    /// Name of the peer that sent it, as in this file.
    pub peer: Option<OneOrMany>,
    /// Station Name (0008,1010).
    pub station: Option<OneOrMany>,
    /// Manufacturer (0008,0070).
    pub manufacturer: Option<OneOrMany>,
    /// Patient's Sex (0010,0040).
    pub sex: Option<OneOrMany>,
    /// SOP Class UID of the series' first instance.
    pub sop_class: Option<OneOrMany>,
    /// View Position (0018,5101).
    pub view: Option<OneOrMany>,
    /// Age in years, from Patient's Age (0010,1010) or birth and study date.
    pub age_years: Option<Range>,
    /// Slice Thickness (0018,0050), mm.
    pub slice_thickness_mm: Option<Range>,
    /// Number of instances in the series.
    pub instances: Option<Range>,
}

/// A text or a list of texts.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One text.
    One(String),
    /// Any of these texts.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The texts.
    pub fn texts(&self) -> &[String] {
        match self {
            OneOrMany::One(text) => std::slice::from_ref(text),
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// A range of numbers; both ends are inclusive.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Lowest value that matches.
    pub min: Option<f64>,
    /// Highest value that matches.
    pub max: Option<f64>,
}

impl Range {
    /// Whether the value lies in the range.
    pub fn contains(&self, value: f64) -> bool {
        self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }
}

/// Index of names, for checks of references between tables.
pub(crate) type Names = BTreeMap<String, usize>;
