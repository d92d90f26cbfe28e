//! The PHI canary: patients' data that are markers go through everything that can happen to them, and then
//! no marker is in the log (at its finest level), the metrics, file names, the audit log and its export, the
//! refusals, or what the command line says where it is not meant to show patients.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use lightbox_tests::canary::Canaries;
use lightbox_tests::command::{program, python, run, run_lightbox};
use lightbox_tests::ledger::Ledger;
use lightbox_tests::peers::curl::Browser;
use lightbox_tests::peers::mllp::{Behaviour, MllpReceiver};
use lightbox_tests::peers::order_sender::{OrderSender, orm};
use lightbox_tests::peers::qr::OddPacs;
use lightbox_tests::peers::raw::{self, CT, EXPLICIT, VERIFICATION};
use lightbox_tests::peers::refusing::{Refusal, RefusingScp};
use lightbox_tests::peers::scu::Scu;
use lightbox_tests::peers::storescp::Storescp;
use lightbox_tests::peers::{port, tls_client};
use lightbox_tests::samples::{sample, sop_uid};
use lightbox_tests::{Daemon, Identity, Line};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const NAME: &str = "Quetzalcoatl";
const PATIENT_ID: &str = "CANARYID8431";
const BIRTH_DATE: &str = "18930417";
/// So long that the prefix that the site asks for does not fit before it.
const ACCESSION: &str = "CANARYACC7717";
const DESCRIPTION: &str = "Xochipilli";
const SERIES_DESCRIPTION: &str = "Huitzilopochtli";
const STATION: &str = "CANARYSTATION";
const REFERRER: &str = "Tezcatlipoca";
const PASSCODE: &str = "Coatlicue sesame";
/// In every UID.
const UID: &str = "1.2.826.0.1.3680043.10.999.7717717";
/// What peers say when they refuse: a patient's name, as PACS do.
const ECHO: &str = "no patient Quetzalcoatl (CANARYID8431)";
const LEVEL: &str = "trace";

fn canaries() -> Canaries {
    let mut canaries = Canaries::default();
    for marker in [
        NAME,
        PATIENT_ID,
        BIRTH_DATE,
        ACCESSION,
        DESCRIPTION,
        SERIES_DESCRIPTION,
        STATION,
        REFERRER,
        PASSCODE,
        UID,
    ] {
        canaries.add(marker);
    }
    canaries
}

struct Scene {
    line: Line,
    orders: OrderSender,
    viewer: Identity,
    /// The log of the daemons before this one.
    log: String,
    said: String,
    _peers: (RefusingScp, Storescp, OddPacs, MllpReceiver),
}

fn scene() -> Scene {
    let strict = MllpReceiver::start(Behaviour::Answer("AE", ECHO));
    let mut peers = None;
    let mut people = None;
    let line = Line::start_with(|hospital, site| {
        let (orders, viewer) = people.insert((OrderSender::new(hospital), hospital.issue("viewer")));
        let refusing = RefusingScp::start(hospital, "refusing", Refusal::Status(0xA900, ECHO));
        let archive = Storescp::start(hospital, "archive");
        let odd = OddPacs::start(hospital, "echo");
        let site = site
            .timers_line("settle_seconds = 1\ncount_at = \"odd\"")
            .dicom_line("artim_seconds = 2")
            .receiver("refusing", "REFUSING", refusing.port, &refusing.identity)
            .receiver("archive", &archive.ae_title(), archive.port, &archive.identity)
            .receiver("odd", "ODD", odd.port, &odd.identity)
            .hl7("ris-strict", strict.port, "")
            .with_address("CT1", port::reserve())
            .sender_with(
                "ct-user",
                "CTUSER",
                &hospital.issue("ct-user"),
                &format!("user_identity = {{ username = \"scanner\", passcode_sha256 = \"{}\" }}", "0".repeat(64)),
            )
            .operator("Vera", "viewer", viewer)
            .orders("ris-orders", &orders.identity, "")
            .text("[[rule]]\nname = \"on\"\nforward = [\"archive\"]\nset = { accession_number_prefix = \"PREFIX-\" }");
        peers = Some((refusing, archive, odd));
        Line::rules_to(site, &["pacs", "refusing", "ris", "ris-strict"])
    });
    let (orders, viewer) = people.expect("issued");
    let (refusing, archive, odd) = peers.expect("started");
    let mut scene = Scene {
        line,
        orders,
        viewer,
        log: String::new(),
        said: String::new(),
        _peers: (refusing, archive, odd, strict),
    };
    scene.restart();
    scene
}

