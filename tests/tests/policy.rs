//! Association policy: every refusal by its numbers on the wire, and shown with its remedy by
//! `lightbox peers` and on the administration page.

use std::time::{Duration, Instant};

use lightbox_tests::command::run_lightbox;
use lightbox_tests::peers::curl::Browser;
use lightbox_tests::peers::scu::{Answer, CT, EXPLICIT, IMPLICIT, MR, Scu, VERIFICATION, paths};
use lightbox_tests::samples::sample;
use lightbox_tests::{Daemon, Hospital, Site};
use serde_json::{Value, json};

/// SHA-256 of "open sesame".
const PASSCODE: &str = "open sesame";
const PASSCODE_SHA256: &str = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";

/// A daemon with one peer, `ct-1` (AE CT1), and an operator who looks.
struct Scene {
    site: Site,
    daemon: Daemon,
    browser: Browser,
    ct: Scu,
    /// Its folder goes last.
    _hospital: Hospital,
}

/// `more` are further keys of the peer.
fn scene_with(more: &str, change: impl FnOnce(Site) -> Site) -> Scene {
    let hospital = Hospital::new();
    let identity = hospital.issue("ct1");
    let viewer = hospital.issue("viewer");
    let site =
        Site::new(&hospital).sender_with("ct-1", "CT1", &identity, more).operator("Vera", "viewer", &viewer);
    let site = change(site);
    let daemon = Daemon::start(&site);
    let browser = Browser::new(&hospital, daemon.admin, Some(&viewer));
    let ct = Scu::new(&hospital, "CT1", &identity);
    Scene { site, daemon, browser, ct, _hospital: hospital }
}

fn scene(more: &str) -> Scene {
    scene_with(more, |site| site)
}

impl Scene {
    /// Asks with a changed request and expects that rejection, and that it is shown with `reason` and
    /// `remedy` wherever people look.
    #[track_caller]
    fn rejected(&self, scu: &Scu, code: &str, reason: &str, remedy: &str) {
        let answer = scu.ask(self.daemon.dicom);
        assert_eq!(answer.rejected().as_deref(), Some(code), "{answer:?}");
        self.shown(code, reason, remedy);
    }

    #[track_caller]
    fn shown(&self, code: &str, reason: &str, remedy: &str) {
        let site = self.site.path.display().to_string();
        let said = run_lightbox(&["peers", "--site", &site, "--json"]).ok("lightbox peers");
        let peers: Value = serde_json::from_str(&said.out).expect("JSON");
        let last = &peers["peers"][0]["refusals"][0];
        assert_eq!(last["code"], code, "{peers:#}");
        for (key, told) in [("reason", reason), ("remedy", remedy)] {
            assert!(last[key].as_str().unwrap_or_default().contains(told), "{key} {told}: {last:#}");
        }
        let text = run_lightbox(&["peers", "--site", &site]).ok("lightbox peers").out;
        let page = self.browser.get("/peers").body;
        for told in [reason, remedy, code] {
            assert!(text.contains(told), "{told} in\n{text}");
            assert!(page.contains(&told.replace('"', "&quot;")), "{told} in\n{page}");
        }
        let records = self.daemon.ledger().audit("association-refused");
        let record = records.last().expect("an audit record");
        assert_eq!(record.subject, "ct-1", "{record:?}");
        assert_eq!(record.detail["code"], code, "{record:?}");
    }

    #[track_caller]
    fn accepted(&self, scu: &Scu) -> Answer {
        let answer = scu.ask(self.daemon.dicom);
        assert!(answer.established(), "{answer:?}");
        answer
    }
}

#[test]
fn names_that_do_not_fit_the_certificate_are_rejected_and_further_names_let_in() {
    let scene = scene("more_ae_titles = [\"CT1_B\"]");
    scene.rejected(&scene.ct.with("calling", "CT2".into()), "1/1/3", "calling AE \"CT2\"", "more_ae_titles");
    scene.rejected(
        &scene.ct.with("called", "SOMEBODY".into()),
        "1/1/7",
        "called AE \"SOMEBODY\"",
        "LIGHTBOX",
    );
    scene.accepted(&scene.ct);
    scene.accepted(&scene.ct.with("calling", "CT1_B".into()));
}

