//! kill -9 at random instants while versions of a signed model are installed, switched and rolled back: after
//! each, exactly one whole version is active, and it verifies.
//!
//! `LIGHTBOX_SEED=N` repeats a run's instants, `LIGHTBOX_KILLS=N` asks for more of them (`./justw model-soak`: 100). A
//! run in which no kill fell into the middle of anything would show nothing: it goes on until one has.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use lightbox_tests::chance::{Random, number};
use lightbox_tests::command::{Said, run_lightbox};
use lightbox_tests::ledger::Ledger;
use lightbox_tests::samples::{copy_as, phantom};
use lightbox_tests::{Daemon, Line, Vendor};
use serde_json::Value;

/// Kills in an ordinary run.
const KILLS: u64 = 6;
/// How often it may go on after them, until one falls between two states of a version.
const KILLS_MORE: u64 = 20;
/// Versions on their way.
const PENDING: &str = "SELECT count(*) FROM model_versions
    WHERE state IN ('received', 'verified', 'planned_in', 'accepted')";
/// The longest life of a daemon after it is ready: fetching, unpacking, acceptance and switch fall into it.
const LIFE_MS_MAX: u64 = 900;

fn models(line: &Line, arguments: &[&str]) -> Said {
    let site = line.site.path.to_str().expect("a plain path");
    run_lightbox(&[&["models", "--site", site], arguments].concat())
}

fn states(ledger: &Ledger) -> Vec<String> {
    ledger.texts("SELECT release || ' ' || state FROM model_versions ORDER BY release")
}

/// Whether a version is between two states on its way to be active.
fn is_on_its_way(ledger: &Ledger) -> bool {
    ledger.number(PENDING) > 0
}

/// Exactly one version is active, its files are those that were signed, and its record is this device's.
fn one_is_active(line: &Line, kill: u64) {
    let ledger = Ledger::open(&line.site.data_dir);
    let active = ledger.texts("SELECT digest FROM model_versions WHERE state = 'active'");
    assert_eq!(active.len(), 1, "after kill {kill}: {:?}", states(&ledger));
    let said = models(line, &["verify", "--json"]);
    let lines: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{}", said.all()));
    let sound = lines
        .as_array()
        .expect("a list")
        .iter()
        .any(|version| version["digest"] == active[0].as_str() && version["sound"] == true);
    assert!(sound, "after kill {kill}: {lines}");
}

#[test]
fn one_whole_version_is_active_whenever_it_is_killed() {
    let kills = number("LIGHTBOX_KILLS").unwrap_or(KILLS);
    let seed = number("LIGHTBOX_SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ 0x2468_ace0);
    println!("seed {seed}, {kills} kills; LIGHTBOX_SEED={seed} repeats the instants");
    let mut random = Random(seed);
    let (vendor, mut line) = Vendor::line();
    let image = phantom(&line.hospital, "dx", 1).files.remove(0);
    let folder = line.hospital.sub_folder("studies");

    let one = vendor.version(1, &[]);
    let set = vendor.publish_set(&line.site);
    vendor.publish_plan(&one, &set, 0);
    vendor.publish_version(&one);
    models(&line, &["check", "--by", "A. Meyer"]).ok("models check");
    line.daemon.wait_for("the baseline to be active", 60, |ledger| {
        states(ledger).contains(&"1 active".to_owned()).then_some(())
    });
    one_is_active(&line, 0);

    let (mut release, mut sent, mut cut, mut switches) = (1_u32, 0, 0, 0);
    let mut kill = 0;
    while kill < kills || (cut == 0 && kill < kills + KILLS_MORE) {
        kill += 1;
        // What is to be interrupted: an installation with its switch, or a rollback.
        let aimed = kill > kills;
        let back = !aimed && kill % 3 == 0;
        if !back {
            release += 1;
            // Each differs from every other, whichever is active when it comes.
            let min = format!("reported_min = {:.4}", 0.55 + f64::from(release) * 0.0005);
            vendor.publish_version(&vendor.version(release, &[("reported_min = 0.7", &min)]));
        }
        let before = states(&Ledger::open(&line.site.data_dir));
        let study: Vec<PathBuf> = vec![copy_as(&image, &folder.join(format!("{kill}.dcm")), true)];
        line.modality.deliver(line.daemon.dicom, &[], &study);
        sent += 1;
        // After the kills at random instants, those that wait until a version is on its way.
        let life = if aimed { 5 * LIFE_MS_MAX } else { random.below(LIFE_MS_MAX) };
        let data_dir = line.site.data_dir.clone();
        let pid = nix::unistd::Pid::from_raw(line.daemon.pid() as i32);
        thread::scope(|scope| {
            // It fails where the daemon is killed meanwhile: then its request waits for the next one.
            let arguments: &[&str] = match back {
                true => &["rollback", "detector", "--by", "A. Meyer"],
                false => &["check", "--by", "A. Meyer"],
            };
            let site = line.site.path.to_str().expect("a plain path").to_owned();
            let mut child = std::process::Command::new(lightbox_tests::command::lightbox());
            child.args(["models", "--site", &site]).args(arguments);
            child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            let mut child = child.spawn().expect("started");
            scope.spawn(move || {
                let until = Instant::now() + Duration::from_millis(life);
                let ledger = aimed.then(|| Ledger::open(&data_dir));
                while Instant::now() < until && !ledger.as_ref().is_some_and(is_on_its_way) {
                    thread::sleep(Duration::from_millis(1));
                }
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
                // A person's command may be cut short as well.
                thread::sleep(Duration::from_millis(50));
                child.kill().expect("killed, or ended before");
                child.wait().expect("ended");
            });
        });
        line.daemon.kill();
        one_is_active(&line, kill);
        let ledger = Ledger::open(&line.site.data_dir);
        let after = states(&ledger);
        cut += u64::from(is_on_its_way(&ledger));
        switches += u64::from(after != before);
        line.daemon = Daemon::start(&line.site);
    }
    println!("{kill} kills: {cut} fell between two states of a version, {switches} after a change of states");
    assert!(cut > 0, "none of {kill} kills fell into an installation: nothing was shown");
    assert!(switches > 0, "no version changed its state in {kill} kills: nothing was shown");

    // A daemon that may live brings the last version to its end, and every study has one result.
    models(&line, &["check", "--by", "A. Meyer"]).ok("models check");
    line.daemon.wait_for("nothing to be on its way", 120, |ledger| {
        (!is_on_its_way(ledger) && ledger.is_quiet()).then_some(())
    });
    one_is_active(&line, kill + 1);
    let ledger = line.daemon.ledger();
    assert_eq!(
        ledger.number("SELECT count(*) FROM studies WHERE state = 'done'"),
        sent,
        "{}",
        ledger.summary()
    );
    assert_eq!(ledger.number("SELECT count(*) FROM results"), sent);
    let left: Vec<_> = std::fs::read_dir(line.site.data_dir.join("models"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.len() == 64 || name.starts_with('.'))
        .collect();
    let kept = ledger.texts("SELECT DISTINCT digest FROM model_versions WHERE kept = 1");
    assert!(left.iter().all(|name| kept.contains(name)), "{left:?} are there, {kept:?} are kept");
    let site = line.site.path.to_str().expect("a plain path").to_owned();
    run_lightbox(&["audit", "--site", &site, "verify"]).ok("audit verify after the kills");
}
