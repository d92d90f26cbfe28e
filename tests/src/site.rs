//! Writing site files: a small working site, to which a test adds what it is about.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{onnxruntime, root, run_lightbox};
use crate::hospital::{Hospital, Identity};

/// The device identifier of every box under test: the one of the reference bundles.
pub const UDI_DI: &str = "09521234543213";
/// Our own AE title in every test.
pub const AE_TITLE: &str = "LIGHTBOX";

/// A site file in the making.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where it is written.
    pub path: PathBuf,
    /// `appliance.data_dir`.
    pub data_dir: PathBuf,
    /// `timers.quiet_seconds`.
    pub quiet_seconds: u32,
    /// `store.reserve_mib`.
    pub reserve_mib: u32,
    /// `store.congestion_mib`; 0, so that a full machine does not fail the tests.
    pub congestion_mib: u64,
    /// `deliver.response_timeout_seconds`.
    pub response_timeout_seconds: u32,
    /// `deliver.failed_run`.
    pub failed_run: String,
    /// Environment of the daemon.
    pub environment: Vec<(String, PathBuf)>,
    appliance: String,
    dicom: String,
    timers: String,
    tables: String,
    models: Vec<Model>,
}

/// A model that the demonstration vendor signs for this box before its first start.
#[derive(Clone, Debug)]
struct Model {
    name: String,
    bundle: PathBuf,
    /// `model.id` of its manifest.
    id: String,
}

impl Site {
    /// A site with our identity, short timers, free ports and nothing else.
    pub fn new(hospital: &Hospital) -> Self {
        hospital.issue("lightbox");
        Self::new_again(hospital)
    }

    /// The same for a hospital that has issued our certificate already.
    pub fn new_again(hospital: &Hospital) -> Self {
        let own = |kind: &str| hospital.folder().join("pki").join(format!("lightbox.{kind}"));
        let mut appliance =
            String::from("[appliance]\nname = \"RAD-AI-1\"\ninstitution = \"Test Hospital\"\n");
        let _ = writeln!(appliance, "ae_title = \"{AE_TITLE}\"");
        let _ = writeln!(
            appliance,
            "tls = {{ certificate = {:?}, key = {:?}, authorities = [{:?}] }}",
            own("crt"),
            own("key"),
            hospital.ca()
        );
        Site {
            path: hospital.folder().join("site.toml"),
            data_dir: hospital.folder().join("data"),
            quiet_seconds: 1,
            reserve_mib: 2,
            congestion_mib: 0,
            response_timeout_seconds: 5,
            failed_run: "partial".into(),
            environment: Vec::new(),
            appliance,
            dicom: "[dicom]\nlisten = \"127.0.0.1:0\"\n".into(),
            timers: String::new(),
            tables: String::new(),
            models: Vec::new(),
        }
    }

    /// Adds a line to `[dicom]`.
    pub fn dicom_line(mut self, line: &str) -> Self {
        let _ = writeln!(self.dicom, "{line}");
        self
    }

    /// Adds a line to `[appliance]`.
    pub fn appliance_line(mut self, line: &str) -> Self {
        let _ = writeln!(self.appliance, "{line}");
        self
    }

    /// Adds a line to `[timers]`.
    pub fn timers_line(mut self, line: &str) -> Self {
        let _ = writeln!(self.timers, "{line}");
        self
    }

    /// Takes orders by TLS from one source, its certificate pinned; ZDS-5 says how many series to expect,
    /// ZDS-6 how many instances. `more` are lines of `[orders]`.
    pub fn orders(self, source: &str, identity: &Identity, more: &str) -> Self {
        self.text(&format!(
            "[orders]\nlisten = \"127.0.0.1:0\"\nexpected_series_field = \"ZDS-5\"\nexpected_instances_field = \"ZDS-6\"\n{more}\n\n[[orders.source]]\nname = {source:?}\ncertificate = {{ sha256 = {:?} }}",
            identity.sha256
        ))
    }

    /// Adds tables as they stand.
    pub fn text(mut self, toml: &str) -> Self {
        let _ = writeln!(self.tables, "\n{toml}");
        self
    }