#[test]
fn a_peer_from_another_network_is_rejected() {
    let scene = scene("networks = [\"10.1.0.0/16\", \"fd00::/8\"]");
    scene.rejected(&scene.ct, "1/1/3", "may not call from 127.0.0.1, only from 10.1.0.0/16", "`networks`");
    let scene = crate::scene("networks = [\"127.0.0.0/8\"]");
    scene.accepted(&scene.ct);
}

#[test]
fn contexts_of_other_sop_classes_are_refused_by_their_result() {
    let scene = scene("sop_classes = [\"mr\", \"1.2.840.10008.5.1.4.1.1.1\"]");
    let contexts = json!([[CT, [EXPLICIT]], [MR, [EXPLICIT]], [VERIFICATION, [IMPLICIT]]]);
    let answer = scene.accepted(&scene.ct.with("contexts", contexts));
    assert_eq!(answer.context(CT), Some((3, String::new())), "{answer:?}");
    assert_eq!(answer.context(MR), Some((0, EXPLICIT.into())));
    assert_eq!(answer.context(VERIFICATION), Some((0, IMPLICIT.into())));
    // Some of it was usable: that is no refusal.
    assert!(scene.daemon.ledger().audit("association-refused").is_empty());
    let answer = scene.ct.with("contexts", json!([[CT, [EXPLICIT]]])).ask(scene.daemon.dicom);
    assert_eq!(answer.context(CT), Some((3, String::new())), "accepted, its context refused: {answer:?}");
    assert_eq!(answer.rejected(), None);
    scene.shown("context 3", "not among the `sop_classes`", "add the SOP classes to `sop_classes`");
}

#[test]
fn one_association_more_than_a_peer_may_have_is_a_local_limit() {
    let scene = scene("max_associations = 1");
    let held = scene.ct.hold(scene.daemon.dicom);
    assert!(held.answer.established());
    scene.rejected(&scene.ct, "2/3/2", "\"ct-1\" has 1 associations open", "`max_associations` of [[peer]]");
    assert!(scene.browser.get("/peers").body.contains("1 open of 1"));
    assert_eq!(held.end(), Some(0), "the one that was open has suffered");
    scene.daemon.wait_for("its place to be free", 10, |_| {
        scene.ct.ask(scene.daemon.dicom).established().then_some(())
    });
}

#[test]
fn one_association_more_than_there_are_places_is_a_local_limit() {
    let scene = scene_with("", |site| site.dicom_line("max_associations = 1"));
    let held = scene.ct.hold(scene.daemon.dicom);
    scene.rejected(&scene.ct, "2/3/2", "1 associations are open", "dicom.max_associations");
    assert_eq!(held.end(), Some(0));
}

#[test]
fn a_filling_disk_is_temporary_congestion() {
    let scene = scene_with("", |mut site| {
        site.congestion_mib = 1 << 30;
        site
    });
    scene.rejected(&scene.ct, "2/3/1", "store.congestion_mib", "make room");
}

fn identity(kind: u8, primary: &str, secondary: Option<&str>) -> Value {
    let mut identity = json!({ "type": kind, "primary": primary, "positive_response": true });
    if let Some(secondary) = secondary {
        identity["secondary"] = secondary.into();
    }
    identity
}

