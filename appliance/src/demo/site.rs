//! The demo's site: an authority, a certificate for everybody, and the site file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use lightbox_bootstrap::identity::DeviceIdentity;
use lightbox_models::acceptance::seal::Recipient;
use lightbox_provisioning::pki::Authority;
use time::OffsetDateTime;

use super::Parts;
use super::vendor::{Added, DemoVendor, Duties};
use crate::dicom::tls::{self, Known, OwnIdentity};
use crate::update;

/// AE titles of the demo's site.
pub mod ae {
    /// The box.
    pub const BOX: &str = "LIGHTBOX";
    /// Sends the studies.
    pub const MODALITY: &str = "DEMO-MODALITY";
    /// Receives the SRs.
    pub const PACS: &str = "DEMO-PACS";
}

/// Who is who in the demo: common names of the certificates, and names of their files.
pub mod party {
    /// The box.
    pub const BOX: &str = "lightbox.demo";
    /// Sends the studies.
    pub const MODALITY: &str = "modality.demo";
    /// Receives the SRs.
    pub const PACS: &str = "pacs.demo";
    /// Receives the HL7 messages.
    pub const RIS: &str = "ris.demo";
    /// Opens the administration page.
    pub const OPERATOR: &str = "operator.demo";
}

/// Password of the operator's `.p12` file: browsers want one, and it protects nothing else.
pub const P12_PASSWORD: &str = "lightbox";

/// The phantom detector, so that the demo has something exact to show wherever it runs.
const PHANTOM_BUNDLE: &[(&str, &[u8])] = &[
    ("manifest.toml", include_bytes!("../../../models/reference/phantom-detector/bundle/manifest.toml")),
    ("model.onnx", include_bytes!("../../../models/reference/phantom-detector/bundle/model.onnx")),
    ("card.md", include_bytes!("../../../models/reference/phantom-detector/bundle/card.md")),
    ("sbom.json", include_bytes!("../../../models/reference/phantom-detector/bundle/sbom.json")),
    ("LICENSE", include_bytes!("../../../models/reference/phantom-detector/bundle/LICENSE")),
    (
        "golden-disks.dcm",
        include_bytes!("../../../models/reference/phantom-detector/bundle/golden-disks.dcm"),
    ),
    (
        "golden-disks.json",
        include_bytes!("../../../models/reference/phantom-detector/bundle/golden-disks.json"),
    ),
];

/// The demo's site on disk.
#[derive(Clone, Debug)]
pub struct DemoSite {
    folder: PathBuf,
    /// The operator's certificate and key for a browser, if `openssl` is there to make it.
    pub p12: Option<PathBuf>,
}

impl DemoSite {
    /// Makes authority and certificates in `folder`.
    pub fn make(folder: &Path, now: OffsetDateTime) -> anyhow::Result<DemoSite> {
        let tls = folder.join("tls");
        fs::create_dir_all(&tls).with_context(|| format!("making {}", tls.display()))?;
        let authority = Authority::new("Lightbox demo site CA", now)?;
        write(&tls.join("site-ca.crt"), authority.certificate_pem.as_bytes())?;
        for party in [party::BOX, party::MODALITY, party::PACS, party::RIS, party::OPERATOR] {
            let identity = authority.issue(party, &[party, "localhost", "127.0.0.1"], now, 30)?;
            write(&tls.join(format!("{party}.crt")), identity.certificate_pem.as_bytes())?;
            write_secret(&tls.join(format!("{party}.key")), identity.key_pem.as_bytes())?;
        }
        let mut site = DemoSite { folder: folder.to_owned(), p12: None };
        site.p12 = site.browser_file();
        Ok(site)
    }

    /// The operator's certificate as PKCS #12; `None` without `openssl`, as nothing depends on it.
    fn browser_file(&self) -> Option<PathBuf> {
        let path = self.folder.join("tls").join(format!("{}.p12", party::OPERATOR));
        let made = std::process::Command::new("openssl")
            .args(["pkcs12", "-export", "-passout", &format!("pass:{P12_PASSWORD}")])
            .args(["-name", "Lightbox demo operator"])
            .arg("-in")
            .arg(self.certificate(party::OPERATOR))
            .arg("-inkey")
            .arg(self.key(party::OPERATOR))
            .arg("-certfile")
            .arg(self.authority())
            .arg("-out")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        made.is_ok_and(|status| status.success()).then_some(path)
    }

