//! Updates of the firmware image: the daemon and the program that writes the slot, over a disk that is a file. What a real
//! machine does with it, `image-test` shows.

use std::fs;

use lightbox_tests::command::run_lightbox;
use lightbox_tests::firmware::{Firmware, Image};
use lightbox_tests::peers::curl::Browser;
use lightbox_tests::peers::raw;
use lightbox_tests::peers::storescu::Storescu;
use lightbox_tests::samples::phantom;
use lightbox_tests::{Daemon, Hospital, Identity, Site, wait};

struct Box {
    firmware: Firmware,
    site: Site,
    daemon: Daemon,
    operator: Identity,
    hospital: Hospital,
}

impl Box {
    #[track_caller]
    fn start(more: &str) -> Self {
        Self::start_with(more, |_, site| site)
    }

    #[track_caller]
    fn start_with(more: &str, change: impl FnOnce(&Hospital, Site) -> Site) -> Self {
        let hospital = Hospital::new();
        let firmware = Firmware::new(&hospital);
        let operator = hospital.issue("operator");
        let site = Site::new(&hospital).operator("operator", "operator", &operator);
        let site = change(&hospital, firmware.site(site, more));
        let daemon = Daemon::start(&site);
        Box { firmware, site, daemon, operator, hospital }
    }

    fn system(&self, arguments: &[&str]) -> String {
        self.firmware.system(&self.site, arguments).all()
    }

    #[track_caller]
    fn install(&self, more: &[&str]) {
        let arguments = [&["install", "--by", "A. Meyer"], more].concat();
        self.firmware.system(&self.site, &arguments).ok("system install");
    }

    fn states(&self) -> Vec<String> {
        self.daemon.ledger().texts("SELECT version || ' ' || state FROM system_versions ORDER BY id")
    }

    fn notes(&self) -> String {
        self.daemon.ledger().texts("SELECT note FROM system_versions ORDER BY id").join("\n")
    }

    #[track_caller]
    fn wait_for(&self, states: &[&str]) {
        self.daemon.wait_for(&format!("{states:?}, not {:?}", self.states()), 30, |_| {
            (self.states() == states).then_some(())
        });
    }

    /// Up to the order to write it.
    #[track_caller]
    fn until_written(&self) {
        wait::until(
            "the order to write",
            30,
            || self.firmware.is_ordered("write").then_some(()),
            || self.notes(),
        );
        self.daemon.wait_for("the state", 10, |_| {
            self.states().iter().any(|one| one.contains("writing")).then_some(())
        });
    }

    /// Publishes an image and has it installed, up to the order to write it.
    #[track_caller]
    fn order(&self, version: &'static str) {
        self.firmware.publish(&Image::new(version));
        self.system(&["check", "--by", "A. Meyer"]);
        self.install(&[version]);
        self.until_written();
    }

    /// Starts the daemon anew, as the machine does.
    #[track_caller]
    fn restart(&mut self) {
        self.daemon.stop();
        self.daemon = Daemon::start(&self.site);
    }

    fn page(&self) -> String {
        Browser::new(&self.hospital, self.daemon.admin, Some(&self.operator)).get("/system").body
    }
}

