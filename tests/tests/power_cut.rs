//! The power goes at random instants while images arrive: what was not synced is gone, in files and in
//! folders. Every acknowledged image must be there, and none that nobody sent. kill -9 cannot show this:
//! the kernel still writes what a killed process left.
//!
//! `LIGHTBOX_SEED=N` repeats the instants as far as the machine lets it, `LIGHTBOX_CUTS=N` asks for more.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use lightbox_tests::chance::number;
use lightbox_tests::command::{python, run_lightbox};
use lightbox_tests::peers::power_cut::{Cut, PowerCutDisk};
use lightbox_tests::peers::storescu::Storescu;
use lightbox_tests::peers::windowed::Windowed;
use lightbox_tests::samples::{held_digests, large_sample, sample};
use lightbox_tests::{Daemon, Hospital, Site};

/// Disks looked at in an ordinary run.
const CUTS: u64 = 40;
/// Senders at once, one association each.
const SENDERS: u64 = 3;

type Digests = BTreeSet<String>;

/// What the senders have said so far.
#[derive(Default)]
struct Said {
    sent: Digests,
    acknowledged: Digests,
}

struct Sender {
    child: Child,
    reader: Option<thread::JoinHandle<()>>,
}

impl Sender {
    fn start(
        hospital: &Hospital,
        modality: &Storescu,
        daemon: &Daemon,
        seed: u64,
        said: &Arc<Mutex<Said>>,
    ) -> Self {
        let identity = modality.identity();
        let mut command = python("ack_scu.py");
        command.args([daemon.dicom.ip().to_string(), daemon.dicom.port().to_string()]);
        command.args(["CT1", "LIGHTBOX"]).args([
            hospital.ca(),
            identity.certificate.clone(),
            identity.key.clone(),
        ]);
        // Of 39 KB, of 0.5 MB, and one that takes several chunks.
        command.arg(seed.to_string());
        command.args([
            sample("CT_small.dcm"),
            large_sample("693_UNCR.dcm"),
            sample("MR_small.dcm"),
            large_sample("MR2_UNCR.dcm"),
        ]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let said = said.clone();
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut said = said.lock().expect("whole");
                match line.split_once(' ') {
                    Some(("sent", digest)) => said.sent.insert(digest.to_owned()),
                    Some(("ack", digest)) => said.acknowledged.insert(digest.to_owned()),
                    _ => panic!("the sender said {line:?}"),
                };
            }
        });
        Sender { child, reader: Some(reader) }
    }

    fn stop(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().expect("it is a child of ours");
        self.reader.take().expect("there").join().expect("it read well");
    }
}

