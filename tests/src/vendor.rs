//! A vendor of models: keys, a signed repository, versions of the phantom detector, a plan for them, and an
//! acceptance set sealed to the box under test.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use lightbox_models::Bundle;
use lightbox_models::acceptance::{SetWriter, seal};
use lightbox_models::pack::pack;
use lightbox_models::plan::{io_schema_digest, text_digest};
use lightbox_models::publish::{Addition, Change, Design, FileKey, Holders, Lifetimes, Publisher, Signer};
use lightbox_models::trust::Delegate;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::command::run_lightbox;
use crate::hospital::Hospital;
use crate::peers::mllp::{Behaviour, MllpReceiver};
use crate::peers::storescp::Storescp;
use crate::peers::storescu::Storescu;
use crate::site::{Site, UDI_DI, phantom_bundle};
use crate::{Daemon, Line};

/// Where the detector's versions are.
const TARGET: &str = "vendors/acme/detector";
/// Its plan.
const PLAN: &str = "plans/detector.toml";
const ROLES: [&str; 7] = ["root", "targets", "snapshot", "timestamp", "vendor-acme", "regulatory", "safety"];

/// The vendor, with every key at hand.
pub struct Vendor {
    folder: PathBuf,
    keys: Vec<FileKey>,
}

impl Vendor {
    /// Makes keys and an empty repository.
    #[track_caller]
    pub fn new(hospital: &Hospital) -> Self {
        let folder = hospital.sub_folder("vendor");
        let keys: Vec<FileKey> = ROLES
            .iter()
            .map(|role| FileKey::generate(&folder.join(format!("{role}.pem"))).expect("a key"))
            .collect();
        let vendor = Vendor { folder, keys };
        let holders = |role: &str| {
            let at = ROLES.iter().position(|known| *known == role).expect("a role");
            Holders { keys: vec![vendor.keys[at].public()], threshold: 1 }
        };
        let design = Design {
            root: holders("root"),
            targets: holders("targets"),
            snapshot: holders("snapshot"),
            timestamp: holders("timestamp"),
            delegates: ROLES[4..]
                .iter()
                .map(|role| (role.parse::<Delegate>().expect("a role"), holders(role)))
                .collect(),
        };
        let publisher =
            Publisher::create(&vendor.repository(), &design, &Lifetimes::default(), now(), &vendor.signers())
                .expect("a repository");
        fs::write(vendor.root(), publisher.root()).expect("written");
        vendor
    }

