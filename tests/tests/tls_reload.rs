//! Certificates, revocation lists and pins that change while associations are open.

use std::fs;
use std::path::Path;

use lightbox_tests::command::{Said, run_lightbox};
use lightbox_tests::peers::curl::Browser;
use lightbox_tests::peers::scu::Scu;
use lightbox_tests::peers::tls_client::{alert, openssl};
use lightbox_tests::{Daemon, Hospital, Identity, Site};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a change may take to be noticed: the files are looked at every 2 seconds, twice.
const SECONDS: u64 = 20;

/// `openssl` says nothing and is hung up on: that need not take the usual 10 seconds.
fn quick(site: Site) -> Site {
    site.dicom_line("artim_seconds = 2")
}

fn install(identity: &Identity, to: &Path) {
    for (from, kind) in [(&identity.certificate, "crt"), (&identity.key, "key")] {
        let (at, new) = (to.with_extension(kind), to.with_extension("new"));
        fs::copy(from, &new).expect("copied");
        fs::rename(new, at).expect("renamed");
    }
}

/// Waits for the record of one more reload; says whether the new files are in use.
#[track_caller]
fn reloaded(daemon: &Daemon, before: usize) -> bool {
    let record = daemon.wait_for("the record of a reload", SECONDS, |ledger| {
        ledger.audit("certificates-reloaded").into_iter().nth(before)
    });
    assert_eq!(record.outcome == "success", record.detail["in_use"] == true, "{record:?}");
    record.outcome == "success"
}

fn shows(said: &Said, identity: &Identity) -> bool {
    let pem = fs::read_to_string(&identity.certificate).expect("a certificate");
    said.out.contains(pem.lines().nth(2).expect("base64"))
}

#[test]
fn a_new_certificate_is_shown_to_new_connections_and_open_associations_go_on() {
    let hospital = Hospital::new();
    let ct1 = hospital.issue("ct1");
    let daemon = Daemon::start(&quick(Site::new(&hospital)).sender("ct-1", "CT1", &ct1));
    let own = hospital.folder().join("pki/lightbox.crt");
    let old = Identity { certificate: own.clone(), ..ct1.clone() };
    let look = || openssl_once(&daemon, &ct1);
    assert!(shows(&look(), &old), "{}", look().all());
    let scu = Scu::new(&hospital, "CT1", &ct1);
    let held = scu.hold(daemon.dicom);
    assert!(held.answer.established());

    let new = hospital.issue("lightbox-new");
    install(&new, &own);
    assert!(reloaded(&daemon, 0), "the new certificate is not in use");
    assert!(shows(&look(), &new), "{}", look().all());
    assert_eq!(held.end(), Some(0), "the open association has suffered");
    assert!(scu.ask(daemon.dicom).established());

    // What cannot be used changes nothing; the log and the record say what to do.
    fs::write(&own, "no certificate").expect("written");
    assert!(!reloaded(&daemon, 1), "garbage is in use");
    assert!(shows(&look(), &new));
    assert!(daemon.log().contains("the old ones stay in use") && daemon.log().contains("remedy:"));

    // SIGHUP reads at once, the site file's pins too.
    install(&new, &own);
    let ct2 = hospital.issue("ct2");
    quick(Site::new_again(&hospital)).sender("ct-1", "CT1", &ct2).write();
    kill(Pid::from_raw(daemon.pid() as i32), Signal::SIGHUP).expect("it runs");
    daemon.wait_for("the new pin", SECONDS, |_| {
        Scu::new(&hospital, "CT1", &ct2).ask(daemon.dicom).established().then_some(())
    });
    assert!(!scu.ask(daemon.dicom).established(), "the old pin still counts");
}

/// One handshake, after which the client is told to hang up.
fn openssl_once(daemon: &Daemon, identity: &Identity) -> Said {
    openssl(daemon.dicom, &["-showcerts"], Some(identity))
}