    /// Adds keys to `appliance.tls`, e.g. `crl = ["…"]`.
    pub fn tls_keys(mut self, keys: &str) -> Self {
        self.appliance = self.appliance.replace("tls = { ", &format!("tls = {{ {keys}, "));
        self
    }

    /// A peer that may send, its certificate pinned, with more keys of `[[peer]]` in `more`.
    pub fn sender_with(self, name: &str, ae_title: &str, identity: &Identity, more: &str) -> Self {
        self.sender(name, ae_title, identity).text(more)
    }

    /// A peer that may send, its certificate pinned.
    pub fn sender(self, name: &str, ae_title: &str, identity: &Identity) -> Self {
        self.text(&format!(
            "[[peer]]\nname = {name:?}\nae_title = {ae_title:?}\ncertificate = {{ sha256 = {:?} }}\nmay = [\"send\"]",
            identity.sha256
        ))
    }

    /// The same site, in which the peer with that AE title has an address on this machine.
    #[must_use]
    pub fn with_address(mut self, ae_title: &str, port: u16) -> Self {
        let line = format!("ae_title = {ae_title:?}\n");
        assert!(self.tables.contains(&line), "there is no peer {ae_title}");
        self.tables = self.tables.replace(&line, &format!("{line}address = \"127.0.0.1:{port}\"\n"));
        self
    }

    /// The same site, listening for DICOM over TLS on that port.
    #[must_use]
    pub fn dicom_listen(mut self, port: u16) -> Self {
        self.dicom =
            self.dicom.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"127.0.0.1:{port}\""));
        self
    }

    /// A peer that may send, its certificate issued by the authority for `certificate_name`.
    pub fn sender_by_name(self, name: &str, ae_title: &str, certificate_name: &str) -> Self {
        self.text(&format!(
            "[[peer]]\nname = {name:?}\nae_title = {ae_title:?}\ncertificate = {{ name = {certificate_name:?} }}\nmay = [\"send\"]"
        ))
    }

    /// A peer that receives, and the destination of the same name.
    pub fn receiver(self, name: &str, ae_title: &str, port: u16, identity: &Identity) -> Self {
        self.text(&format!(
            "[[peer]]\nname = {name:?}\nae_title = {ae_title:?}\naddress = \"127.0.0.1:{port}\"\ncertificate = {{ sha256 = {:?} }}\nmay = [\"receive\", \"query\"]\n\n[[destination]]\nname = {name:?}\ndicom = {{ peer = {name:?} }}",
            identity.sha256
        ))
    }

    /// An HL7 destination without TLS, with more keys of `destination.hl7` in `more`.
    pub fn hl7(self, name: &str, port: u16, more: &str) -> Self {
        self.text(&format!(
            "[[destination]]\nname = {name:?}\n[destination.hl7]\naddress = \"127.0.0.1:{port}\"\nreceiving_application = \"RIS\"\nreceiving_facility = \"HOSPITAL\"\nassigning_authority = \"HOSPITAL\"\n{more}"
        ))
    }

    /// An operator, by pinned certificate.
    pub fn operator(self, name: &str, role: &str, identity: &Identity) -> Self {
        self.text(&format!(
            "[[operator]]\nname = {name:?}\nrole = {role:?}\ncertificate = {{ sha256 = {:?} }}",
            identity.sha256
        ))
    }

    /// A model, signed by the demonstration vendor inside a plan of its own.
    pub fn model(mut self, name: &str, bundle: &Path) -> Self {
        let id = manifest_id(bundle);
        self.models.push(Model { name: name.to_owned(), bundle: bundle.to_owned(), id });
        self
    }

    /// How many models the demonstration vendor signs.
    pub fn signed_models(&self) -> usize {
        self.models.len()
    }

    /// The demonstration vendor's folder: one for each box, as its acceptance sets are sealed to it.
    fn vendor(&self) -> PathBuf {
        self.data_dir.with_extension("vendor")
    }

    fn models_text(&self) -> String {
        if self.models.is_empty() {
            return String::new();
        }
        let repository = self.vendor().join("repository");
        let root = repository.join("metadata/1.root.json");
        let mut text =
            format!("\n[updates]\nroot = {root:?}\nrepository = {repository:?}\ncheck_minutes = 60\n");
        for Model { name, id, .. } in &self.models {
            let _ = writeln!(
                text,
                "\n[[model]]\nname = {name:?}\ntarget = \"vendors/lightbox-demo/{id}\"\nplan = \"plans/lightbox-demo/{id}.toml\""
            );
        }
        text
    }

    /// The phantom detector, as `phantom`.
    pub fn phantom_detector(self) -> Self {
        self.model("phantom", &phantom_bundle())
    }

    /// A rule with `conditions` (lines of `[rule.match]`) that sends to one model and to destinations.
    pub fn rule(self, name: &str, conditions: &str, models: &[&str], deliver: &[&str]) -> Self {
        self.text(&format!(
            "[[rule]]\nname = {name:?}\nmatch = {{ {conditions} }}\nmodels = {models:?}\ndeliver = {deliver:?}"
        ))
    }

    /// The whole text.
    pub fn toml(&self) -> String {
        format!(
            "{}data_dir = {:?}\n\n{}\n[admin]\nlisten = \"127.0.0.1:0\"\n\n[store]\nreserve_mib = {}\ncongestion_mib = {}\nsegment_mib = 4\nsegments_mib = 8\n\n[timers]\nquiet_seconds = {}\n{}\n[infer]\nonnxruntime = {:?}\n\n[deliver]\nretry_first_seconds = 1\nretry_max_seconds = 2\nconnect_timeout_seconds = 2\nresponse_timeout_seconds = {}\nfailed_run = {:?}\n{}{}",
            self.appliance_text(),
            self.data_dir,
            self.dicom,
            self.reserve_mib,
            self.congestion_mib,
            self.quiet_seconds,
            self.timers,
            onnxruntime(),
            self.response_timeout_seconds,
            self.failed_run,
            self.models_text(),
            self.tables
        )
    }

    fn appliance_text(&self) -> String {
        match self.models.is_empty() {
            true => self.appliance.clone(),
            false => format!("{}udi_di = {UDI_DI:?}\n", self.appliance),
        }
    }

    /// Writes it, and before the first start has its models signed.
    #[track_caller]
    pub fn write(&self) -> &Path {
        fs::write(&self.path, self.toml()).expect("the site file is written");
        if !self.models.is_empty() && !self.vendor().exists() {
            let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
            let (vendor, site) = (text(&self.vendor()), text(&self.path));
            let bundles: Vec<String> = self.models.iter().map(|model| text(&model.bundle)).collect();
            let mut arguments = vec!["repository", "demo", &vendor, "--site", &site];
            arguments.extend(bundles.iter().map(String::as_str));
            run_lightbox(&arguments).ok("repository demo");
        }
        &self.path
    }
}