    /// The root that the box is given.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root.json")
    }

    /// The repository.
    pub fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    fn signers(&self) -> Vec<&dyn Signer> {
        self.keys.iter().map(|key| key as &dyn Signer).collect()
    }

    /// Puts files into the repository.
    #[track_caller]
    pub fn publish(&self, files: &[(&str, &str, &Path)]) {
        self.publish_at(files, now());
    }

    /// The same, with metadata whose dates count from this time.
    #[track_caller]
    pub fn publish_at(&self, files: &[(&str, &str, &Path)], at: OffsetDateTime) {
        let add = files.iter().map(|(name, role, file)| Addition {
            name: (*name).to_owned(),
            by: role.parse().expect("a role"),
            file: (*file).to_owned(),
            custom: BTreeMap::new(),
        });
        let change = Change { add: add.collect(), ..Change::default() };
        let mut publisher = Publisher::open(&self.repository()).expect("opened");
        publisher
            .publish(&change, &Lifetimes::default(), at, &self.signers(), &mut |_, _| {})
            .expect("published");
    }

    /// Publishes a file as it is, past the publisher's own checks: what somebody with the right keys and other tools
    /// can do.
    #[track_caller]
    pub fn slip_in(&self, name: &str, role: &str, contents: &[u8]) {
        let sha256 = hex(&Sha256::digest(contents));
        let (folder, file) = name.rsplit_once('/').expect("below a folder");
        let folder = self.repository().join("targets").join(folder);
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join(format!("{sha256}.{file}")), contents).expect("written");
        let described = json!({ "length": contents.len(), "hashes": { "sha256": sha256 } });
        let pin = self.sign(role, |signed| signed["targets"][name] = described);
        let pin = self.sign("snapshot", |signed| signed["meta"][format!("{role}.json")] = pin);
        self.sign("timestamp", |signed| signed["meta"]["snapshot.json"] = pin);
    }

    /// Where a target's file lies.
    #[track_caller]
    pub fn target(&self, name: &str) -> PathBuf {
        let (folder, file) = name.rsplit_once('/').expect("below a folder");
        let files = fs::read_dir(self.repository().join("targets").join(folder)).expect("a folder");
        let found = files.map(|entry| entry.expect("an entry").path());
        let mut found = found.filter(|path| path.to_string_lossy().ends_with(&format!(".{file}")));
        let one = found.next().expect("the target's file");
        assert!(found.next().is_none(), "two files of {name}");
        one
    }

    /// Signs the next version of a role's newest metadata, and yields how it is pinned.
    fn sign(&self, role: &str, edit: impl FnOnce(&mut Value)) -> Value {
        let folder = self.repository().join("metadata");
        let versions = fs::read_dir(&folder).expect("metadata").filter_map(|entry| {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            name.strip_suffix(&format!(".{role}.json"))?.parse::<u64>().ok()
        });
        let newest = versions.max().map_or(String::new(), |version| format!("{version}."));
        let text = fs::read(folder.join(format!("{newest}{role}.json"))).expect("metadata");
        let mut document: Value = serde_json::from_slice(&text).expect("JSON");
        let version = document["signed"]["version"].as_u64().expect("a version") + 1;
        document["signed"]["version"] = json!(version);
        edit(&mut document["signed"]);
        let at = ROLES.iter().position(|known| *known == role).expect("a role");
        let sig = self.keys[at].sign(&canonical(&document["signed"])).expect("signed");
        document["signatures"][0]["sig"] = json!(hex(&sig));
        let bytes = document.to_string().into_bytes();
        let name = if role == "timestamp" { String::new() } else { format!("{version}.") };
        fs::write(folder.join(format!("{name}{role}.json")), &bytes).expect("written");
        json!({ "version": version, "length": bytes.len(), "hashes": { "sha256": hex(&Sha256::digest(&bytes)) } })
    }

    /// A version of the phantom detector, in a folder of its own; `edit` changes the manifest's text.
    #[track_caller]
    pub fn version(&self, release: u32, edit: &[(&str, &str)]) -> Bundle {
        self.version_with(release, None, edit)
    }

    /// The same with one of the networks of `models/reference/flawed`.
    #[track_caller]
    pub fn flawed_version(&self, release: u32, flaw: &str, edit: &[(&str, &str)]) -> Bundle {
        let path = phantom_bundle().join(format!("../../flawed/{flaw}.onnx"));
        let network = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.version_with(release, Some(&network), edit)
    }

    /// A version with one of the networks of `models/reference/flawed` as its 16-bit one beside the usual 32-bit one.
    #[track_caller]
    pub fn version_with_half(&self, release: u32, half: &str) -> Bundle {
        self.version_with(release, None, &[]);
        let folder = self.folder.join(format!("detector-{release}"));
        let from = phantom_bundle().join(format!("../../flawed/{half}.onnx"));
        fs::copy(&from, folder.join("model-fp16.onnx")).unwrap_or_else(|error| panic!("{half}: {error}"));
        let sbom = folder.join("sbom.json");
        let mut parts: serde_json::Value =
            serde_json::from_slice(&fs::read(&sbom).expect("an SBOM")).expect("JSON");
        let digest = hex(&Sha256::digest(fs::read(folder.join("model-fp16.onnx")).expect("there")));
        let components = parts["components"].as_array_mut().expect("components");
        let model =
            components.iter_mut().find(|one| one["type"] == "machine-learning-model").expect("a model");
        let hashes = model["hashes"].as_array_mut().expect("hashes");
        hashes.push(json!({ "alg": "SHA-256", "content": digest }));
        fs::write(&sbom, parts.to_string()).expect("written");
        let path = folder.join("manifest.toml");
        let none = "0".repeat(64);
        let file = format!(
            "\n[[file]]\npath = \"model-fp16.onnx\"\nrole = \"network_fp16\"\nsize = 1\nsha256 = \"{none}\"\n"
        );
        let text = fs::read_to_string(&path).expect("a manifest") + &file;
        fs::write(&path, text).expect("written");
        run_lightbox(&["bundle", "refresh", folder.to_str().expect("a plain path")]).ok("bundle refresh");
        Bundle::open(&folder).unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    fn version_with(&self, release: u32, network: Option<&[u8]>, edit: &[(&str, &str)]) -> Bundle {
        let folder = self.folder.join(format!("detector-{release}"));
        fs::create_dir(&folder).expect("a new folder");
        for entry in fs::read_dir(phantom_bundle()).expect("the phantom detector's bundle is there") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), folder.join(entry.file_name())).expect("copied");
        }
        let path = folder.join("manifest.toml");
        let mut text = fs::read_to_string(&path).expect("a manifest");
        let number = (format!("version = \"{release}.0.0\""), format!("release = {release}"));
        let usual = [("version = \"1.0.0\"", number.0.as_str()), ("release = 1", number.1.as_str())];
        for (from, to) in usual.iter().chain(edit) {
            assert!(text.contains(from), "the manifest's text has changed; mend this fixture ({from})");
            text = text.replace(from, to);
        }
        fs::write(&path, text).expect("written");
        if let Some(network) = network {
            fs::write(folder.join("model.onnx"), network).expect("written");
            run_lightbox(&["bundle", "refresh", folder.to_str().expect("a plain path")]).ok("bundle refresh");
        }
        Bundle::open(&folder).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Publishes a version as `vendors/acme/detector-RELEASE.lightbox`.
    #[track_caller]
    pub fn publish_version(&self, bundle: &Bundle) {
        let release = bundle.manifest().model.release;
        let packed = self.folder.join(format!("detector-{release}.lightbox"));
        pack(&self.folder.join(format!("detector-{release}")), &packed, &mut |_| {}).expect("packed");
        self.publish(&[(&format!("{TARGET}-{release}.lightbox"), "vendor-acme", &packed)]);
    }

    /// Publishes an acceptance set sealed to the box: four phantoms with disks, four images without. Yields its
    /// digest.
    #[track_caller]
    pub fn publish_set(&self, site: &Site) -> String {
        let golden = fs::read(phantom_bundle().join("golden-disks.dcm")).expect("the golden case");
        let plain: Vec<u8> = [40.0_f32; 64 * 64].iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut manifest = String::from("schema = 1\nid = \"disks\"\n");
        let mut inputs = Vec::new();
        for at in 0..8 {
            let (bytes, input, truth) = match at % 2 {
                0 => (&golden, "{ kind = \"dicom\", frame = 1 }", "[\"disk\"]"),
                _ => (&plain, "{ kind = \"tensor\", shape = [1, 1, 64, 64] }", "[]"),
            };
            let _ = write!(
                manifest,
                "\n[[case]]\nname = \"case-{at}\"\ninput = {input}\nsize = {}\nsha256 = \"{}\"\ntruth = {truth}\n",
                bytes.len(),
                hex(&Sha256::digest(bytes))
            );
            inputs.push(bytes);
        }
        let mut writer = SetWriter::new(Vec::new(), &manifest).expect("a set");
        for input in inputs {
            writer.case(input).expect("a case");
        }
        let whole = writer.finish().expect("whole");
        let path = site.path.to_str().expect("a plain path");
        let recipient = run_lightbox(&["models", "--site", path, "recipient"]).ok("models recipient");
        let recipient = recipient.out.trim().parse().expect("a recipient");
        let mut sealed = Vec::new();
        let random = |bytes: &mut [u8]| {
            getrandom::fill(bytes).map_err(|error| std::io::Error::other(error.to_string()))
        };
        seal::seal(whole.as_slice(), &mut sealed, &[recipient], random).expect("sealed");
        let file = self.folder.join("set.age");
        fs::write(&file, sealed).expect("written");
        let digest = hex(&Sha256::digest(manifest.as_bytes()));
        self.publish(&[(&format!("{TARGET}/sets/{digest}.age"), "vendor-acme", &file)]);
        digest
    }

    /// Publishes the plan: retrained weights and another threshold for `reported` within 0.4 to 0.8, nothing else;
    /// two people approve.
    #[track_caller]
    pub fn publish_plan(&self, baseline: &Bundle, set: &str, approvals: u32) {
        self.publish_plan_with(baseline, set, approvals, &[]);
    }

    /// The same; `edit` changes the plan's text.
    #[track_caller]
    pub fn publish_plan_with(&self, baseline: &Bundle, set: &str, approvals: u32, edit: &[(&str, &str)]) {
        let manifest = baseline.manifest();
        let mut text = PLAN_TEXT
            .replace("INTENDED_USE", &text_digest(&manifest.model.intended_use))
            .replace("IO_SCHEMA", &io_schema_digest(manifest))
            .replace("BASELINE", baseline.digest())
            .replace("ACCEPTANCE_SET", set)
            .replace("APPROVALS", &approvals.to_string());
        for (from, to) in edit {
            assert!(text.contains(from), "the plan's text has changed; mend this test ({from})");
            text = text.replace(from, to);
        }
        let file = self.folder.join("plan.toml");
        fs::write(&file, text).expect("written");
        self.publish(&[(PLAN, "regulatory", &file)]);
    }

    /// The whole line with this vendor's detector as the only model, named `detector`; nothing is published yet.
    #[track_caller]
    pub fn line() -> (Vendor, Line) {
        Self::line_from(|_, vendor| format!("repository = {:?}", vendor.repository()))
    }

    /// The same; `source` says in the words of `[updates]` where the repository is.
    #[track_caller]
    pub fn line_from(source: impl FnOnce(&Hospital, &Vendor) -> String) -> (Vendor, Line) {
        let hospital = Hospital::new();
        let vendor = Vendor::new(&hospital);
        let source = source(&hospital, &vendor);
        let modality = Storescu::new(&hospital, "CT1");
        let pacs = Storescp::start(&hospital, "pacs");
        let ris = MllpReceiver::start(Behaviour::Accept);
        let site = Site::new(&hospital)
            .appliance_line(&format!("udi_di = \"{UDI_DI}\""))
            .text(&format!("[updates]\nroot = {:?}\n{source}", vendor.root()))
            .sender("ct-1", "CT1", modality.identity())
            .receiver("pacs", &pacs.ae_title(), pacs.port, &pacs.identity)
            .hl7("ris", ris.port, "")
            .text(&format!("[[model]]\nname = \"detector\"\ntarget = {TARGET:?}\nplan = {PLAN:?}"))
            .rule("phantoms", "body_part = \"PHANTOM\"", &["detector"], &["pacs", "ris"]);
        let daemon = Daemon::start(&site);
        (vendor, Line { daemon, site, modality, pacs, ris, hospital })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the box under test compares the dates with the machine's clock"
)]
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// OLPC canonical JSON, for the ASCII that metadata have.
fn canonical(value: &Value) -> Vec<u8> {
    let joined = |parts: Vec<Vec<u8>>| parts.join(&b","[..]);
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by_key(|(key, _)| key.as_str());
            let members = members.into_iter().map(|(key, value)| {
                [Value::from(key.as_str()).to_string().into_bytes(), canonical(value)].join(&b":"[..])
            });
            [b"{".to_vec(), joined(members.collect()), b"}".to_vec()].concat()
        }
        Value::Array(items) => {
            [b"[".to_vec(), joined(items.iter().map(canonical).collect()), b"]".to_vec()].concat()
        }
        other => other.to_string().into_bytes(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const PLAN_TEXT: &str = r#"
schema = 1
accompanying = ["name", "card", "documents"]

[plan]
id = "PCCP-DISKS"
version = 1
model = "lightbox-phantom-detector"
device_udi_di = ["09521234543213"]
expires = "2099-01-01T00:00:00Z"

[locked]
intended_use_sha256 = "INTENDED_USE"
claim = "detection"
procedure = { value = "18748-4", scheme = "LN", meaning = "Diagnostic imaging study" }
io_schema_sha256 = "IO_SCHEMA"

[locked.indication]
modalities = ["CT", "DX", "CR"]
body_parts = ["PHANTOM"]

[[locked.label]]
index = 0
name = "disk"
finding = { value = "BRIGHTDISK", scheme = "99LIGHTBOX", meaning = "Bright disk" }
category = { value = "49755003", scheme = "SCT", meaning = "Morphologically abnormal structure" }
measurements = ["long_axis", "short_axis"]

[baseline]
digests = ["BASELINE"]

[[allowed]]
id = "M1"
updates_max = 500
mode = "automatic"
scope = "global"

[allowed.change]
kind = "threshold"
label = "disk"
tier = "reported"
min = 0.4
max = 0.8
step_max = 0.2
baseline = 0.7
cumulative_max = 0.2

[[criterion]]
id = "C1"
modifications = ["M1"]
set_sha256 = "ACCEPTANCE_SET"
label = "disk"
metric = "sensitivity"
tier = "flagged"
positive_min = 4
negative_min = 4
estimate_min = 0.9
interval = { level = 0.95, method = "wilson", lower_min = 0.3 }

[[criterion]]
id = "C2"
modifications = ["M1"]
set_sha256 = "ACCEPTANCE_SET"
label = "disk"
metric = "specificity"
tier = "flagged"
positive_min = 4
negative_min = 4
estimate_min = 0.9
interval = { level = 0.95, method = "bootstrap", lower_min = 0.5, resamples = 200, seed = 7 }
non_inferior = { to = "current", margin = 0.1 }

[equivalence]
golden_min = 1
score_max = 0.01
box_max_px = 1
flips_max = 0

[evidence]
sbom = true

[impact]
reference = "IA-1"
sha256 = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

[labelling]
version = "1"
ifu_sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
notice = "For tests."
acknowledge = false

[rollback]
keep = 2

[site]
shadow_hours = 0
canary_cases = 0
approvals = APPROVALS
"#;