#[test]
fn a_user_identity_that_the_site_wants_must_be_right() {
    let wanted =
        format!("user_identity = {{ username = \"scanner\", passcode_sha256 = \"{PASSCODE_SHA256}\" }}");
    let scene = scene(&wanted);
    let with = |value| scene.ct.with("identity", value);
    scene.rejected(&scene.ct, "1/1/1", "sent no user identity", "set username and passcode");
    let wrong = "another username or passcode";
    scene.rejected(&with(identity(2, "scanner", Some("open says me"))), "1/1/1", wrong, "`user_identity`");
    scene.rejected(&with(identity(2, "Scanner", Some(PASSCODE))), "1/1/1", wrong, "`user_identity`");
    scene.rejected(&with(identity(1, "scanner", None)), "1/1/1", wrong, "`user_identity`");
    scene.rejected(
        &with(identity(4, "<saml/>", None)),
        "1/1/1",
        "type that is not supported",
        "types 1 and 2",
    );
    let answer = scene.accepted(&with(identity(2, "scanner", Some(PASSCODE))));
    assert_eq!(answer.told["identity_confirmed"], true, "no positive response: {answer:?}");
    let mut quiet = identity(2, "scanner", Some(PASSCODE));
    quiet["positive_response"] = false.into();
    let answer = scene.accepted(&with(quiet));
    assert_eq!(answer.told["identity_confirmed"], false, "{answer:?}");
    let log = scene.daemon.log();
    assert!(!log.contains(PASSCODE) && !log.contains("says me"), "a passcode is in the log:\n{log}");
}

#[test]
fn a_passcode_may_stand_in_a_file_and_where_none_is_wanted_any_identity_is_ignored() {
    let hospital = Hospital::new();
    std::fs::write(hospital.folder().join("passcode"), format!("{PASSCODE}\n")).expect("written");
    let (first, second) = (hospital.issue("ct1"), hospital.issue("ct2"));
    let site = Site::new(&hospital)
        .sender_with(
            "ct-1",
            "CT1",
            &first,
            "user_identity = { username = \"u\", passcode_file = \"passcode\" }",
        )
        .sender("ct-2", "CT2", &second);
    let daemon = Daemon::start(&site);
    let with = |scu: Scu, value| scu.with("identity", value).ask(daemon.dicom);
    let ct1 = || Scu::new(&hospital, "CT1", &first);
    assert!(with(ct1(), identity(2, "u", Some(PASSCODE))).established());
    assert_eq!(with(ct1(), identity(2, "u", Some("x"))).rejected().as_deref(), Some("1/1/1"));
    for kind in 1..=5 {
        let secondary = (kind == 2).then_some("whatever");
        let answer = with(Scu::new(&hospital, "CT2", &second), identity(kind, "anybody", secondary));
        assert!(answer.established(), "type {kind}: {answer:?}");
        assert_eq!(answer.told["identity_confirmed"], false, "nothing was checked: {answer:?}");
    }
}

