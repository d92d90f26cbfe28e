//! A site with a real ledger in a temporary folder, filled as the daemon fills it: for the tests of
//! what people see and do.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lightbox_bootstrap::identity::DeviceIdentity;
use lightbox_provisioning::pki;
use lightbox_provisioning::site::Site;
use rusqlite::params;

use super::entry::{self, Entry};
use super::index::{self, Stored};
use super::ledger::Ledger;
use super::objects::{Config, Digest, Objects, Receipt};
use crate::clock::{Clock, ManualClock};
use crate::deliver::fixture;
use crate::dicom::header;
use crate::finding::ModelResult;
use crate::ingest::completion::policy::Policy;
use crate::ingest::completion::{self, Closed};
use crate::ingest::rules::RuleSet;
use crate::phi::Phi;

/// 2026-01-02 12:11:12Z.
pub const START_MS: i64 = 1_767_355_872_000;
/// The study that [`instance`] makes.
pub const STUDY_UID: &str = "1.2.826.0.1.3680043.2.1125.7";
/// A study description that tries to become part of the page.
pub const HOSTILE: &str = "<script>alert(1)</script>";

/// The site and its ledger.
pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub site: Arc<Site>,
    pub identity: Arc<DeviceIdentity>,
    pub clock: Arc<ManualClock>,
    pub ledger: Ledger,
    pub objects: Objects,
}