fn manifest_id(bundle: &Path) -> String {
    let text = fs::read_to_string(bundle.join("manifest.toml")).expect("a manifest");
    let id = text.lines().find_map(|line| line.strip_prefix("id = \"")?.strip_suffix('"'));
    id.expect("its model.id").to_owned()
}

/// The phantom detector's bundle.
pub fn phantom_bundle() -> PathBuf {
    root().join("models/reference/phantom-detector/bundle")
}

/// The phantom detector with a manifest that lets it look at any image, so that real studies, of which
/// it knows nothing, run through the whole line.
pub fn bundle_for_any_image(hospital: &Hospital) -> PathBuf {
    let folder = hospital.sub_folder("bundles/any-image");
    for entry in fs::read_dir(phantom_bundle()).expect("the phantom detector's bundle is there") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), folder.join(entry.file_name())).expect("copied");
    }
    let manifest = folder.join("manifest.toml");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    let changed = text
        .replace(
            "modalities = [\"CT\", \"DX\", \"CR\"]",
            "modalities = [\"CT\", \"MR\", \"CR\", \"DX\", \"NM\", \"US\", \"OT\"]",
        )
        .replace("body_parts = [\"PHANTOM\"]", "when_unstated = \"allow\"")
        .replace("id = \"lightbox-phantom-detector\"", "id = \"any-image\"");
    for wanted in ["\"NM\"", "when_unstated", "any-image"] {
        assert!(changed.contains(wanted), "the manifest's text has changed; mend this fixture ({wanted})");
    }
    fs::write(&manifest, changed).expect("written");
    folder
}