#[test]
fn an_image_is_found_asked_for_written_started_and_blessed() {
    let mut place = Box::start("");
    place.firmware.publish(&Image::new("1.1.0"));
    let said = place.system(&["check", "--by", "A. Meyer"]);
    assert!(said.starts_with("verified"), "{said}");
    place.wait_for(&["1.1.0 offered"]);
    place
        .daemon
        .wait_for("the reason", 10, |_| place.notes().contains("waits for somebody to ask").then_some(()));
    assert!(!place.firmware.is_ordered("write"), "it was installed without being asked for");
    place.install(&[]);
    place.until_written();

    let said = place.firmware.write_slot().ok("write-slot");
    assert!(said.out.contains("written: lightbox_1.1.0+3.efi"), "{}", said.all());
    assert_eq!(place.firmware.entries(), ["lightbox_1.0.0+3.efi", "lightbox_1.1.0+3.efi"]);
    assert_eq!(place.firmware.other_slot(10), b"1.1.01.1.0");
    place.wait_for(&["1.1.0 restarting"]);
    assert!(place.page().contains("restarting"), "{}", place.page());

    place.firmware.restarts();
    place.firmware.runs("1.1.0");
    place.restart();
    place.wait_for(&["1.1.0 on-trial"]);
    place.firmware.passes_its_gate("1.1.0");
    place.wait_for(&["1.1.0 installed"]);
    let steps: Vec<String> = place
        .daemon
        .ledger()
        .audit("system-update")
        .iter()
        .map(|record| record.detail["to"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(steps, ["offered", "fetching", "writing", "ready", "restarting", "on-trial", "installed"]);
    let asked = place.daemon.ledger().audit("operator-action");
    assert!(
        asked.iter().any(|record| record.detail["by"] == "A. Meyer" && record.detail["version"] == "1.1.0")
    );
    // The same repository again: there is nothing newer.
    place.system(&["check", "--by", "A. Meyer"]);
    assert_eq!(place.states(), ["1.1.0 installed"]);
}

#[test]
fn a_box_that_came_back_says_so_and_does_not_try_again_by_itself() {
    let mut place = Box::start("install = \"window\"\ncheck_minutes = 1");
    place.firmware.publish(&Image::new("1.1.0"));
    place.until_written();
    place.firmware.write_slot().ok("write-slot");
    place.wait_for(&["1.1.0 restarting"]);
    // A daemon that dies before the machine has restarted is no fall.
    place.restart();
    assert_eq!(place.states(), ["1.1.0 restarting"]);
    // Nor one that died before it gave the order: it gives it again.
    place.daemon.wait_for("the order", 10, |_| place.firmware.is_ordered("restart").then_some(()));
    place.firmware.loses_its_order();
    place.restart();
    place.daemon.wait_for("the order", 10, |_| place.firmware.is_ordered("restart").then_some(()));
    assert_eq!(place.states(), ["1.1.0 restarting"]);
    place.firmware.restarts();
    place.firmware.passes_its_gate("1.0.0");
    place.restart();
    place.wait_for(&["1.1.0 fell-back"]);
    assert!(place.page().contains("fell back"), "{}", place.page());
    let fell = place.daemon.ledger().audit("system-update").pop().expect("an audit record");
    assert_eq!((fell.detail["to"].as_str(), fell.outcome.as_str()), (Some("fell-back"), "serious"));
    place.system(&["check", "--by", "A. Meyer"]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(place.states(), ["1.1.0 fell-back"]);
    // A person may.
    place.install(&["1.1.0"]);
    place.until_written();
    place.firmware.write_slot().ok("write-slot again");
    place.wait_for(&["1.1.0 restarting"]);
}

#[test]
fn each_start_of_the_machine_is_on_record_with_what_went_wrong_before_it() {
    let mut place = Box::start("");
    let starts = |place: &Box, count: usize| {
        place.daemon.wait_for("the records", 10, |ledger| {
            let records = ledger.audit("system-started");
            (records.len() >= count).then_some(records)
        })
    };
    let first = starts(&place, 1).pop().expect("a record");
    assert_eq!((first.detail["entry"].as_str(), first.outcome.as_str()), (Some("lightbox_1.0.0"), "success"));

    // The slot beside it was tried until its counter was used up.
    place.firmware.is_started_anew();
    let damaged = serde_json::json!([{ "name": "lightbox_1.1.0", "left": 0, "failed": 3 }]);
    place.firmware.starts("1.0.0", damaged);
    place.restart();
    let second = starts(&place, 2).pop().expect("a record");
    let reason = second.detail["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("lightbox_1.1.0 was started 3 times"), "{reason}");
    assert_eq!(second.outcome, "serious");
    assert!(place.page().contains("lightbox_1.1.0 was started 3 times"), "{}", place.page());

    // The daemon alone is no start of the machine.
    place.restart();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(starts(&place, 2).len(), 2);
}

#[test]
fn what_does_not_fit_or_was_altered_is_refused_before_a_byte_is_written() {
    let place = Box::start("");
    place.firmware.publish(&Image { flavour: "production", ..Image::new("1.9.0") });
    place.firmware.publish(&Image { ledger: Some("999/999".into()), ..Image::new("1.2.0") });
    place.system(&["check", "--by", "A. Meyer"]);
    place.wait_for(&["1.2.0 refused"]);
    assert!(place.notes().contains("[no-way-back]"), "{}", place.notes());

    // A file of the repository is altered.
    place.firmware.publish(&Image::new("1.3.0"));
    place.system(&["check", "--by", "A. Meyer"]);
    let folder = place
        .firmware
        .repository()
        .join(format!("targets/vendors/lightbox-system/{}-test/1.3.0", std::env::consts::ARCH));
    let root = fs::read_dir(&folder)
        .expect("there")
        .map(|file| file.expect("read").path())
        .find(|path| path.to_string_lossy().ends_with("root.erofs"))
        .expect("the root");
    let good = fs::read(&root).expect("read");
    let mut bad = good.clone();
    bad[77] ^= 1;
    fs::write(&root, &bad).expect("altered");
    place.install(&["1.3.0"]);
    place.wait_for(&["1.2.0 refused", "1.3.0 refused"]);
    assert!(place.notes().contains("[target-digest]"), "{}", place.notes());

    // What was staged is altered behind the daemon's back: whoever writes the slot sees it.
    fs::write(&root, &good).expect("mended");
    place.install(&["1.3.0"]);
    place.until_written();
    let staged = place.firmware.stage().join(root.strip_prefix(place.firmware.repository()).expect("below"));
    fs::write(staged, &bad).expect("altered");
    let said = place.firmware.write_slot();
    assert!(said.code != Some(0) && said.all().contains("other bytes than were signed"), "{}", said.all());
    assert_eq!(place.firmware.entries(), ["lightbox_1.0.0+3.efi"]);
    place.wait_for(&["1.2.0 refused", "1.3.0 refused"]);

    // An older state of the repository.
    let kept = place.hospital.sub_folder("kept").join("timestamp.json");
    let timestamp = place.firmware.repository().join("metadata/timestamp.json");
    fs::copy(&timestamp, &kept).expect("kept");
    place.firmware.publish(&Image::new("1.4.0"));
    place.system(&["check", "--by", "A. Meyer"]);
    fs::copy(&kept, &timestamp).expect("rolled back");
    let said = place.system(&["check", "--by", "A. Meyer"]);
    assert!(said.contains("[version-rolled-back]"), "{said}");
}

#[test]
fn a_hash_tree_of_another_root_is_not_published() {
    let hospital = Hospital::new();
    let firmware = Firmware::new(&hospital);
    let said = firmware.publish_with(&Image::new("1.1.0"), |tree| tree[2 * 4096] ^= 1);
    assert!(said.code == Some(1) && said.all().contains("is not the tree of"), "{}", said.all());
    let missing = ["system", "publish", "--root-fs", "no-root", "--hash-tree", "no-tree", "--uki", "no-uki"];
    let repository = firmware.repository().display().to_string();
    let said = run_lightbox(&[&missing[..], &["--repository", &repository, "--key", "x"]].concat());
    assert!(
        said.code == Some(1) && said.all().contains("--root-fs no-root: there is no such file"),
        "{}",
        said.all()
    );
    firmware.publish(&Image::new("1.1.0"));
}

#[test]
fn what_did_not_fit_is_judged_again_and_offered_once_it_does() {
    let place = Box::start("");
    place.firmware.publish(&Image::new("1.1.0"));
    place.system(&["check", "--by", "A. Meyer"]);
    place.wait_for(&["1.1.0 offered"]);
    // As if the running version had not been able to come back from it, or its slots had been smaller.
    let ledger = rusqlite::Connection::open(place.site.data_dir.join("ledger.db")).expect("the ledger");
    ledger.busy_timeout(std::time::Duration::from_secs(10)).expect("set");
    let refuse = |note: &str| {
        ledger.execute("UPDATE system_versions SET state = 'refused', note = ?1", [note]).expect("changed");
        place.system(&["check", "--by", "A. Meyer"]);
    };
    refuse("the slot writer refused it: image 1.1.0: its root has 9 bytes [too-large]");
    place.wait_for(&["1.1.0 refused"]);
    refuse(
        "image 1.1.0: its root has 9 bytes, the slot's partition 8; remedy: ask the publisher [too-large]",
    );
    place.wait_for(&["1.1.0 offered"]);
}

#[test]
fn the_box_restarts_in_its_window_only_unless_told_otherwise() {
    // The daemon goes by the wall clock, and so must its window.
    #[expect(clippy::disallowed_methods)]
    let now = time::OffsetDateTime::now_utc();
    let hour = |hours: u8| format!("{:02}:00", (now.hour() + hours) % 24);
    let window = format!("window = {{ from = {:?}, to = {:?} }}", hour(3), hour(5));
    let place = Box::start(&window);
    place.order("1.1.0");
    place.firmware.write_slot().ok("write-slot");
    place.wait_for(&["1.1.0 ready"]);
    place.daemon.wait_for("the reason", 10, |_| place.notes().contains("waits for its window").then_some(()));
    assert!(!place.firmware.is_ordered("restart"));
    assert!(place.system(&["status"]).contains("waits for its window"));
    place.install(&["1.1.0", "--now"]);
    place.wait_for(&["1.1.0 restarting"]);
    // The ledger comes first, then the order.
    place.daemon.wait_for("the order", 10, |_| place.firmware.is_ordered("restart").then_some(()));
}

#[test]
fn a_restart_that_nobody_ordered_starts_what_is_in_its_slot_and_is_no_fall() {
    // The daemon goes by the wall clock, and so must its window.
    #[expect(clippy::disallowed_methods)]
    let now = time::OffsetDateTime::now_utc();
    let hour = |hours: u8| format!("{:02}:00", (now.hour() + hours) % 24);
    let mut place = Box::start(&format!("window = {{ from = {:?}, to = {:?} }}", hour(3), hour(5)));
    let ready = |place: &Box, version: &'static str| {
        place.order(version);
        place.firmware.write_slot().ok("write-slot");
    };
    ready(&place, "1.1.0");
    place.wait_for(&["1.1.0 ready"]);
    // A power cut: the machine comes up with it.
    place.firmware.is_started_anew();
    place.firmware.runs("1.1.0");
    place.restart();
    place.wait_for(&["1.1.0 on-trial"]);
    place.firmware.passes_its_gate("1.1.0");
    place.wait_for(&["1.1.0 installed"]);

    ready(&place, "1.2.0");
    place.wait_for(&["1.1.0 installed", "1.2.0 ready"]);
    // The daemon alone is started again: nothing has changed.
    place.restart();
    place.wait_for(&["1.1.0 installed", "1.2.0 ready"]);
    // A power cut, and the machine does not come up with it.
    place.firmware.is_started_anew();
    place.firmware.passes_its_gate("1.1.0");
    place.restart();
    place.wait_for(&["1.1.0 installed", "1.2.0 fell-back"]);
    let fell = place.daemon.ledger().audit("system-update").pop().expect("a record");
    assert_eq!(fell.detail["version"].as_str(), Some("1.2.0"));
}

#[test]
fn a_slot_writer_that_was_interrupted_is_asked_again_after_the_start() {
    let mut place = Box::start("");
    place.order("1.1.0");
    // It took the order and was a third through.
    place.firmware.is_interrupted_at_a_third("1.1.0");
    place.daemon.wait_for("the progress", 10, |_| place.notes().contains("33 % written").then_some(()));
    assert!(!place.firmware.is_ordered("write"), "it is at work");
    // The power goes.
    place.firmware.is_started_anew();
    place.restart();
    place.daemon.wait_for("the order", 10, |_| place.firmware.is_ordered("write").then_some(()));
    place.firmware.passes_its_gate("1.0.0");
    place.firmware.write_slot().ok("write-slot");
    place.wait_for(&["1.1.0 restarting"]);
}

#[test]
fn what_a_slot_writer_cannot_do_now_is_asked_for_again_and_not_refused() {
    let place = Box::start("");
    place.order("1.1.0");
    place.firmware.rename_entry("lightbox_1.0.0+3.efi", "lightbox_1.0.0+2-1.efi");
    let said = place.firmware.write_slot();
    assert!(said.code != Some(0) && said.all().contains("has not passed its health gate"), "{}", said.all());
    place
        .daemon
        .wait_for("why", 10, |_| place.notes().contains("has not passed its health gate").then_some(()));
    assert_eq!(place.states(), ["1.1.0 writing"]);
}

#[test]
fn an_image_that_was_started_before_the_ledger_knew_is_on_trial() {
    let mut place = Box::start("");
    place.order("1.1.0");
    // The daemon hears nothing of the slot any more.
    place.daemon.kill();
    place.firmware.write_slot().ok("write-slot");
    place.firmware.is_started_anew();
    place.firmware.runs("1.1.0");
    place.daemon = Daemon::start(&place.site);
    place.wait_for(&["1.1.0 on-trial"]);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(!place.firmware.is_ordered("restart"), "it runs already");
    place.firmware.passes_its_gate("1.1.0");
    place.wait_for(&["1.1.0 installed"]);
}

#[test]
fn a_box_that_came_back_from_an_image_that_the_ledger_did_not_know_to_be_there_says_so() {
    let mut place = Box::start("");
    place.order("1.1.0");
    place.daemon.kill();
    place.firmware.write_slot().ok("write-slot");
    // Started three times, and never as far as its daemon.
    place.firmware.is_started_anew();
    place.firmware.passes_its_gate("1.0.0");
    place.daemon = Daemon::start(&place.site);
    place.wait_for(&["1.1.0 fell-back"]);
    assert!(!place.firmware.is_ordered("restart"));
}

#[test]
fn another_image_of_the_same_version_does_not_hide_the_one_that_was_started() {
    let mut place = Box::start("");
    place.order("1.1.0");
    place.firmware.write_slot().ok("write-slot");
    place.wait_for(&["1.1.0 restarting"]);
    let ledger = rusqlite::Connection::open(place.site.data_dir.join("ledger.db")).expect("the ledger");
    ledger.busy_timeout(std::time::Duration::from_secs(10)).expect("set");
    let again = "INSERT INTO system_versions (version, manifest_sha256, manifest, state, since, note)
                 SELECT version, 'another', manifest, 'offered', since, '' FROM system_versions";
    ledger.execute(again, []).expect("offered again");
    place.firmware.restarts();
    place.firmware.runs("1.1.0");
    place.restart();
    place.wait_for(&["1.1.0 on-trial", "1.1.0 offered"]);
    place.firmware.passes_its_gate("1.1.0");
    place.wait_for(&["1.1.0 installed", "1.1.0 offered"]);
}

#[test]
fn an_order_to_restart_that_a_power_cut_left_is_taken_off() {
    let mut place = Box::start("");
    place.order("1.1.0");
    place.firmware.write_slot().ok("write-slot");
    place.daemon.wait_for("the order", 20, |_| place.firmware.is_ordered("restart").then_some(()));
    place.firmware.is_started_anew();
    place.firmware.runs("1.1.0");
    place.restart();
    place.wait_for(&["1.1.0 on-trial"]);
    assert!(!place.firmware.is_ordered("restart"), "it would restart the image that is on trial");
}

#[test]
fn asked_for_at_once_an_image_that_is_ready_for_long_still_gives_studies_their_time() {
    // The daemon goes by the wall clock, and so must its window.
    #[expect(clippy::disallowed_methods)]
    let now = time::OffsetDateTime::now_utc();
    let hour = |hours: u8| format!("{:02}:00", (now.hour() + hours) % 24);
    let mut modality = None;
    let window = format!("window = {{ from = {:?}, to = {:?} }}", hour(3), hour(5));
    let place = Box::start_with(&window, |hospital, site| {
        let ct = hospital.issue("ct1");
        let site = site.sender("ct-1", "CT1", &ct);
        modality = Some(ct);
        site
    });
    place.order("1.1.0");
    place.firmware.write_slot().ok("write-slot");
    place.wait_for(&["1.1.0 ready"]);
    let ledger = rusqlite::Connection::open(place.site.data_dir.join("ledger.db")).expect("the ledger");
    ledger.busy_timeout(std::time::Duration::from_secs(10)).expect("set");
    let days = "UPDATE system_versions SET ready_at = ready_at - 172800000, since = since - 172800000";
    ledger.execute(days, []).expect("changed");
    let ct = modality.expect("a modality");
    let open = raw::associate(place.daemon.dicom, &place.hospital, &ct, "CT1").expect("an association");
    place.install(&["1.1.0", "--now"]);
    place.daemon.wait_for("the reason", 10, |_| place.notes().contains("1 open associations").then_some(()));
    assert_eq!(place.states(), ["1.1.0 ready"]);
    drop(open);
    place.wait_for(&["1.1.0 restarting"]);
}

#[test]
fn studies_in_flight_finish_before_the_box_restarts_and_what_was_staged_is_gone() {
    let mut modality = None;
    let place = Box::start_with("", |hospital, mut site| {
        let ct = Storescu::new(hospital, "CT1");
        site.quiet_seconds = 8;
        let site = site.sender("ct-1", "CT1", ct.identity());
        modality = Some(ct);
        site
    });
    place.order("1.1.0");
    assert!(place.firmware.stage().exists());
    let image = phantom(&place.hospital, "dx", 1).files.remove(0);
    modality.expect("a modality").deliver(place.daemon.dicom, &[], &[image]);
    let in_flight = "SELECT count(*) FROM studies WHERE state IN ('receiving', 'processing')";
    place.daemon.wait_for("the study", 10, |ledger| (ledger.number(in_flight) == 1).then_some(()));
    place.firmware.write_slot().ok("write-slot");
    place.wait_for(&["1.1.0 ready"]);
    place.daemon.wait_for("the reason", 10, |_| place.notes().contains("waits for 1 studies").then_some(()));
    assert!(!place.firmware.is_ordered("restart"), "a study was in flight");
    assert!(!place.firmware.stage().exists(), "what is in its slot is of no more use");
    place.wait_for(&["1.1.0 restarting"]);
    assert_eq!(place.daemon.ledger().number(in_flight), 0);
}