/// An image of a study with markers wherever a patient's data can stand.
#[track_caller]
fn image(scene: &Scene, study: u32, number: u32, name: &str) -> PathBuf {
    let file = scene.line.hospital.folder().join(format!("{study}-{number}.dcm"));
    fs::copy(sample("CT_small.dcm"), &file).expect("copied");
    let uid = format!("{UID}.{study}");
    let set = [
        ("PatientName", format!("{name}^Canary")),
        ("PatientID", PATIENT_ID.into()),
        ("PatientBirthDate", BIRTH_DATE.into()),
        ("AccessionNumber", ACCESSION.into()),
        ("StudyDescription", DESCRIPTION.into()),
        ("SeriesDescription", SERIES_DESCRIPTION.into()),
        ("StationName", STATION.into()),
        ("ReferringPhysicianName", REFERRER.into()),
        ("StudyInstanceUID", uid.clone()),
        ("SeriesInstanceUID", format!("{uid}.1")),
        ("SOPInstanceUID", format!("{uid}.1.{number}")),
    ];
    let mut command = Command::new(program("dcmodify"));
    command.arg("-nb").arg("-imt");
    for (keyword, value) in set {
        command.arg("-i").arg(format!("{keyword}={value}"));
    }
    run(command.arg(&file)).ok("marking an image");
    file
}

impl Scene {
    /// kill -9, and another daemon at the finest level of logging.
    fn restart(&mut self) {
        self.line.daemon.kill();
        thread::sleep(Duration::from_millis(100));
        self.log += &self.line.daemon.log();
        self.line.daemon = Daemon::start_logging(&self.line.site, LEVEL);
    }

    /// Runs a verb that shows no patient, and keeps what it says.
    #[track_caller]
    fn verb(&mut self, words: &[&str]) -> String {
        let site = self.line.site.path.display().to_string();
        let said = run_lightbox(&[words, &["--site", &site]].concat());
        let _ = write!(self.said, "$ {words:?}\n{}", said.all());
        said.all()
    }

    /// Studies that are delivered, refused by peers, not coerced, and whose daemon is killed meanwhile.
    fn studies(&mut self) {
        let images: Vec<PathBuf> = (1..=2).map(|number| image(self, 1, number, NAME)).collect();
        self.line.send_and_wait(&images);
        let images: Vec<PathBuf> = (1..=3).map(|number| image(self, 2, number, NAME)).collect();
        self.line.modality.deliver(self.line.daemon.dicom, &[], &images);
        self.restart();
        self.line.wait_until_indexed(&images);
        self.line.wait_until_quiet();
        // The same SOP instance with another content.
        let other = image(self, 1, 1, "Other");
        drop(self.line.modality.send(self.line.daemon.dicom, &[], &[other]));
        self.line.wait_until_quiet();
        let ledger = self.line.daemon.ledger();
        for (destination, state) in
            [("pacs", "delivered"), ("ris", "delivered"), ("refusing", "dead"), ("ris-strict", "dead")]
        {
            assert!(!ledger.deliveries_in(destination, state).is_empty(), "{}", ledger.summary());
        }
        let dead = ledger.texts("SELECT coalesce(last_reason, '') FROM forwards WHERE state = 'dead'");
        assert!(dead.iter().any(|reason| reason.contains("accession_number_prefix")), "{dead:?}");
    }

