//! `lightbox health`: the image's gate. It must pass where the line works and fail where it does not.

use std::fs;
use std::process::Command;
use std::time::Instant;

use lightbox_tests::command::{Said, lightbox, program, run, run_lightbox};
use lightbox_tests::{Daemon, Line, Site};
use rusqlite::Connection;

/// Adds the peer by which the box sends to itself.
fn self_test(site: Site) -> Site {
    let certificate = site.path.with_file_name("pki").join("lightbox.crt");
    let mut openssl = Command::new(program("openssl"));
    openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(certificate);
    let said = run(&mut openssl).ok("the fingerprint of our certificate");
    let sha256 = said.out.trim().split_once('=').expect("NAME=FINGERPRINT").1.to_owned();
    site.text(&format!(
        "[[peer]]\nname = \"self-test\"\nae_title = \"SELF-TEST\"\ncertificate = {{ sha256 = {sha256:?} }}\nnetworks = [\"127.0.0.1\"]\nmay = [\"send\"]"
    ))
}

/// Asks for the daemon's health on the port where it really listens.
fn health(line: &Line, arguments: &[&str]) -> Said {
    let site = line.site.clone().dicom_listen(line.daemon.dicom.port());
    let path = line.hospital.folder().join("health-site.toml");
    fs::write(&path, site.toml()).expect("written");
    let path = path.to_str().expect("plain").to_owned();
    run_lightbox(&[&["health", "--site", &path], arguments].concat())
}

#[test]
fn a_daemon_that_works_is_healthy_and_one_that_does_not_is_not() {
    let mut line = Line::start_with(|_, site| {
        self_test(site).rule("self-test", "peer = \"self-test\"", &["phantom"], &[])
    });
    // Twice: each time with a study that the box has not seen.
    for _ in 0..2 {
        let said = health(&line, &["--phantom"]).ok("health --phantom");
        assert!(said.out.starts_with("healthy: exact: 3 of 3 disks found"), "{}", said.all());
    }
    assert_eq!(line.daemon.ledger().results().len(), 2);
    assert!(line.pacs.files().is_empty(), "a phantom of the box's own left it");
    line.daemon.kill();
    let said = health(&line, &["--wait", "2"]);
    assert!(said.code != Some(0) && said.all().contains("does not answer C-ECHO"), "{}", said.all());
}

#[test]
fn a_phantom_that_no_model_answers_is_not_healthy() {
    // No rule gives the phantom to a model: stored, and never answered.
    let line = Line::start_with(|_, site| self_test(site));
    health(&line, &[]).ok("health without a phantom");
    let said = health(&line, &["--phantom", "--wait", "6"]);
    assert!(said.code != Some(0) && said.all().contains("no model has answered in time"), "{}", said.all());
}

#[test]
fn a_site_without_the_peer_hears_what_to_add() {
    let line = Line::start();
    let said = health(&line, &[]);
    assert!(said.code != Some(0) && said.all().contains("lightbox health --help"), "{}", said.all());
}

/// What an image meets that the box fell back to after a newer one has migrated the ledger.
#[test]
fn a_ledger_of_a_newer_release_is_worked_on_or_refused_at_once_and_the_gate_says_which() {
    let mut line = Line::start_with(|_, site| {
        self_test(site).rule("self-test", "peer = \"self-test\"", &["phantom"], &[])
    });
    let known = line.daemon.ledger().number("PRAGMA user_version");
    let reach = |oldest: i64| {
        let ledger = Connection::open(line.site.data_dir.join("ledger.db")).expect("opened");
        ledger.pragma_update(None, "user_version", known + 1).expect("set");
        ledger.execute("UPDATE ledger_reach SET oldest = ?1", [oldest]).expect("set");
    };
    line.daemon.stop();
    reach(known + 1);
    let mut serve = Command::new(lightbox());
    let said = run(serve.arg("serve").arg("--site").arg(&line.site.path));
    assert!(said.code != Some(0) && said.all().contains("start the newer release again"), "{}", said.all());
    let asked = Instant::now();
    let said = health(&line, &["--phantom", "--wait", "240"]);
    assert!(said.code != Some(0) && said.all().contains("start the newer release again"), "{}", said.all());
    assert!(asked.elapsed().as_secs() < 60, "the gate waited for a daemon that cannot start");

    reach(known);
    line.daemon = Daemon::start(&line.site);
    health(&line, &["--phantom"])
        .ok("health --phantom on a ledger that the newer release leaves to this one");
    assert_eq!(line.daemon.ledger().number("PRAGMA user_version"), known + 1);
}