#[test]
fn a_revoked_certificate_is_refused_by_an_alert_however_it_is_known() {
    let hospital = Hospital::new();
    let list = hospital.folder().join("site.crl");
    hospital.revoke(&list, &[], 10);
    let (named, pinned) = (hospital.issue("ct1"), hospital.issue("ct2"));
    let viewer = hospital.issue_for("viewer", 3);
    let site = Site::new(&hospital)
        .tls_keys(&format!("crl = [{list:?}]"))
        .sender_by_name("ct-1", "CT1", "ct1")
        .sender("ct-2", "CT2", &pinned)
        .operator("Vera", "viewer", &viewer);
    let daemon = Daemon::start(&site);
    let first = Scu::new(&hospital, "CT1", &named);
    let second = Scu::new(&hospital, "CT2", &pinned);
    let held = first.hold(daemon.dicom);
    assert!(held.answer.established() && second.ask(daemon.dicom).established());

    hospital.revoke(&list, &[&named, &pinned], 10);
    assert!(reloaded(&daemon, 0));
    for (name, identity) in [("ct-1", &named), ("ct-2", &pinned)] {
        let said = openssl(daemon.dicom, &["-tls1_3"], Some(identity));
        assert_eq!(alert(&said), Some(44), "not certificate_revoked: {}", said.all());
        // The record follows the alert.
        daemon.wait_for("the record of the refusal", SECONDS, |ledger| {
            let sql = format!("SELECT count(*) FROM refusals WHERE peer = '{name}'");
            (ledger.number(&sql) > 0).then_some(())
        });
        let path = site.path.display().to_string();
        let text = run_lightbox(&["peers", "--site", &path, "--peer", name]).ok("lightbox peers").out;
        assert!(text.contains("revocation list of its issuer") && text.contains("new certificate"), "{text}");
        assert!(text.contains("expires 20"), "when the certificate expires is not shown: {text}");
    }
    assert_eq!(held.end(), Some(0), "an open association is not cut");

    // What expires soon is on the health page and among the metrics.
    let browser = Browser::new(&hospital, daemon.admin, Some(&viewer));
    let metrics = browser.get("/metrics").body;
    for who in ["own certificate", "authority Test Site CA", "revocation list of Test Site CA", "peer ct-1"] {
        let sample = format!("lightbox_certificate_expiry_seconds{{who=\"{who}\"}}");
        assert!(metrics.contains(&sample), "{sample} in\n{metrics}");
    }
    assert!(browser.get("/").body.contains("Expires soon"));
    assert!(daemon.log().contains("expires in less than 30 days"), "{}", daemon.log());
}

#[test]
fn an_expired_certificate_is_refused_as_that_and_as_its_owners() {
    let hospital = Hospital::new();
    let expired = hospital.issue_for("ct1", -1);
    let site = Site::new(&hospital).sender_by_name("ct-1", "CT1", "ct1");
    let daemon = Daemon::start(&site);
    let said = openssl(daemon.dicom, &["-tls1_3"], Some(&expired));
    assert_eq!(alert(&said), Some(45), "not certificate_expired: {}", said.all());
    daemon.wait_for("the record of the refusal", SECONDS, |ledger| {
        let sql = "SELECT count(*) FROM refusals WHERE peer = 'ct-1' AND reason LIKE '%has expired%'";
        (ledger.number(sql) == 1).then_some(())
    });
    // The same name in an expired certificate of somebody else's authority says nothing about the peer.
    let other = Hospital::new();
    assert_eq!(alert(&openssl(daemon.dicom, &["-tls1_3"], Some(&other.issue_for("ct1", -1)))), Some(46));
    daemon.wait_for("the record of the second refusal", SECONDS, |ledger| {
        let sql = "SELECT count(*) FROM refusals WHERE peer != 'ct-1' AND reason LIKE '%not named in the site file%'";
        (ledger.number(sql) == 1).then_some(())
    });
}

#[test]
fn a_list_past_its_next_update_warns_or_refuses_as_the_site_says() {
    for (keys, taken) in [("", true), (", expired_crl = \"refuse\"", false)] {
        let hospital = Hospital::new();
        let list = hospital.folder().join("site.crl");
        hospital.revoke(&list, &[], -1);
        let ct1 = hospital.issue("ct1");
        let site = Site::new(&hospital)
            .tls_keys(&format!("crl = [{list:?}]{keys}"))
            .sender_by_name("ct-1", "CT1", "ct1");
        let daemon = Daemon::start(&site);
        let answer = Scu::new(&hospital, "CT1", &ct1).ask(daemon.dicom);
        assert_eq!(answer.established(), taken, "{keys}: {answer:?}");
        if !taken {
            let reasons = daemon.ledger().texts("SELECT reason || remedy FROM refusals");
            assert!(reasons.iter().any(|reason| reason.contains("past its next update")), "{reasons:?}");
        }
    }
}

#[test]
fn a_list_that_the_authority_has_not_signed_is_refused_at_the_start() {
    let hospital = Hospital::new();
    let other = Hospital::new();
    let list = hospital.folder().join("site.crl");
    other.revoke(&list, &[], 10);
    let site = Site::new(&hospital).tls_keys(&format!("crl = [{list:?}]"));
    site.write();
    let said = run_lightbox(&["serve", "--site", &site.path.display().to_string()]);
    assert_eq!(said.code, Some(78), "{}", said.all());
    assert!(said.err.contains("appliance.tls.crl") && said.err.contains("not signed by"), "{}", said.err);
}