#[test]
fn odd_requests_are_answered_as_the_standard_says() {
    let scene = scene("max_pdu_bytes = 20000");
    let unknown = scene.ct.with("contexts", json!([["1.2.840.10008.5.1.4.1.2.2.9", [IMPLICIT]]]));
    let answer = unknown.ask(scene.daemon.dicom);
    assert_eq!(
        (answer.rejected(), answer.context("1.2.840.10008.5.1.4.1.2.2.9")),
        (None, Some((3, String::new())))
    );
    scene.shown("context 3", "none of the 1 proposed presentation contexts", "CONFORMANCE.md");
    let syntax = scene.ct.with("contexts", json!([[CT, ["1.2.3.4"]]])).ask(scene.daemon.dicom);
    assert_eq!(syntax.context(CT), Some((4, String::new())), "{syntax:?}");

    let many: Vec<Value> =
        (0..128).map(|index| json!([format!("1.3.6.1.4.1.999.{index}"), [EXPLICIT]])).collect();
    let answer = scene.accepted(&scene.ct.with("contexts", many.into()));
    let contexts = answer.told["contexts"].as_array().expect("contexts");
    assert_eq!(contexts.iter().filter(|context| context[2] == 0).count(), 128);

    // Window and roles are answered; what is not negotiated is not, which means the default (PS3.7 D.3.3.5, D.3.3.6).
    let odd = scene
        .ct
        .with("max_pdu", 0.into())
        .with("async_window", json!([5, 7]))
        .with("roles", json!([CT]))
        .with("extended", json!([CT]))
        .with("send", paths(&[sample("CT_small.dcm")]));
    let answer = scene.accepted(&odd);
    assert_eq!(answer.statuses(), [0], "{answer:?}");
    let told: Vec<&str> =
        answer.told["answered"].as_array().expect("items").iter().filter_map(Value::as_str).collect();
    assert_eq!(
        told,
        [
            "AsynchronousOperationsWindowNegotiation",
            "ImplementationClassUIDNotification",
            "ImplementationVersionNameNotification",
            "MaximumLengthNotification",
            "SCP_SCU_RoleSelectionNegotiation"
        ]
    );
    assert_eq!(answer.told["max_pdu"], 20_000, "the peer's own limit was not announced");
    assert_eq!(answer.told["async_window"], json!([5, 1]));
    let unlimited = scene.accepted(&scene.ct.with("async_window", json!([0, 0])));
    assert_eq!(unlimited.told["async_window"], json!([8, 1]), "no more than dicom.operations_at_once");
    assert_eq!(scene.accepted(&scene.ct).told["async_window"], Value::Null, "nobody has asked for it");
    assert_eq!(scene.daemon.ledger().number("SELECT count(*) FROM instances"), 1);
}

#[test]
fn we_choose_transfer_syntaxes_in_the_sites_order_and_else_in_the_senders() {
    let scene = scene(&format!("transfer_syntaxes = [\"{EXPLICIT}\"]"));
    let jpeg = "1.2.840.10008.1.2.4.50";
    let proposed = json!([[CT, [IMPLICIT, EXPLICIT]], [MR, [jpeg, IMPLICIT]]]);
    let answer = scene.accepted(&scene.ct.with("contexts", proposed));
    assert_eq!(answer.context(CT), Some((0, EXPLICIT.into())));
    assert_eq!(answer.context(MR), Some((0, jpeg.into())));
}

#[test]
fn a_throttled_peer_is_read_no_faster_than_the_site_says() {
    let scene = scene("throttle_mib_per_second = 1");
    let files = vec![sample("CT_small.dcm"); 60];
    let bytes = std::fs::metadata(&files[0]).expect("there").len() * 60;
    let begun = Instant::now();
    let answer = scene.accepted(&scene.ct.with("send", paths(&files)));
    assert_eq!(answer.statuses(), vec![0; 60]);
    // Less the quarter of a second with which the bucket begins.
    let least = Duration::from_secs_f64(bytes as f64 / f64::from(1 << 20) - 0.5);
    assert!(begun.elapsed() > least, "{bytes} bytes in {:?}", begun.elapsed());
}

#[test]
fn what_the_site_file_says_wrongly_of_a_peer_is_named_with_its_remedy() {
    let hospital = Hospital::new();
    let identity = hospital.issue("ct1");
    let site = Site::new(&hospital).sender_with(
        "ct-1",
        "CT1",
        &identity,
        "networks = [\"10.1.2.3/16\"]\nsop_classes = [\"scan\"]\nmax_associations = 0\nmore_ae_titles = [\"A\\\\B\"]\nuser_identity = { username = \"u\", passcode_file = \"missing\", passcode_sha256 = \"12\" }",
    );
    site.write();
    let said = run_lightbox(&["site", "check", &site.path.display().to_string()]);
    assert_eq!(said.code, Some(78), "{}", said.all());
    for key in [
        "networks[0]",
        "sop_classes[0]",
        "max_associations",
        "more_ae_titles[0]",
        "passcode_file",
        "passcode_sha256",
    ] {
        assert!(
            said.all().contains(&format!("].{key}:")) || said.all().contains(&format!(".{key}:")),
            "{key}: {}",
            said.all()
        );
    }
}