    /// The authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("tls/site-ca.crt")
    }

    /// A party's certificate.
    pub fn certificate(&self, party: &str) -> PathBuf {
        self.folder.join("tls").join(format!("{party}.crt"))
    }

    /// The key of a party's certificate.
    pub fn key(&self, party: &str) -> PathBuf {
        self.folder.join("tls").join(format!("{party}.key"))
    }

    fn identity(&self, party: &str) -> anyhow::Result<OwnIdentity> {
        Ok(OwnIdentity::load(&self.certificate(party), &self.key(party))?)
    }

    /// TLS for a peer that the box connects to: it takes the box's certificate and no other.
    pub fn server(&self, party: &str) -> anyhow::Result<std::sync::Arc<rustls::ServerConfig>> {
        let roots = tls::load_authorities([self.authority().as_path()])?;
        let known = vec![("lightbox".to_owned(), Known::Name(party::BOX.into()))];
        let trust = std::sync::Arc::new(tls::Trust::new(known, roots.as_ref())?);
        Ok(trust.server_config(&self.identity(party)?)?)
    }

    /// TLS for a peer that connects to the `server`.
    pub fn client(&self, party: &str, server: &str) -> anyhow::Result<std::sync::Arc<rustls::ClientConfig>> {
        let roots = tls::load_authorities([self.authority().as_path()])?;
        Ok(tls::client_config(Known::Name(server.into()), roots, Some(&self.identity(party)?))?)
    }

    /// Makes the demonstration vendor, who signs the bundles and their plans for the box with this data folder.
    pub fn sign_models(&self, data_dir: &Path, parts: &Parts, now: OffsetDateTime) -> anyhow::Result<Models> {
        let bundle = self.folder.join("bundles/phantom-detector");
        fs::create_dir_all(&bundle).with_context(|| format!("making {}", bundle.display()))?;
        for (name, bytes) in PHANTOM_BUNDLE {
            write(&bundle.join(name), bytes)?;
        }
        fs::create_dir_all(data_dir).with_context(|| format!("making {}", data_dir.display()))?;
        let identity = DeviceIdentity::open_or_create(&data_dir.join("device.key"))?;
        let recipient = Recipient::of(&update::acceptance_secret(&identity))?;
        let vendor = DemoVendor::make(&self.folder.join("vendor"), now)?;
        let add = |folder: &Path| vendor.add(folder, &Duties::default(), &recipient, now);
        Ok(Models {
            phantom: add(&bundle)?,
            brain_tumour: parts.brain_tumour.as_deref().map(add).transpose()?,
        })
    }

    /// Writes the site file.
    pub fn write_site_file(
        &self,
        data_dir: &Path,
        parts: &Parts,
        models: &Models,
        peers: &Peers,
    ) -> anyhow::Result<PathBuf> {
        let path = self.folder.join("site.toml");
        write(&path, self.site_file(data_dir, parts, models, peers).as_bytes())?;
        Ok(path)
    }

    fn site_file(&self, data_dir: &Path, parts: &Parts, models: &Models, peers: &Peers) -> String {
        let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
        let (ae_box, ae_modality, ae_pacs) = (ae::BOX, ae::MODALITY, ae::PACS);
        let (box_name, modality, pacs, ris, operator) =
            (party::BOX, party::MODALITY, party::PACS, party::RIS, party::OPERATOR);
        let mut text = format!(
            r#"# Made by `lightbox demo`. The certificates live for 30 days; the next demo makes new ones.

[appliance]
name = "LIGHTBOX-DEMO"
ae_title = "{ae_box}"
institution = "Lightbox demo"
data_dir = {data_dir}
udi_di = "{udi_di}"

[appliance.tls]
certificate = "tls/{box_name}.crt"
key = "tls/{box_name}.key"
authorities = ["tls/site-ca.crt"]

# Port 0: any free port. The daemon says which when it is ready.
[dicom]
listen = "127.0.0.1:0"

[admin]
listen = "127.0.0.1:0"

[timers]
quiet_seconds = 2

[infer]
onnxruntime = {onnxruntime}
threads = 2

[deliver]
retry_first_seconds = 1

[[peer]]
name = "modality"
ae_title = "{ae_modality}"
certificate = {{ name = "{modality}" }}
may = ["send"]

[[peer]]
name = "pacs"
ae_title = "{ae_pacs}"
address = "{pacs_address}"
certificate = {{ name = "{pacs}" }}
may = ["receive"]

[[operator]]
name = "operator"
certificate = {{ name = "{operator}" }}
role = "operator"

# Signed by the demonstration vendor, whose keys lie in vendor/keys. Its bundles and plans say of themselves
# that they are not for clinical use, and so does every result.
[updates]
root = "vendor/repository/metadata/1.root.json"
repository = "vendor/repository"
check_minutes = 60

[[model]]
name = "phantom"
target = "{phantom_target}"
plan = "{phantom_plan}"

[[destination]]
name = "pacs"
dicom = {{ peer = "pacs" }}

[[destination]]
name = "ris"
[destination.hl7]
address = "{ris_address}"
tls = true
certificate = {{ name = "{ris}" }}
receiving_application = "RIS"
receiving_facility = "DEMO"
sending_facility = "DEMO"
assigning_authority = "DEMO"

[[rule]]
name = "phantoms"
match = {{ body_part = "PHANTOM", modality = ["CT", "DX", "CR"] }}
models = ["phantom"]
deliver = ["pacs", "ris"]
"#,
            data_dir = quoted(data_dir),
            onnxruntime = quoted(&parts.onnxruntime),
            pacs_address = peers.pacs,
            ris_address = peers.ris,
            udi_di = models.phantom.manifest.device.udi_di.first().map_or("", String::as_str),
            phantom_target = models.phantom.target,
            phantom_plan = models.phantom.plan,
        );
        if let Some(model) = &models.brain_tumour {
            text.push_str(&format!(
                r#"
[[model]]
name = "brain-tumour"
target = "{}"
plan = "{}"

[[rule]]
name = "MR of the head"
match = {{ modality = "MR", body_part = ["HEAD", "BRAIN"] }}
models = ["brain-tumour"]
# Not to the RIS: the sample is anonymised and has no patient ID, without which no HL7 message can be.
deliver = ["pacs"]
"#,
                model.target, model.plan
            ));
        }
        text.push_str("\n# What no rule names is kept and shown, with the reason.\n");
        text
    }
}