    /// Requests that are refused or aborted.
    fn refusals(&self) {
        let to = self.line.daemon.dicom;
        let identity = self.line.modality.identity();
        let instance = format!("{UID}.9.9");
        let study = format!("{UID}.9");
        let named = raw::element(0x10, 0x10, b"PN", NAME.as_bytes());
        let whole = raw::identifiers(&study, &instance);
        let unidentified = [
            raw::element(8, 0x16, b"UI", &raw::even(CT)),
            raw::element(8, 0x18, b"UI", &raw::even(&instance)),
            named,
        ]
        .concat();
        let wrong_class = raw::command(&[
            raw::command_element(2, &raw::even(VERIFICATION)),
            raw::command_element(0x100, &1_u16.to_le_bytes()),
            raw::command_element(0x110, &1_u16.to_le_bytes()),
            raw::command_element(0x800, &0_u16.to_le_bytes()),
            raw::command_element(0x1000, &raw::even(&instance)),
        ]);
        let cases = [
            raw::c_store_of(&instance, &unidentified),
            raw::c_store_of(&instance, &raw::identifiers(&study, &format!("{UID}.9.8"))),
            raw::c_store_of(NAME, &whole),
            vec![raw::p_data(3, 3, &wrong_class), raw::p_data(3, 2, &whole)],
            // Aborted: a command that is none, and fragments where none may be.
            vec![raw::p_data(3, 3, PATIENT_ID.as_bytes())],
            vec![raw::p_data(3, 2, &whole)],
            vec![raw::pdu(0x77, NAME.as_bytes())],
        ];
        for pdus in cases {
            let contexts = [(1, VERIFICATION, EXPLICIT), (3, CT, EXPLICIT)];
            let request = raw::associate_rq_with("CT1", &contexts);
            let (mut stream, _) =
                raw::associate_with(to, &self.line.hospital, identity, &request).expect("an association");
            for pdu in pdus {
                stream.write_all(&pdu).and_then(|()| stream.flush()).expect("sent");
            }
            let answer = raw::read(&mut stream).expect("an answer");
            assert!(answer.0 == 7 || raw::status(&answer) != Some(0), "it was taken");
        }
        // A passcode that is wrong.
        let ct_user = Identity {
            certificate: self.line.hospital.folder().join("pki/ct-user.crt"),
            key: self.line.hospital.folder().join("pki/ct-user.key"),
            sha256: String::new(),
        };
        let identity =
            json!({ "type": 2, "primary": "scanner", "secondary": PASSCODE, "positive_response": true });
        let scu = Scu::new(&self.line.hospital, "CTUSER", &ct_user).with("identity", identity);
        assert_eq!(scu.ask(to).rejected().as_deref(), Some("1/1/1"));
    }

    /// Orders that are taken, refused, and no messages at all.
    fn orders(&self) {
        let to = self.line.daemon.orders.expect("an HL7 port");
        let marked = |control: &str, study: &str| {
            orm(control, study, "S", Some((1, 2)))
                .replace("4711", PATIENT_ID)
                .replace("DOE^JANE", &format!("{NAME}^CANARY||{BIRTH_DATE}|F"))
                .replace(&format!("ACC{control}"), ACCESSION)
        };
        let good = marked("C1", &format!("{UID}.1"));
        let messages = [
            good.clone(),
            marked("C2", NAME),
            good.replace("C1", "C3").replace("PID|", "ZID|"),
            good.replace("C1", "C4").replace("ORM^O01", NAME),
            good.replace("C1", "C5").replace("|P|2.3.1", &format!("|P|{PATIENT_ID}")),
            good.replace("C1", "C6").replace("||||1|2", &format!("||||{NAME}|{NAME}")),
            good.replace("C1", "C7").replace("ORC|NW", &format!("ORC|{NAME}")),
            format!("{NAME}|{PATIENT_ID}\r"),
        ];
        let acks = self.orders.send(to, &messages[..7]);
        assert_eq!(acks[0].code, "AA", "{acks:?}");
        assert!(acks.iter().filter(|ack| ack.code != "AA").count() >= 3, "{acks:?}");
        // No HL7 at all.
        for text in [&messages[7], NAME] {
            let identity = &self.orders.identity;
            let mut stream =
                tls_client::connect(to, &self.line.hospital.ca(), &identity.certificate, &identity.key)
                    .expect("TLS");
            let framed = [b"\x0b", text.as_bytes(), b"\x1c\r"].concat();
            stream.write_all(&framed).and_then(|()| stream.flush()).expect("sent");
            drop(tls_client::listen(stream));
        }
    }