impl Fixture {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp dir");
        let site = Arc::new(write_site(folder.path()));
        let data = &site.file.appliance.data_dir;
        std::fs::create_dir_all(data).expect("made");
        let identity = Arc::new(DeviceIdentity::open_or_create(&data.join("device.key")).expect("key"));
        let clock = Arc::new(ManualClock::at_ms(START_MS));
        let ledger = Ledger::open(data, identity.clone(), clock.clone()).expect("opened");
        let sizes = Config { reserve_bytes: 0, segment_bytes: 1 << 20, segments: 1 };
        let objects = Objects::open(data, sizes).expect("opened").objects;
        Fixture { folder, site, identity, clock, ledger, objects }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.site.file.appliance.data_dir.clone()
    }

    /// The key of [`STUDY_UID`].
    pub fn key(&self) -> String {
        entry::study_key(&self.identity, STUDY_UID)
    }

    /// Receives an instance, as the listener does after its bytes are on disk.
    pub fn receive(&self, series: u32, number: u32, body_part: &str, bytes: &[u8]) -> Stored {
        let data_set = instance(None, series, number, body_part, bytes);
        let receipt = Receipt {
            sop_class_uid: fixture::image(series, number, 1).sop_class_uid,
            sop_instance_uid: Phi::new(format!("{STUDY_UID}.{series}.{number}")),
            transfer_syntax: "1.2.840.10008.1.2.1".into(),
            calling_ae: "CT1".into(),
            called_ae: "LIGHTBOX".into(),
            peer: "ct-1".into(),
            received_ms: self.clock.now_ms(),
        };
        let (header, damage) =
            header::scan(Cursor::new(&data_set), data_set.len() as u64, &receipt.transfer_syntax);
        let digest = Digest::of(&receipt.transfer_syntax, &data_set);
        let size = data_set.len() as u64;
        let new =
            Entry::new(&digest, receipt, size, &header, damage.as_ref(), &self.identity).expect("identified");
        self.ledger.write_blocking(move |writer| index::insert(writer, &new)).expect("inserted")
    }

    /// Receives many studies in one transaction: `series` series of `images` images each, every other
    /// study of the phantom's body part.
    pub fn receive_studies(&self, studies: u32, series: u32, images: u32) {
        let mut all = Vec::new();
        for study in 1..=studies {
            let body_part = if study % 2 == 0 { "PHANTOM" } else { "CHEST" };
            for (series, number) in (1..=series).flat_map(|one| (1..=images).map(move |image| (one, image))) {
                all.push(self.indexed(study, series, number, body_part));
            }
        }
        self.ledger
            .write_blocking(move |writer| all.iter().try_for_each(|new| index::insert(writer, new).map(drop)))
            .expect("inserted");
    }

    fn indexed(&self, study: u32, series: u32, number: u32, body_part: &str) -> Entry {
        let data_set = instance(Some(study), series, number, body_part, b"pixels");
        let receipt = Receipt {
            sop_class_uid: fixture::image(series, number, 1).sop_class_uid,
            sop_instance_uid: Phi::new(format!("{STUDY_UID}.{series}.{number}.{study}")),
            transfer_syntax: "1.2.840.10008.1.2.1".into(),
            calling_ae: "CT1".into(),
            called_ae: "LIGHTBOX".into(),
            peer: "ct-1".into(),
            received_ms: self.clock.now_ms(),
        };
        let length = data_set.len() as u64;
        let (header, damage) = header::scan(Cursor::new(&data_set), length, &receipt.transfer_syntax);
        let digest = Digest::of(&receipt.transfer_syntax, &data_set);
        Entry::new(&digest, receipt, length, &header, damage.as_ref(), &self.identity).expect("identified")
    }

    /// Lets the quiet timer run out.
    pub fn close(&self) -> Vec<Closed> {
        self.clock.advance(Duration::from_secs(61));
        let rules = RuleSet::compile(&self.site).expect("rules");
        let policy = Policy::of(&self.site);
        self.ledger
            .write_blocking(move |writer| completion::close_due(writer, &policy, &rules))
            .expect("closed")
    }

    /// The rules of this site with these in the place of its own.
    pub fn rules(&self, rules: &str) -> RuleSet {
        RuleSet::compile(&self.site_with(rules)).expect("rules")
    }

    /// This site with these rules in the place of its own.
    pub fn site_with(&self, rules: &str) -> Site {
        let text = std::fs::read_to_string(&self.site.path).expect("written");
        let (head, _) = text.split_once("[[rule]]").expect("it has rules");
        Site::parse(&self.site.path, &format!("{head}{rules}")).expect("a good site file")
    }

    /// Lets the quiet timer run out under these rules.
    pub fn close_by(&self, rules: &str) -> Vec<Closed> {
        self.clock.advance(Duration::from_secs(61));
        let site = self.site_with(rules);
        let (rules, policy) = (RuleSet::compile(&site).expect("rules"), Policy::of(&site));
        self.ledger
            .write_blocking(move |writer| completion::close_due(writer, &policy, &rules))
            .expect("closed")
    }

    /// A phantom study of two series, closed and routed to `phantom`.
    pub fn routed() -> Self {
        let fixture = Fixture::new();
        for (series, number) in [(1, 1), (1, 2), (2, 1)] {
            assert_eq!(fixture.receive(series, number, "PHANTOM", b"pixels"), Stored::New);
        }
        assert_eq!(fixture.close()[0].models, ["phantom"]);
        fixture
    }

    /// Runs SQL with the ledger's own audit chain untouched.
    pub fn sql(&self, sql: &'static str) {
        self.ledger.write_blocking(move |writer| Ok(writer.tx().execute_batch(sql)?)).expect("done");
    }

    /// The job has run and one destination has it, while the other rejected it.
    pub fn finish_job(&self, outcome: &ModelResult) {
        let outcome = serde_json::to_string(outcome).expect("JSON");
        self.ledger
            .write_blocking(move |writer| {
                writer.tx().execute(
                    "UPDATE jobs SET state = 'done', attempts = 1, finished_at = ?1, model_digest = ?2,
                        timings = '{\"decode\": 12.5, \"run\": 80}', outcome = ?3 WHERE id = 1",
                    params![START_MS + 62_000, "ab".repeat(32), outcome],
                )?;
                Ok(writer.tx().execute_batch(&format!(
                    "INSERT INTO results VALUES (1, 1, 1, 1, 'phantom', '2.25.1', '2.25.2', 'MC1', 'aa.dcm', '{{}}',
                        '{{}}', {made});
                     INSERT INTO deliveries (id, result_id, destination, state, attempts, queued_at, next_at, last_at,
                        delivered_at) VALUES (1, 1, 'pacs', 'delivered', 1, {made}, {made}, {made}, {made});
                     INSERT INTO deliveries (id, result_id, destination, state, attempts, queued_at, next_at, last_at,
                        last_reason) VALUES (2, 1, 'ris', 'dead', 3, {made}, {made}, {made},
                        'AE: <b>unknown patient</b> DOE');
                     UPDATE studies SET state = 'done';",
                    made = START_MS + 63_000,
                ))?)
            })
            .expect("done");
    }

    /// A study with everything on it: done, delivered to one destination, dead at the other.
    pub fn complete() -> Self {
        let fixture = Fixture::routed();
        fixture.finish_job(&crate::deliver::fixture::detection().result);
        fixture
    }
}

