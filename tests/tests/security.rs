//! Who may open an association: each refusal by the right means, and in the audit log.

use std::time::Duration;

use lightbox_tests::peers::storescu::Storescu;
use lightbox_tests::peers::tls_client::{alert, connect, listen, openssl};
use lightbox_tests::samples::sample;
use lightbox_tests::{Daemon, Hospital, Line, Site};

/// A hospital with one modality, CT1, which is known by its pinned certificate.
struct Scene {
    hospital: Hospital,
    modality: Storescu,
    daemon: Daemon,
}

fn scene() -> Scene {
    let hospital = Hospital::new();
    let modality = Storescu::new(&hospital, "CT1");
    let daemon = Daemon::start(&Site::new(&hospital).sender("ct-1", "CT1", modality.identity()));
    Scene { hospital, modality, daemon }
}

impl Scene {
    /// Waits for the audit record of the one refusal that the test has caused; nothing was accepted.
    #[track_caller]
    fn one_refusal_is_audited(&self) {
        let refused = self.daemon.wait_for("an audit record of the refusal", 10, |ledger| {
            ledger.audit("association-refused").into_iter().next()
        });
        assert_ne!(refused.outcome, "success", "{refused:?}");
        let ledger = self.daemon.ledger();
        assert_eq!(ledger.audit("association-accepted").len(), 0, "an association was accepted");
        assert_eq!(ledger.number("SELECT count(*) FROM instances"), 0, "an instance was stored");
        assert_eq!(ledger.number("SELECT count(*) FROM refusals WHERE remedy <> '' AND reason <> ''"), 1);
    }
}

#[test]
fn a_known_certificate_is_let_in() {
    let scene = scene();
    scene.modality.deliver(scene.daemon.dicom, &[], &[sample("CT_small.dcm")]);
    let accepted = scene
        .daemon
        .wait_for("its audit record", 10, |ledger| ledger.audit("association-accepted").into_iter().next());
    assert_eq!(accepted.outcome, "success");
    assert_eq!(scene.daemon.ledger().audit("association-refused").len(), 0);
}

#[test]
fn no_client_certificate_is_refused_by_an_alert_tls_1_2() {
    let scene = scene();
    let said = openssl(scene.daemon.dicom, &["-tls1_2"], None);
    assert!(matches!(alert(&said), Some(40 | 116)), "no alert that a certificate is wanted:\n{}", said.all());
    scene.one_refusal_is_audited();
}

#[test]
fn no_client_certificate_is_refused_by_an_alert_tls_1_3() {
    let scene = scene();
    let said = openssl(scene.daemon.dicom, &["-tls1_3"], None);
    assert_eq!(alert(&said), Some(116), "no alert certificate_required:\n{}", said.all());
    scene.one_refusal_is_audited();
}

#[test]
fn a_dicom_sender_without_certificate_gets_no_association() {
    let mut scene = scene();
    scene.modality.identity = None;
    let sent = scene.modality.send(scene.daemon.dicom, &[], &[sample("CT_small.dcm")]);
    assert_ne!(sent.said.code, Some(0), "{}", sent.said.all());
    assert!(sent.acknowledged.is_empty());
    scene.one_refusal_is_audited();
}

#[test]
fn a_certificate_of_another_authority_is_refused_by_an_alert() {
    let scene = scene();
    let stranger = scene.hospital.issued_elsewhere("stranger");
    for version in ["-tls1_2", "-tls1_3"] {
        let said = openssl(scene.daemon.dicom, &[version], Some(&stranger));
        let found = alert(&said);
        assert!(matches!(found, Some(42 | 43 | 46 | 48)), "{version}: {found:?}\n{}", said.all());
    }
    let records = scene.daemon.wait_for("both refusals' audit records", 10, |ledger| {
        let records = ledger.audit("association-refused");
        (records.len() == 2).then_some(records)
    });
    assert!(records.iter().all(|record| record.outcome != "success"), "{records:?}");
}

#[test]
fn a_certificate_of_our_authority_that_no_peer_has_gets_no_association() {
    let mut scene = scene();
    scene.modality.identity = Some(scene.hospital.issue("visitor"));
    let sent = scene.modality.send(scene.daemon.dicom, &[], &[sample("CT_small.dcm")]);
    assert!(sent.acknowledged.is_empty(), "{}", sent.said.all());
    scene.one_refusal_is_audited();
}