    /// Procedure steps, availability and commitment.
    fn announcements(&self) {
        let identity = self.line.modality.identity();
        let own = [&identity.certificate, &identity.key, &self.line.hospital.ca()];
        let (study, instance) = (format!("{UID}.1"), format!("{UID}.1.1.1"));
        let reference = json!({ "ReferencedSOPClassUID": CT, "ReferencedSOPInstanceUID": instance,
            "InstanceAvailability": "ONLINE", "RetrieveAETitle": "PACS" });
        let series = json!([{ "SeriesInstanceUID": format!("{study}.1"), "ReferencedSOPSequence": [reference],
            "ReferencedImageSequence": [reference] }]);
        let begun = json!({
            "PerformedProcedureStepID": "P1", "PerformedStationAETitle": "CT1", "Modality": "CT",
            "PerformedProcedureStepStartDate": "20260101", "PerformedProcedureStepStartTime": "120000",
            "PerformedProcedureStepStatus": "IN PROGRESS", "PatientName": NAME, "PatientID": PATIENT_ID,
            "ScheduledStepAttributesSequence": [{ "StudyInstanceUID": study, "AccessionNumber": ACCESSION }],
        });
        let step = format!("{UID}.7");
        let steps = json!([
            ["set-step", format!("{UID}.8"), { "PerformedProcedureStepStatus": "COMPLETED" }],
            ["create-step", step, begun],
            ["create-step", step, begun],
            ["set-step", step, { "PerformedProcedureStepStatus": NAME.to_uppercase() }],
            ["set-step", step,
                { "PerformedProcedureStepStatus": "COMPLETED", "PerformedSeriesSequence": series }],
            ["announce", format!("{UID}.6"), { "StudyInstanceUID": study, "ReferencedSeriesSequence": series,
                "ReferencedPerformedProcedureStepSequence": [] }],
            ["announce", format!("{UID}.5"), { "StudyInstanceUID": study }],
        ]);
        let mut child = python("announcer.py")
            .arg(self.line.daemon.dicom.to_string())
            .args(own)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        child.stdin.take().expect("piped").write_all(steps.to_string().as_bytes()).expect("written");
        let told = child.wait_with_output().expect("it ends").stdout;
        let answers: Value = serde_json::from_slice(&told).expect("JSON");
        let failed = |answer: &&Value| answer["status"] != 0;
        assert_eq!(answers.as_array().expect("a list").iter().filter(failed).count(), 4, "{answers}");
        let unknown = format!("{UID}.99");
        run(python("commitment_scu.py")
            .arg(self.line.daemon.dicom.to_string())
            .args(own)
            .args(["stay", "0", CT, &instance, CT, &unknown]))
        .ok("asking for commitment");
    }

    /// What people do with the box.
    fn people(&mut self) {
        let browser = Browser::new(&self.line.hospital, self.line.daemon.admin, Some(&self.viewer));
        let key = self.line.daemon.ledger().texts("SELECT key FROM studies ORDER BY id").remove(0);
        let page = browser.get(&format!("/studies/{key}")).body;
        assert!(
            page.contains(NAME) || page.contains(PATIENT_ID),
            "an operator does not see whose study it is"
        );
        for path in ["/", "/studies", "/queue", "/peers", "/healthz", "/readyz"] {
            assert_eq!(browser.get(path).status, 200, "{path}");
        }
        for path in
            [format!("/studies/{NAME}"), format!("/queue/{NAME}/replay"), format!("/{UID}?name={NAME}")]
        {
            assert_ne!(browser.get(&path).status, 200, "{path}");
        }
        let site = self.line.site.path.display().to_string();
        run_lightbox(&["studies", "show", &key, "--site", &site]).ok("studies show");
        let asked = format!("StudyInstanceUID={UID}.1");
        let refused = run_lightbox(&["query", "--site", &site, "--peer", "odd", "find", &asked]);
        assert_ne!(refused.code, Some(0));
        for words in [
            &["studies", "list"][..],
            &["studies", "list", "--json"],
            &["peers"],
            &["peers", "--json"],
            &["rules", "history"],
            &["commitments"],
            &["audit", "verify"],
            &["audit", "export"],
            &["queue", "replay", "--all-dead"],
        ] {
            let said = self.verb(words);
            assert!(!said.is_empty(), "{words:?} says nothing");
        }
        self.line.wait_until_quiet();
        // The queue shows what peers have said, and says so; nothing else of a patient.
        let queue = run_lightbox(&["queue", "--site", &site, "list"]).ok("queue list").out;
        assert!(queue.contains(ECHO), "an operator does not see why: {queue}");
        self.said += &queue.replace(ECHO, "");
    }

