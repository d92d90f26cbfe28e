//! What the box says of itself: fetched over the administration page, verified elsewhere. What a real box says,
//! `image-test` shows.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lightbox_tests::command::{Said, lightbox, run};
use lightbox_tests::peers::curl::Browser;
use lightbox_tests::{Daemon, Hospital, Identity, Site};

struct Scene {
    hospital: Hospital,
    daemon: Daemon,
    viewer: Identity,
}

impl Scene {
    fn start() -> Self {
        let hospital = Hospital::new();
        let viewer = hospital.issue("viewer");
        let site = Site::new(&hospital).operator("Vera Viewer", "viewer", &viewer);
        let daemon = Daemon::start(&site);
        Scene { hospital, daemon, viewer }
    }

    fn save(&self, path: &str, name: &str) -> PathBuf {
        let page = Browser::new(&self.hospital, self.daemon.admin, Some(&self.viewer)).get(path);
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        let file = self.hospital.folder().join(name);
        fs::write(&file, page.body).expect("saved");
        file
    }

    fn verify(&self, report: &PathBuf, key: &PathBuf, more: &[&str]) -> Said {
        let mut command = Command::new(lightbox());
        command.args(["inspect", "verify"]).arg(report).arg("--public-key").arg(key).args(more);
        run(&mut command)
    }
}

#[test]
fn a_report_is_genuine_for_its_nonce_and_its_device_only() {
    let scene = Scene::start();
    let key = scene.save("/system/device.pub", "device.pub");
    let report = scene.save("/system/report?nonce=first-1", "report.json");

    let said = scene.verify(&report, &key, &["--nonce", "first-1", "--json"]);
    // This machine is no box, and the daemon looked by itself: genuine, but not all is good.
    assert_eq!(said.code, Some(3), "{}", said.all());
    let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    let verdict = |name: &str| {
        let checks = json["checks"].as_array().expect("checks");
        checks.iter().find(|one| one["name"] == name).expect("the check")["verdict"].clone()
    };
    assert_eq!(verdict("collected"), "unknown");
    assert_ne!(verdict("secure boot"), "good");
    let listens = &json["report"]["daemon"]["listens"];
    assert_eq!(listens["admin"], scene.daemon.admin.to_string());
    assert_eq!(listens["dicom"], scene.daemon.dicom.to_string());
    let listeners = json["report"]["facts"]["listeners"].as_array().expect("listeners");
    let port = u64::from(scene.daemon.dicom.port());
    assert!(listeners.iter().any(|one| one["port"] == port), "{listeners:?}");
    assert!(json["report"]["daemon"]["audit"]["sequence"].as_i64().expect("a number") > 0);

    let said = scene.verify(&report, &key, &["--nonce", "second"]);
    assert_eq!(said.code, Some(1), "{}", said.all());
    assert!(said.err.contains("not the answer to nonce second"), "{}", said.err);

    let other = Scene::start();
    let others_key = other.save("/system/device.pub", "device.pub");
    let said = scene.verify(&report, &others_key, &[]);
    assert!(said.code == Some(1) && said.err.contains("signature does not fit"), "{}", said.all());

    let text = fs::read_to_string(&report).expect("read");
    let at = text.find("\"payload\": \"").expect("the payload") + 200;
    let changed = if &text[at..=at] == "A" { "B" } else { "A" };
    let altered = scene.hospital.folder().join("altered.json");
    fs::write(&altered, format!("{}{changed}{}", &text[..at], &text[at + 1..])).expect("written");
    let said = scene.verify(&altered, &key, &[]);
    assert!(said.code == Some(1) && said.err.contains("signature does not fit"), "{}", said.all());
}

#[test]
fn the_audit_log_comes_over_the_page_and_verifies_elsewhere() {
    let scene = Scene::start();
    let key = scene.save("/system/device.pub", "device.pub");
    let log = scene.save("/system/audit.jsonl", "audit.jsonl");
    let verify = |log: &PathBuf| {
        let mut command = Command::new(lightbox());
        run(command.args(["audit", "verify-file"]).arg(log).arg("--public-key").arg(&key).arg("--json"))
    };
    let said = verify(&log);
    assert_eq!(said.code, Some(0), "{}", said.all());
    let records = scene.daemon.ledger().number("SELECT count(*) FROM audit");
    assert!(records > 1 && said.out.contains(&records.to_string()), "{records}: {}", said.out);

    let text = fs::read_to_string(&log).expect("read");
    assert!(text.contains("export-audit"), "the export itself is on record");
    let half = scene.hospital.folder().join("half.jsonl");
    fs::write(&half, &text[..=text[..text.len() / 2].rfind('\n').expect("lines")]).expect("written");
    let said = verify(&half);
    assert_eq!(said.code, Some(3), "half a log is no whole one: {}", said.all());
}

#[test]
fn two_reports_say_what_changed_and_the_page_shows_what_is() {
    let scene = Scene::start();
    let key = scene.save("/system/device.pub", "device.pub");
    let before = scene.save("/system/report", "before.json");
    let after = scene.save("/system/report", "after.json");
    let said = scene.verify(&after, &key, &["--against", before.to_str().expect("text")]);
    assert_eq!(said.code, Some(3), "{}", said.all());
    // Other tests' programs come and go on this machine; the box is the same.
    assert!(
        !said.out.contains("Changed: device") && !said.out.contains("Changed: site file"),
        "{}",
        said.out
    );
    let none = "0".repeat(64);
    let said = scene.verify(&after, &key, &["--register", &format!("11={none}")]);
    assert_eq!(said.code, Some(3), "{}", said.all());

    let browser = Browser::new(&scene.hospital, scene.daemon.admin, Some(&scene.viewer));
    let page = browser.get("/system/inspection");
    assert_eq!(page.status, 200);
    for word in ["Signed report", "secure boot", "Units that run", &scene.daemon.dicom.port().to_string()] {
        assert!(page.body.contains(word), "{word}: {}", page.body);
    }
    assert_eq!(browser.get("/system/report?nonce=a%20b").status, 400);
    // Another site's page would have the operator's browser ask, again and again.
    for path in ["/system/report", "/system/audit.jsonl"] {
        let answer = browser.fetch(path, &["--header", "Sec-Fetch-Site: cross-site"]);
        assert_eq!(answer.status, 403, "{}", answer.body);
        assert!(answer.body.contains("another site"), "{}", answer.body);
    }
    let stranger = Browser::new(&scene.hospital, scene.daemon.admin, None);
    assert_eq!(stranger.get("/system/report").status, 0, "nobody without a certificate gets a report");

    let audited = scene.daemon.ledger().texts("SELECT detail FROM audit WHERE event = 'operator-action'");
    assert_eq!(audited.iter().filter(|one| one.contains("\"report\"")).count(), 2, "{audited:?}");
}