/// A sender with several images under way on its association, until it is told to stop.
struct WindowedSender {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl WindowedSender {
    fn start(hospital: &Hospital, modality: &Storescu, daemon: &Daemon, said: &Arc<Mutex<Said>>) -> Self {
        let mut sender = Windowed::associate(daemon.dicom, hospital, modality.identity(), "CT1", 4)
            .expect("an association with a window");
        assert_eq!(sender.granted, Some((4, 1)));
        let (stop, said) = (Arc::new(AtomicBool::new(false)), said.clone());
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let hex = |digest: [u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let mut under_way = BTreeMap::new();
            for number in 0_u32.. {
                let stopped = stopped.load(Ordering::Acquire);
                if !stopped {
                    // Some go to the disk in one piece, some in several.
                    let bytes = [30_000, 400_000, 1_000_000][number as usize % 3];
                    let pixels: Vec<u8> = (0..bytes).map(|at: u32| (at ^ number) as u8).collect();
                    let (study, instance) = ("1.2.840.99.8", format!("1.2.840.99.8.{number}"));
                    let digest = hex(Windowed::digest(study, &instance, &pixels));
                    said.lock().expect("whole").sent.insert(digest.clone());
                    let id = sender.begin(study, &instance, &pixels).expect("sent");
                    under_way.insert(id, digest);
                }
                if under_way.len() == 4 || stopped && !under_way.is_empty() {
                    let (id, status) = sender.answer().expect("an answer");
                    assert_eq!(status, 0);
                    let digest = under_way.remove(&id).expect("one that is under way");
                    said.lock().expect("whole").acknowledged.insert(digest);
                } else if stopped {
                    break;
                }
            }
        });
        WindowedSender { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("it sent well");
    }
}

/// What was wrong with a disk.
#[derive(Default)]
struct Found {
    lost: usize,
    invented: usize,
    /// Acknowledged before the cuts, in all: that the test tests something.
    acknowledged: usize,
}

/// Cuts the power so many times while images arrive, and looks at what is left each time.
fn cut_power(cuts: u64, seed: u64, ignored: Option<&str>) -> Found {
    println!("seed {seed}, {cuts} cuts");
    let hospital = Hospital::new();
    let modality = Storescu::new(&hospital, "CT1");
    let disk = PowerCutDisk::mount(&hospital.folder().join("disk"), ignored);
    let mut site = Site::new(&hospital).sender("ct-1", "CT1", modality.identity()).rule(
        "nothing",
        "modality = \"none\"",
        &[],
        &[],
    );
    site.data_dir = hospital.folder().join("disk/data");
    let mut daemon = Daemon::start(&site);
    let said = Arc::new(Mutex::new(Said::default()));
    let senders: Vec<_> = (0..SENDERS)
        .map(|number| Sender::start(&hospital, &modality, &daemon, seed * 10 + number, &said))
        .collect();
    let windowed = WindowedSender::start(&hospital, &modality, &daemon, &said);
    daemon.wait_for("the first image", 30, |_| {
        (!said.lock().expect("whole").acknowledged.is_empty()).then_some(())
    });
    let mut images = Vec::new();
    for number in 0..cuts {
        // Another prime each time, so that the instants do not beat with anything.
        thread::sleep(Duration::from_millis((seed * 31 + number * 7919) % 97));
        // In this order: what is acknowledged now must be durable a moment later.
        let acknowledged = said.lock().expect("whole").acknowledged.clone();
        let image = hospital.folder().join(format!("cut-{number}"));
        let cut = if number % 2 == 0 { Cut::Drop } else { Cut::Some { seed: seed + number } };
        disk.cut(&image, cut);
        images.push((image, acknowledged));
    }
    senders.into_iter().for_each(Sender::stop);
    windowed.stop();
    daemon.kill();
    drop(disk);
    let sent = said.lock().expect("whole").sent.clone();
    let mut found = Found::default();
    for (number, (image, acknowledged)) in images.into_iter().enumerate() {
        found.acknowledged += acknowledged.len();
        let held = recovered(&mut site, &image, number % 8 < 2);
        found.lost += acknowledged.difference(&held).count();
        found.invented += held.difference(&sent).count();
        std::fs::remove_dir_all(&image).expect("removed");
    }
    found
}

/// Starts a daemon on what a cut has left, and asks what it holds.
fn recovered(site: &mut Site, image: &Path, verify: bool) -> Digests {
    site.data_dir = image.join("data");
    let mut daemon = Daemon::start(site);
    if verify {
        let path = site.path.to_str().expect("a plain path");
        run_lightbox(&["audit", "--site", path, "verify"]).ok("audit verify after a power cut");
    }
    let held = held_digests(site);
    daemon.kill();
    held.iter().map(|digest| digest.iter().map(|byte| format!("{byte:02x}")).collect()).collect()
}

#[test]
fn a_power_cut_loses_no_acknowledged_image_and_invents_none() {
    let cuts = number("LIGHTBOX_CUTS").unwrap_or(CUTS);
    let seed = number("LIGHTBOX_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let found = cut_power(cuts, seed, None);
    println!("{} acknowledged images looked for, on {cuts} disks", found.acknowledged);
    assert!(found.acknowledged as u64 > cuts * 3, "hardly an image was acknowledged before the cuts");
    assert_eq!((found.lost, found.invented), (0, 0), "lost, invented (seed {seed})");
}

#[test]
fn without_sync_the_same_test_finds_losses() {
    let found = cut_power(6, 5, Some("*.seg"));
    assert!(found.lost > 0, "syncs of the segments were ignored, and nothing was lost: the test is blind");
}