fn element(group: u16, number: u16, vr: &[u8; 2], value: &[u8], out: &mut Vec<u8>) {
    let mut value = value.to_vec();
    if !value.len().is_multiple_of(2) {
        value.push(if vr == b"UI" { 0 } else { b' ' });
    }
    out.extend(group.to_le_bytes());
    out.extend(number.to_le_bytes());
    out.extend(vr);
    if vr == b"OW" {
        out.extend([0, 0]);
        out.extend((value.len() as u32).to_le_bytes());
    } else {
        out.extend((value.len() as u16).to_le_bytes());
    }
    out.extend(value);
}

/// A data set of Explicit VR Little Endian, of [`STUDY_UID`] or of another study.
fn instance(study: Option<u32>, series: u32, number: u32, body_part: &str, pixels: &[u8]) -> Vec<u8> {
    let image = fixture::image(series, number, 1);
    let of_study = |uid: &str| study.map_or_else(|| uid.to_owned(), |study| format!("{uid}.{study}"));
    let mut out = Vec::new();
    element(0x0008, 0x0016, b"UI", image.sop_class_uid.as_bytes(), &mut out);
    element(0x0008, 0x0018, b"UI", of_study(image.sop_instance_uid.expose()).as_bytes(), &mut out);
    element(0x0008, 0x0060, b"CS", b"CT", &mut out);
    element(0x0008, 0x1030, b"LO", HOSTILE.as_bytes(), &mut out);
    element(0x0008, 0x103e, b"LO", format!("Thorax {series}").as_bytes(), &mut out);
    element(0x0010, 0x0010, b"PN", b"DOE^JANE", &mut out);
    element(0x0018, 0x0015, b"CS", body_part.as_bytes(), &mut out);
    element(0x0020, 0x000d, b"UI", of_study(STUDY_UID).as_bytes(), &mut out);
    element(0x0020, 0x000e, b"UI", of_study(image.series_uid.expose()).as_bytes(), &mut out);
    element(0x0020, 0x0013, b"IS", number.to_string().as_bytes(), &mut out);
    element(0x7fe0, 0x0010, b"OW", pixels, &mut out);
    out
}

/// Writes a site with an authority of its own, a viewer `vera`, an operator `olaf`, and a
/// `stranger` whom the site file does not name.
fn write_site(folder: &std::path::Path) -> Site {
    // From the fixture's own time on, and long enough for the real clock that TLS asks.
    let now = crate::clock::from_ms(START_MS);
    let authority = pki::Authority::new("Test CA", now).expect("made");
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("written");
    write("ca.crt", &authority.certificate_pem);
    for name in ["lightbox", "vera", "olaf", "stranger"] {
        let identity = authority.issue(name, &["localhost", "127.0.0.1"], now, 3650).expect("issued");
        write(&format!("{name}.crt"), &identity.certificate_pem);
        write(&format!("{name}.key"), &identity.key_pem);
    }
    let text = r#"
[appliance]
name = "RAD-AI-1"
ae_title = "LIGHTBOX"
data_dir = "data"
udi_di = "09521234543213"
[appliance.tls]
certificate = "lightbox.crt"
key = "lightbox.key"
authorities = ["ca.crt"]
[timers]
quiet_seconds = 60
[[peer]]
name = "pacs"
ae_title = "PACS"
address = "pacs.example.org:2762"
certificate = { sha256 = "AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99" }
may = ["send", "receive"]
[[peer]]
name = "ct-1"
ae_title = "CT1"
certificate = { name = "ct-1.example.org" }
[[operator]]
name = "vera"
certificate = { name = "vera" }
[[operator]]
name = "olaf"
certificate = { name = "olaf" }
role = "operator"
[updates]
root = "root.json"
repository = "repository"
[[model]]
name = "phantom"
target = "vendors/lightbox-demo/phantom"
plan = "plans/phantom.toml"
[[destination]]
name = "pacs"
dicom = { peer = "pacs" }
[[destination]]
name = "ris"
hl7 = { address = "ris.example.org:2575" }
[[rule]]
name = "phantoms"
match = { body_part = "PHANTOM", modality = ["CT", "DX"] }
models = ["phantom"]
deliver = ["pacs", "ris"]
[[rule]]
name = "thin chest"
match = { body_part = "CHEST" }
when = "series.instances > 20"
"#;
    let path = folder.join("site.toml");
    std::fs::write(&path, text).expect("written");
    Site::parse(&path, text).expect("a good site file")
}