/// What the demonstration vendor has signed.
#[derive(Clone, Debug)]
pub struct Models {
    /// The phantom detector.
    pub phantom: Added,
    /// The brain tumour model, if it is here.
    pub brain_tumour: Option<Added>,
}

/// Where the box sends to.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Host and port of the PACS.
    pub pacs: String,
    /// Host and port of the RIS.
    pub ris: String,
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// Writes a file that only its owner may read, from its first byte on.
fn write_secret(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let wrap = || format!("writing {}", path.display());
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).with_context(wrap)?;
    file.write_all(bytes).with_context(wrap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_ms;

    #[test]
    fn the_site_file_passes_the_check_that_the_daemon_makes() {
        let temp = tempfile::tempdir().unwrap();
        // Real time: the check would refuse certificates of another year only at the handshake.
        let site = DemoSite::make(temp.path(), from_ms(1_790_000_000_000)).unwrap();
        let parts = Parts { onnxruntime: temp.path().join("site.toml"), samples: None, brain_tumour: None };
        let peers = Peers { pacs: "127.0.0.1:1104".into(), ris: "127.0.0.1:2575".into() };
        let data_dir = temp.path().join("da\"ta");
        let phantom = site.sign_models(&data_dir, &parts, from_ms(1_790_000_000_000)).unwrap().phantom;
        // Two, as where the brain tumour model is here.
        let tumour = Added { target: "vendors/lightbox-demo/tumour".into(), ..phantom.clone() };
        let models = Models { phantom, brain_tumour: Some(tumour) };
        let file = site.write_site_file(&data_dir, &parts, &models, &peers).unwrap();
        let loaded = lightbox_provisioning::site::Site::load(&file).unwrap();
        assert_eq!((loaded.file.rule.len(), loaded.file.model.len()), (2, 2));
        assert!(crate::config::Config::load(loaded).is_ok());
        site.server(party::PACS).unwrap();
        site.client(party::MODALITY, party::BOX).unwrap();
    }
}
