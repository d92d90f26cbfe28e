//! kill -9 at random instants while studies arrive and results leave.
//!
//! `LIGHTBOX_SEED=N` repeats a run's instants, `LIGHTBOX_KILLS=N` asks for more of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lightbox_tests::chance::{Random, number};
use lightbox_tests::command::run_lightbox;
use lightbox_tests::ledger::{Ledger, ResultRow};
use lightbox_tests::peers::mllp::{Behaviour, field};
use lightbox_tests::samples::{copy_as, data_set_digest, files_below, held, held_digests, phantom, sop_uid};
use lightbox_tests::{Daemon, Line, Site};

/// Kills in an ordinary run.
const KILLS: u32 = 50;
/// Studies for each kill, in tenths, so that there is always one more to send.
const STUDIES_TENTHS: u32 = 15;
/// Images of one study.
const IMAGES: usize = 4;
/// The longest pause of the sender between two studies.
const PAUSE_MS_MAX: u64 = 700;
/// The longest life of a daemon: it covers receiving, the quiet timer, inference and delivery.
const LIFE_MS_MAX: u64 = 2400;

type Digest = [u8; 32];

/// What has been seen so far and must never change.
#[derive(Default)]
struct Seen {
    /// Acknowledged data sets.
    acknowledged: BTreeSet<Digest>,
    /// Files under a final name, and their contents.
    results: BTreeMap<PathBuf, Vec<u8>>,
    /// Rows of the ledger, by study, revision and model.
    rows: BTreeMap<(String, i64, String), ResultRow>,
    /// Inconsistencies, all of them, for the report at the end.
    problems: Vec<String>,
    /// How many kills found work of each kind under way: receiving, running a model, delivering.
    interrupted: [u32; 3],
}

/// Whether something is under way, as the ledger of a killed daemon says.
fn under_way(ledger: &Ledger, sql: &str) -> u32 {
    u32::from(ledger.number(sql) > 0)
}

impl Seen {
    /// Looks at what a killed daemon has left.
    fn look(&mut self, site: &Site, sent: &BTreeSet<Digest>, kill: u32) {
        let data_dir = &site.data_dir;
        // What lies in segments is asked of the box itself, which takes a while: not after every kill.
        let held = (kill % 5 == 1).then(|| held(site));
        let held = held.iter().flat_map(|(_folder, files)| files.clone());
        for file in held.chain(files_below(&data_dir.join("studies"), "dcm")) {
            match data_set_digest(&file) {
                Some(digest) if sent.contains(&digest) => {}
                _ => self
                    .problems
                    .push(format!("kill {kill}: half-written under a final name: {}", file.display())),
            }
        }
        for ending in ["dcm", "hl7"] {
            for file in files_below(&data_dir.join("results"), ending) {
                let bytes = std::fs::read(&file).expect("it was listed");
                let whole = match ending {
                    "dcm" => dicom_object::open_file(&file)
                        .is_ok_and(|object| object.element_by_name("ContentSequence").is_ok()),
                    _ => bytes.ends_with(b"\r"),
                };
                if !whole {
                    self.problems.push(format!("kill {kill}: half-written result: {}", file.display()));
                }
                let first = self.results.entry(file.clone()).or_insert_with(|| bytes.clone());
                if *first != bytes {
                    self.problems.push(format!("kill {kill}: a result has changed: {}", file.display()));
                }
            }
        }
        let ledger = Ledger::open(data_dir);
        self.interrupted[1] +=
            under_way(&ledger, "SELECT count(*) FROM jobs WHERE state IN ('waiting', 'running')");
        self.interrupted[2] +=
            under_way(&ledger, "SELECT count(*) FROM deliveries WHERE state IN ('queued', 'sending')");
        for row in ledger.results() {
            let key = (row.study.clone(), row.revision, row.model.clone());
            let first = self.rows.entry(key).or_insert_with(|| row.clone());
            if *first != row {
                self.problems.push(format!("kill {kill}: a result has new UIDs: {first:?}, now {row:?}"));
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_no_result_is_doubled() {
    let kills = number("LIGHTBOX_KILLS").map_or(KILLS, |kills| kills as u32);
    let seed = number("LIGHTBOX_SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ 0x1357_9bdf);
    println!("seed {seed}, {kills} kills; LIGHTBOX_SEED={seed} repeats the instants");
    let mut random = Random(seed);

    let mut line = Line::start_with(|_, site| Line::usual_rules(site));
    line.daemon.stop();
    // A RIS that takes its time, so that kills find messages under way.
    line.ris.behave(Behaviour::AcceptAfter(Duration::from_millis(150)));

    // The studies: copies of a phantom, so that findings are made.
    let folder = line.hospital.sub_folder("studies");
    let image = phantom(&line.hospital, "dx", 1).files.remove(0);
    let mut studies: VecDeque<Vec<PathBuf>> = VecDeque::new();
    let mut sent = BTreeSet::new();
    let count = (kills * STUDIES_TENTHS / 10) as usize;
    for index in 0..count {
        let first = copy_as(&image, &folder.join(format!("{index}-0.dcm")), true);
        let others =
            (1..IMAGES).map(|image| copy_as(&first, &folder.join(format!("{index}-{image}.dcm")), false));
        let files: Vec<PathBuf> = std::iter::once(first.clone()).chain(others).collect();
        sent.extend(files.iter().map(|file| data_set_digest(file).expect("a Part 10 file")));
        studies.push_back(files);
    }

    let mut seen = Seen::default();
    let queue = Mutex::new(studies);
    let started = Instant::now();
    for kill in 1..=kills {
        let mut daemon = Daemon::start(&line.site);
        let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let mut pauses = Random(random.below(u64::MAX));
        let cut_short = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // As a PACS does it: what was not acknowledged is sent again.
                while !stop.load(Ordering::Relaxed) {
                    let Some(study) = queue.lock().expect("whole").pop_front() else { return };
                    let answer = line.modality.send(daemon.dicom, &[], &study);
                    let missing: Vec<PathBuf> =
                        study.into_iter().filter(|file| !answer.acknowledged.contains(file)).collect();
                    acknowledged.lock().expect("whole").extend(answer.acknowledged);
                    if !missing.is_empty() {
                        cut_short.store(missing.len() < IMAGES, Ordering::Relaxed);
                        queue.lock().expect("whole").push_front(missing);
                    }
                    thread::sleep(Duration::from_millis(pauses.below(PAUSE_MS_MAX)));
                }
            });
            thread::sleep(Duration::from_millis(random.below(LIFE_MS_MAX)));
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(daemon.pid() as i32),
                nix::sys::signal::Signal::SIGKILL,
            )
            .expect("it runs");
            stop.store(true, Ordering::Relaxed);
        });
        daemon.kill();
        seen.interrupted[0] += u32::from(cut_short.into_inner());
        for file in acknowledged.into_inner().expect("whole") {
            seen.acknowledged.insert(data_set_digest(&file).expect("a Part 10 file"));
        }
        seen.look(&line.site, &sent, kill);
    }
    println!("{kills} kills in {:?}; {} images acknowledged", started.elapsed(), seen.acknowledged.len());
    let [receiving, running, delivering] = seen.interrupted;
    println!(
        "kills within a study's images: {receiving}, before a model's end: {running}, before a delivery's: {delivering}"
    );
    assert!(receiving > 0 && delivering > 0, "no kill fell on work under way: a test of nothing");
    assert!(
        seen.acknowledged.len() >= kills as usize / 2,
        "too few images got through for a test of anything"
    );