    /// Certificates that cannot be read, full of names; and again ones that can.
    fn reload(&self) {
        let own = self.line.hospital.folder().join("pki/lightbox.crt");
        let good = fs::read(&own).expect("read");
        let seen = |ledger: &Ledger| ledger.audit("certificates-reloaded").len();
        for bad in
            [NAME.to_owned(), format!("-----BEGIN CERTIFICATE-----\n{NAME}\n-----END CERTIFICATE-----\n")]
        {
            let before = seen(&self.line.daemon.ledger());
            fs::write(&own, bad).expect("written");
            kill(Pid::from_raw(self.line.daemon.pid() as i32), Signal::SIGHUP).expect("it runs");
            self.line
                .daemon
                .wait_for("the record of the reload", 20, |ledger| (seen(ledger) > before).then_some(()));
        }
        fs::write(&own, good).expect("written");
    }

    fn places(&self) -> Vec<(&'static str, String)> {
        let ledger = self.line.daemon.ledger();
        let browser = Browser::new(&self.line.hospital, self.line.daemon.admin, Some(&self.viewer));
        let column = |sql: &str| ledger.texts(sql).join("\n");
        let names = run(Command::new("find").arg(&self.line.site.data_dir)).ok("find").out;
        vec![
            ("the log", format!("{}{}", self.log, self.line.daemon.log())),
            ("the metrics", browser.get("/metrics").body),
            ("file names", names),
            ("the audit log", column("SELECT subject || ' ' || outcome || ' ' || detail FROM audit")),
            (
                "the refusals",
                column(
                    "SELECT peer || ' ' || calling_ae || ' ' || address || ' ' || code || ' ' || reason || ' ' || remedy FROM refusals",
                ),
            ),
            ("jobs' errors", column("SELECT coalesce(error, '') FROM jobs")),
            ("what verbs said", self.said.clone()),
        ]
    }
}

fn ledger_bytes(data_dir: &Path) -> String {
    let read = |name: &str| fs::read(data_dir.join(name)).unwrap_or_default();
    let bytes = [read("ledger.db"), read("ledger.db-wal")].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn no_marker_leaves_by_a_log_a_metric_a_name_or_an_error() {
    let mut scene = scene();
    let canaries = canaries();
    scene.orders();
    scene.studies();
    scene.refusals();
    scene.orders();
    scene.announcements();
    scene.people();
    scene.reload();
    scene.line.wait_until_quiet();

    let places = scene.places();
    let mut leaks = String::new();
    for (place, text) in &places {
        assert!(text.len() > 100 || *place == "jobs' errors", "there is hardly anything in {place}: {text}");
        for leak in canaries.found(text) {
            let _ = writeln!(leaks, "{place}: {leak}");
        }
    }
    assert!(leaks.is_empty(), "{leaks}");
    let log = &places[0].1;
    assert!(log.contains("\"TRACE\""), "the log is not at its finest level");

    // The search would have found them: where they must be, it does, and one more line in a log is enough.
    let held = ledger_bytes(&scene.line.site.data_dir);
    let absent = canaries.missing(&held);
    // No column is for these: they stay in the images, or are compared and forgotten.
    assert_eq!(absent, [REFERRER, PASSCODE], "not in the ledger, so they were not on their way");
    assert!(
        !canaries.found(&scene.line.ris.texts().concat()).is_empty(),
        "the RIS did not hear of the patient"
    );
    for planted in [
        format!("{log}\n{{\"level\":\"INFO\",\"reason\":\"no {NAME}\"}}"),
        format!("{log}\nGET /studies/{}", sop_uid(&image(&scene, 1, 1, NAME))),
    ] {
        assert_eq!(canaries.found(&planted).len(), 1);
    }
}