#[test]
fn tls_1_1_is_refused_by_an_alert() {
    let scene = scene();
    let offer = ["-tls1_1", "-cipher", "ALL@SECLEVEL=0"];
    let said = openssl(scene.daemon.dicom, &offer, Some(scene.modality.identity()));
    // protocol_version, or handshake_failure (rustls looks first for what only TLS 1.2 offers). A client
    // that refused itself would have got no alert at all.
    assert!(matches!(alert(&said), Some(70 | 40)), "{}", said.all());
    scene.one_refusal_is_audited();
}

#[test]
fn another_ae_title_than_the_certificates_own_is_rejected() {
    let mut scene = scene();
    scene.modality.ae_title = "CT2".into();
    let sent = scene.modality.send(scene.daemon.dicom, &[], &[sample("CT_small.dcm")]);
    assert!(sent.said.all().contains("Calling AE Title Not Recognized"), "{}", sent.said.all());
    assert!(sent.said.all().contains("Rejected Permanent"), "{}", sent.said.all());
    scene.one_refusal_is_audited();
}

#[test]
fn a_wrong_called_ae_title_is_rejected() {
    let mut scene = scene();
    scene.modality.called = "SOMEBODY".into();
    let sent = scene.modality.send(scene.daemon.dicom, &[], &[sample("CT_small.dcm")]);
    assert!(sent.said.all().contains("Called AE Title Not Recognized"), "{}", sent.said.all());
    scene.one_refusal_is_audited();
}

#[test]
fn a_peer_known_by_name_needs_that_name_and_our_authority() {
    let hospital = Hospital::new();
    let mut modality = Storescu::new(&hospital, "CT1");
    let site = Site::new(&hospital).sender_by_name("ct-1", "CT1", "ct1");
    let daemon = Daemon::start(&site);
    let file = [sample("CT_small.dcm")];
    modality.deliver(daemon.dicom, &[], &file);
    modality.identity = Some(hospital.issue("ct7"));
    assert!(modality.send(daemon.dicom, &[], &file).acknowledged.is_empty(), "another name was let in");
    modality.identity = Some(hospital.issued_elsewhere("ct1-elsewhere"));
    assert!(modality.send(daemon.dicom, &[], &file).acknowledged.is_empty(), "another authority was let in");
    daemon.wait_for("two refusals", 10, |ledger| {
        (ledger.audit("association-refused").len() == 2).then_some(())
    });
}

#[test]
fn pinned_certificates_of_the_kinds_that_pacs_have_work() {
    let hospital = Hospital::new();
    let kinds = [
        ("self-signed", hospital.self_signed("self-signed", false)),
        ("ca-marked", hospital.self_signed("ca-marked", true)),
        ("version-1", hospital.self_signed_version_1("version-1")),
    ];
    let mut site = Site::new(&hospital);
    for (name, identity) in &kinds {
        site = site.sender(name, &name.to_uppercase(), identity);
    }
    let daemon = Daemon::start(&site);
    let mut wrong = Vec::new();
    for (name, identity) in kinds {
        let sender = Storescu::with(&hospital, &name.to_uppercase(), identity);
        let sent = sender.send(daemon.dicom, &[], &[sample("CT_small.dcm")]);
        if sent.acknowledged.is_empty() {
            wrong.push(format!("{name}: {}", sent.said.all()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_pinned_certificate_without_its_key_is_refused() {
    let scene = scene();
    let thief = scene.hospital.issue("thief");
    let (pinned, ca) = (scene.modality.identity(), scene.hospital.ca());
    let with = |key| connect(scene.daemon.dicom, &ca, &pinned.certificate, key).and_then(listen);
    // With the right key the daemon waits for an A-ASSOCIATE-RQ: the client itself is sound.
    assert_eq!(with(&pinned.key).expect("the right key is let in"), None);
    let refused = with(&thief.key).expect_err("a signature of another key was taken");
    assert!(refused.to_string().contains("alert"), "not by an alert: {refused}");
    std::thread::sleep(Duration::from_millis(200));
    let records = scene.daemon.ledger().audit("association-refused");
    assert!(!records.is_empty(), "no audit record of the refusal");
}

#[test]
fn strangers_who_say_nothing_do_not_shut_out_a_peer() {
    let line = Line::start_with(|_, site| {
        let site = site
            .dicom_line("max_associations = 2\nplaintext_listen = \"127.0.0.1:0\"\nallow_plaintext = true");
        Line::usual_rules(site)
    });
    let plaintext = line.daemon.plaintext.expect("a plaintext port");
    let silent: Vec<_> = (0..100)
        .map(|index| if index % 2 == 0 { line.daemon.dicom } else { plaintext })
        .map(|to| std::net::TcpStream::connect(to).expect("connected"))
        .collect();
    line.modality.deliver(line.daemon.dicom, &[], &[sample("CT_small.dcm")]);
    drop(silent);
}
