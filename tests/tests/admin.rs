//! The administration page: who may see it, who may act on it, and what never leaves by it or by logs.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use lightbox_tests::command::{program, run};
use lightbox_tests::peers::curl::Browser;
use lightbox_tests::peers::mllp::{Behaviour, MllpReceiver};
use lightbox_tests::peers::proxy;
use lightbox_tests::peers::tls_client::{alert, openssl};
use lightbox_tests::samples::{copy_as, files_below, sample, text_of};
use lightbox_tests::{Identity, Line};

/// A line with a viewer and an operator, and a RIS that takes nothing.
struct Scene {
    line: Line,
    ris: MllpReceiver,
    viewer: Identity,
    operator: Identity,
}

fn scene() -> Scene {
    let ris = MllpReceiver::start(Behaviour::Answer("AE", "Unknown patient"));
    let mut people = None;
    let line = Line::start_with(|hospital, site| {
        let (viewer, operator) =
            people.insert((hospital.issue("viewer"), hospital.self_signed("operator", false)));
        let site = site
            .operator("Vera Viewer", "viewer", viewer)
            .operator("Olga Operator", "operator", operator)
            .hl7("ris-strict", ris.port, "");
        Line::rules_to(site, &["pacs", "ris-strict"])
    });
    let (viewer, operator) = people.expect("issued");
    Scene { line, ris, viewer, operator }
}

impl Scene {
    fn browser(&self, identity: Option<&Identity>) -> Browser {
        Browser::new(&self.line.hospital, self.line.daemon.admin, identity)
    }

    /// Sends one study under this patient's name; its ORU ends among the dead letters. Yields its id.
    #[track_caller]
    fn dead_letter(&self, patient: &str) -> i64 {
        let image = copy_as(&sample("CT_small.dcm"), &self.line.hospital.folder().join("image.dcm"), true);
        let change = ["-nb", "-m", &format!("PatientName={patient}"), "-m", "PatientID=CANARY-ID-8431"]
            .map(str::to_owned);
        run(Command::new(program("dcmodify")).args(change).arg(&image)).ok("naming the patient");
        self.line.send_and_wait(&[image]);
        let dead = self.line.daemon.ledger().deliveries_in("ris-strict", "dead");
        assert_eq!(dead.len(), 1, "{}", self.line.daemon.ledger().summary());
        dead[0].id
    }
}

/// An attribute of an HTML tag, given from its name on.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    rest.split('"').next().map(str::to_owned)
}

/// The first form of the page that asks for a replay: its target, and the fields that a browser would
/// send with it, hidden ones included.
fn replay_form(page: &str) -> Option<(String, String)> {
    page.split("<form").skip(1).find_map(|form| {
        let form = form.split("</form").next()?;
        let target = attribute(form, "action").filter(|target| target.contains("replay"))?;
        let fields = form.split("<input").skip(1).filter_map(|input| {
            let tag = input.split('>').next()?;
            Some(format!("{}={}", attribute(tag, "name")?, attribute(tag, "value")?))
        });
        Some((target, fields.collect::<Vec<_>>().join("&")))
    })
}

#[test]
fn nobody_without_a_known_client_certificate_sees_the_page() {
    let scene = scene();
    let page = scene.browser(None).get("/");
    assert_eq!(page.status, 0, "an answer without a client certificate: {page:?}");
    let said = openssl(scene.line.daemon.admin, &["-tls1_3"], None);
    assert_eq!(alert(&said), Some(116), "{}", said.all());
    for stranger in [scene.line.hospital.issue("stranger"), scene.line.hospital.issued_elsewhere("elsewhere")]
    {
        let page = scene.browser(Some(&stranger)).get("/");
        assert!(matches!(page.status, 0 | 401 | 403), "a stranger sees the page: {page:?}");
        assert!(!page.body.contains("RAD-AI-1"), "{page:?}");
    }
    for known in [&scene.viewer, &scene.operator] {
        let page = scene.browser(Some(known)).get("/");
        assert_eq!(page.status, 200, "{page:?}");
        assert!(page.body.contains("RAD-AI-1"), "{}", page.body);
    }
}

