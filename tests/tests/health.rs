//! `lightbox health`: the image's gate. It must pass where the line works and fail where it does not.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use lightbox_tests::command::{Said, lightbox, program, run, run_lightbox};
use lightbox_tests::peers::scu::Scu;
use lightbox_tests::{Daemon, Hospital, Line, Site};
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

/// With the rule that gives the box's own phantoms to the phantom detector.
fn answered(site: Site) -> Site {
    self_test(site).rule("self-test", "peer = \"self-test\"", &["phantom"], &[])
}

/// The site file with the port where the daemon really listens.
fn site_file(hospital: &Hospital, site: &Site, daemon: &Daemon) -> String {
    let site = site.clone().dicom_listen(daemon.dicom.port());
    let path = hospital.folder().join("health-site.toml");
    fs::write(&path, site.toml()).expect("written");
    path.to_str().expect("plain").to_owned()
}

/// Asks for the daemon's health.
fn health(line: &Line, arguments: &[&str]) -> Said {
    let site = site_file(&line.hospital, &line.site, &line.daemon);
    run_lightbox(&[&["health", "--site", &site], arguments].concat())
}

/// A gate at work.
struct Gate {
    child: Child,
    told: BufReader<ChildStderr>,
}

impl Gate {
    /// `entries` are the boot entries that the image's unit has found.
    fn start(hospital: &Hospital, site: &str, wait: &str, entries: &str) -> Self {
        let file = hospital.folder().join("boot-entries");
        fs::write(&file, entries).expect("written");
        let mut command = Command::new(lightbox());
        command.args(["health", "--site", site, "--gate", "--wait", wait, "--entries"]).arg(file);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("lightbox starts");
        let told = BufReader::new(child.stderr.take().expect("piped"));
        Gate { child, told }
    }

    /// What it says next on the console.
    fn line(&mut self) -> String {
        let mut text = String::new();
        self.told.read_line(&mut text).expect("read");
        text
    }

    fn still_asks(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Its last words, once it ends.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut said).expect("read");
        self.told.read_to_string(&mut said).expect("read");
        (self.child.wait().expect("a child of ours").code(), said)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_daemon_that_works_is_healthy_and_one_that_does_not_is_not() {
    let mut line = Line::start_with(|_, site| answered(site));
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
    assert!(said.code != Some(0) && said.all().contains("no rule gives it to a model"), "{}", said.all());
}

#[test]
fn a_site_without_the_peer_hears_what_to_add() {
    let line = Line::start();
    let said = health(&line, &[]);
    assert!(said.code != Some(0) && said.all().contains("lightbox health --help"), "{}", said.all());
    // A restart of the daemon, which is what the watch asks for, adds no peer to the site file.
    let said = health(&line, &["--watch"]).ok("health --watch");
    assert!(said.out.starts_with("not asked: "), "{}", said.all());
    let broken = line.hospital.folder().join("broken-site.toml");
    fs::write(&broken, "[applience]\n").expect("written");
    let broken = broken.to_str().expect("plain");
    let said = run_lightbox(&["health", "--site", broken, "--watch"]).ok("health --watch");
    assert!(said.out.starts_with("not asked: "), "{}", said.all());
}

#[test]
fn a_busy_box_with_a_filling_disk_is_healthy() {
    let hospital = Hospital::new();
    let identity = hospital.issue("ct1");
    let mut site = answered(Site::new(&hospital).sender("ct-1", "CT1", &identity).phantom_detector())
        .dicom_line("max_associations = 1");
    let daemon = Daemon::start(&site);
    let path = site_file(&hospital, &site, &daemon);
    let scu = Scu::new(&hospital, "CT1", &identity);
    let held = scu.hold(daemon.dicom);
    assert_eq!(scu.ask(daemon.dicom).rejected().as_deref(), Some("2/3/2"));
    run_lightbox(&["health", "--site", &path, "--phantom"]).ok("health with all places taken");
    run_lightbox(&["health", "--site", &path, "--watch"]).ok("health --watch with all places taken");
    assert_eq!(held.end(), Some(0));
    drop(daemon);

    site.congestion_mib = 1 << 30;
    let daemon = Daemon::start(&site);
    let path = site_file(&hospital, &site, &daemon);
    assert_eq!(scu.ask(daemon.dicom).rejected().as_deref(), Some("2/3/1"));
    let said = run_lightbox(&["health", "--site", &path, "--phantom"]).ok("health with a filling disk");
    assert!(said.out.starts_with("healthy: exact"), "{}", said.all());
}

#[test]
fn a_gate_waits_for_room_on_the_disk_instead_of_restarting_the_machine() {
    let hospital = Hospital::new();
    let mut site = answered(Site::new(&hospital).phantom_detector());
    site.reserve_mib = 1_048_576;
    let daemon = Daemon::start_without_models(&site, "info");
    let path = site_file(&hospital, &site, &daemon);
    let mut gate = Gate::start(&hospital, &path, "30", "lightbox_1.0.0+2-1.efi\n");
    let told = gate.line();
    assert!(
        told.contains("NOT healthy yet") && told.contains("0xa700") && told.contains("make room"),
        "{told}"
    );
    assert!(gate.still_asks());
}

#[test]
fn a_gate_waits_for_a_model_that_is_out_of_service_with_one_and_the_same_study() {
    let line = Line::start_with(|_, site| answered(site));
    let set = |from: &str, to: &str| {
        let ledger = Connection::open(line.site.data_dir.join("ledger.db")).expect("opened");
        ledger.busy_timeout(Duration::from_secs(10)).expect("set");
        let sql = "UPDATE model_versions SET state = ?2 WHERE slot = 'phantom' AND state = ?1";
        assert_eq!(ledger.execute(sql, [from, to]).expect("changed"), 1);
    };
    set("active", "recalled");
    let path = site_file(&line.hospital, &line.site, &line.daemon);
    let mut gate = Gate::start(&line.hospital, &path, "2", "lightbox_1.0.0+2-1.efi\n");
    let told = gate.line();
    assert!(told.contains("no active version") && told.contains("models list"), "{told}");
    assert!(gate.still_asks());
    // Between two looks of the gate, and then the study takes its time: neither may be taken for a fault.
    set("recalled", "active");
    let (code, said) = gate.end();
    assert!(code == Some(0) && said.contains("healthy: exact"), "{said}");
    assert_eq!(line.daemon.ledger().number("SELECT count(*) FROM studies"), 1);
}

#[test]
fn a_gate_restarts_the_machine_only_as_long_as_an_entry_has_a_try_left() {
    let mut line = Line::start_with(|_, site| answered(site));
    let path = site_file(&line.hospital, &line.site, &line.daemon);
    line.daemon.kill();
    let tried = "lightbox_1.0.0+0-3.efi\n";
    let gate = Gate::start(&line.hospital, &path, "1", &format!("{tried}lightbox_1.1.0+1-2.efi\n"));
    let (code, said) = gate.end();
    assert!(code == Some(1) && said.contains("does not answer C-ECHO"), "{said}");

    let mut gate = Gate::start(&line.hospital, &path, "1", tried);
    let told = gate.line();
    assert!(
        told.contains("does not answer C-ECHO") && told.contains("no boot entry has a try left"),
        "{told}"
    );
    assert!(gate.still_asks());
}

/// What an image meets that the box fell back to after a newer one has migrated the ledger.
#[test]
fn a_ledger_of_a_newer_release_is_worked_on_or_refused_at_once_and_the_gate_says_which() {
    let mut line = Line::start_with(|_, site| answered(site));
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