    // A daemon that may live: the rest is sent, and everything comes to rest.
    line.daemon = Daemon::start(&line.site);
    for study in queue.into_inner().expect("whole") {
        let answer = line.modality.deliver(line.daemon.dicom, &[], &study);
        for file in answer.acknowledged {
            seen.acknowledged.insert(data_set_digest(&file).expect("a Part 10 file"));
        }
    }
    let images = sent.len() as i64;
    line.daemon.wait_for("everything to come to rest", 120, |ledger| {
        (ledger.number("SELECT count(*) FROM instances") == images && ledger.is_quiet()).then_some(())
    });
    seen.look(&line.site, &sent, kills + 1);

    let kept: BTreeSet<Digest> = held_digests(&line.site);
    let lost = seen.acknowledged.difference(&kept).count();
    assert_eq!(lost, 0, "{lost} acknowledged images are gone (seed {seed})");
    assert_eq!(seen.acknowledged, sent, "not every image was acknowledged in the end");

    let ledger = line.daemon.ledger();
    assert_eq!(ledger.number("SELECT count(*) FROM studies"), count as i64, "{}", ledger.summary());
    assert_eq!(
        ledger.number("SELECT count(*) FROM studies WHERE state <> 'done'"),
        0,
        "{}",
        ledger.summary()
    );
    assert_eq!(ledger.number("SELECT count(*) FROM deliveries WHERE state <> 'delivered'"), 0);
    let without = "SELECT count(*) FROM revisions r WHERE (SELECT count(*) FROM results x
                   WHERE x.study_id = r.study_id AND x.revision = r.revision) <> 1";
    assert_eq!(ledger.number(without), 0, "a revision has no result, or two");
    let results = ledger.results();
    let reports: BTreeSet<String> = results.iter().map(|row| row.sr_uid.clone()).collect();
    let at_pacs: BTreeSet<String> = line.pacs.files().iter().map(|file| sop_uid(file)).collect();
    assert_eq!(at_pacs, reports, "what the PACS holds is not what the ledger says");
    let mut messages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for text in line.ris.texts() {
        messages.entry(field(&text, "MSH", 10)).or_default().insert(text);
    }
    let controls: BTreeSet<String> = results.iter().map(|row| row.control_id.clone()).collect();
    assert_eq!(messages.keys().cloned().collect::<BTreeSet<_>>(), controls);
    let changed: Vec<_> = messages.iter().filter(|(_, texts)| texts.len() > 1).collect();
    assert!(changed.is_empty(), "a message was sent twice with other contents: {changed:?}");
    assert!(seen.problems.is_empty(), "seed {seed}:\n{}", seen.problems.join("\n"));

    let site = line.site.path.to_str().expect("a plain path").to_owned();
    run_lightbox(&["audit", "--site", &site, "verify"]).ok("audit verify after the kills");
}