#[test]
fn a_viewer_sees_and_an_operator_acts() {
    let scene = scene();
    let id = scene.dead_letter("VIEWED^PATIENT");
    let operator = scene.browser(Some(&scene.operator));
    let viewer = scene.browser(Some(&scene.viewer));
    let mut pages = vec!["/".to_owned()];
    let home = operator.get("/").body;
    pages.extend(
        home.split("href=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .filter(|link| link.starts_with('/'))
            .map(str::to_owned),
    );
    let (target, form) = pages
        .iter()
        .find_map(|page| replay_form(&operator.get(page).body))
        .unwrap_or_else(|| panic!("no page of {pages:?} offers an operator a replay"));
    let form = if form.is_empty() { format!("id={id}") } else { form };
    for page in &pages {
        assert_eq!(viewer.get(page).status, 200, "{page}");
        assert_eq!(replay_form(&viewer.get(page).body), None, "{page} offers a viewer a replay");
    }
    let refused = viewer.post(&target, &form);
    assert_eq!(refused.status, 403, "{refused:?}");
    // Not without the page's own form, and not from another site's page.
    let bare = operator.post(&target, &format!("id={id}"));
    assert_eq!(bare.status, 403, "{bare:?}");
    let foreign =
        operator.fetch(&target, &["-X", "POST", "--data", &form, "-H", "Origin: https://evil.example"]);
    assert_eq!(foreign.status, 403, "{foreign:?}");
    assert_eq!(scene.line.daemon.ledger().deliveries_in("ris-strict", "dead").len(), 1);

    scene.ris.behave(Behaviour::Accept);
    let done = operator.post(&target, &form);
    assert!(matches!(done.status, 200 | 204 | 302 | 303), "{done:?}");
    scene.line.daemon.wait_for("the replayed delivery", 20, |ledger| {
        ledger.deliveries_in("ris-strict", "delivered").into_iter().next()
    });
    let acts = scene.line.daemon.ledger().audit("operator-action");
    assert!(acts.iter().any(|act| act.subject.contains("Olga Operator")), "{acts:?}");
}

#[test]
fn health_and_metrics_answer() {
    let scene = scene();
    scene.dead_letter("MEASURED^PATIENT");
    let viewer = scene.browser(Some(&scene.viewer));
    assert_eq!(viewer.get("/healthz").status, 200);
    assert_eq!(viewer.get("/readyz").status, 200);
    let metrics = viewer.get("/metrics");
    assert_eq!(metrics.status, 200);
    let samples: Vec<&str> =
        metrics.body.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert!(samples.len() >= 5, "{}", metrics.body);
    for sample in samples {
        let value = sample.rsplit(' ').next().unwrap_or_default();
        assert!(value.parse::<f64>().is_ok(), "not Prometheus text: {sample}");
    }
}

/// Where a patient's data show in a text.
fn found(text: &str, canaries: &[String]) -> Vec<String> {
    let text = text.to_lowercase();
    canaries.iter().filter(|canary| text.contains(&canary.to_lowercase())).cloned().collect()
}

fn names_below(folder: &Path) -> String {
    let all = run(Command::new("find").arg(folder)).ok("find");
    all.out
}

#[test]
fn no_patient_data_in_logs_metrics_and_file_names() {
    let scene = scene();
    scene.dead_letter("CANARY^QUETZALCOATL");
    let image = scene.line.hospital.folder().join("image.dcm");
    let uid = |tag| text_of(&image, tag);
    let canaries = [
        "QUETZALCOATL".to_owned(),
        "CANARY-ID-8431".to_owned(),
        uid(dicom_dictionary_std::tags::STUDY_INSTANCE_UID),
        uid(dicom_dictionary_std::tags::SERIES_INSTANCE_UID),
        uid(dicom_dictionary_std::tags::SOP_INSTANCE_UID),
        scene.line.daemon.ledger().results()[0].sr_uid.clone(),
    ];
    assert!(canaries.iter().all(|canary| canary.len() > 8), "{canaries:?}");
    // The search finds them where they must be: in the message that the RIS got.
    let message = scene.ris.texts().remove(0);
    assert_eq!(found(&message, &canaries[..2]).len(), 2, "the search would not find a canary: {message}");

    let log = scene.line.daemon.log();
    assert!(log.lines().count() > 5, "there is hardly a log to look through:\n{log}");
    for line in log.lines() {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok(), "not a structured log line: {line}");
    }
    let metrics = scene.browser(Some(&scene.viewer)).get("/metrics").body;
    let names = names_below(&scene.line.site.data_dir);
    assert!(!files_below(&scene.line.site.data_dir.join("studies"), "dcm").is_empty());
    let audit: String =
        scene.line.daemon.ledger().texts("SELECT subject || ' ' || detail FROM audit").join("\n");
    for (place, text) in
        [("the log", &log), ("the metrics", &metrics), ("file names", &names), ("the audit log", &audit)]
    {
        let leaked = found(text, &canaries);
        assert!(leaked.is_empty(), "{place} hold {leaked:?}:\n{text}");
    }
}

#[test]
fn a_browser_renders_the_page() {
    let scene = scene();
    scene.dead_letter("RENDERED^PATIENT");
    let address: SocketAddr = proxy::start(&scene.line.hospital, scene.line.daemon.admin, &scene.operator);
    let picture = scene.line.hospital.folder().join("page.png");
    let chromium = || {
        let mut command = Command::new(program("chromium"));
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1200,1400",
        ]);
        command.arg(format!("--user-data-dir={}", scene.line.hospital.folder().join("chromium").display()));
        command
    };
    let page = format!("http://{address}/");
    let dom = run(chromium().args(["--dump-dom", &page])).ok("chromium").out;
    assert!(dom.contains("RAD-AI-1"), "{dom}");
    assert!(dom.contains("ris-strict"), "the destination with the dead letter is not on the page:\n{dom}");
    run(chromium().arg(format!("--screenshot={}", picture.display())).arg(&page)).ok("chromium");
    let bytes = fs::read(&picture).expect("a screenshot");
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000, "{} bytes", bytes.len());
    if let Some(keep) = std::env::var_os("LIGHTBOX_KEEP_SCREENSHOT") {
        fs::copy(&picture, keep).expect("kept");
    }
}
