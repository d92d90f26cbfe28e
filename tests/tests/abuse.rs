//! Peers that misbehave: slowly, and all at once. Nothing leaks, nobody else suffers, and what was
//! acknowledged is there. `LIGHTBOX_ABUSE_SECONDS=N` abuses for longer (`./justw abuse`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lightbox_tests::chance::{Random, number};
use lightbox_tests::peers::curl::Browser;
use lightbox_tests::peers::raw;
use lightbox_tests::peers::storescu::Storescu;
use lightbox_tests::peers::tls_client::Stream;
use lightbox_tests::peers::windowed::Windowed;
use lightbox_tests::samples::sample;
use lightbox_tests::{Daemon, Hospital, Identity, Site};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

/// Associations at once.
const WORKERS: u64 = 64;
/// How long an ordinary run abuses.
const SECONDS: u64 = 10;
/// Timers of the daemon, in seconds.
const TIMERS: &str = "handshake_timeout_seconds = 2\nartim_seconds = 2\nidle_timeout_seconds = 2";

fn seconds() -> u64 {
    number("LIGHTBOX_ABUSE_SECONDS").unwrap_or(SECONDS)
}

/// Two peers: CT1 that misbehaves, CT2 that behaves.
struct Scene {
    abuser: Identity,
    good: Storescu,
    browser: Browser,
    daemon: Daemon,
    hospital: Hospital,
}

fn scene() -> Scene {
    let hospital = Hospital::new();
    let (abuser, viewer) = (hospital.issue("ct1"), hospital.issue("viewer"));
    let good = Storescu::new(&hospital, "CT2");
    let site = Site::new(&hospital)
        .dicom_line(TIMERS)
        .dicom_line("max_associations = 128")
        .sender("ct-1", "CT1", &abuser)
        .sender("ct-2", "CT2", good.identity())
        .operator("Vera", "viewer", &viewer);
    let daemon = Daemon::start(&site);
    let browser = Browser::new(&hospital, daemon.admin, Some(&viewer));
    Scene { abuser, good, browser, daemon, hospital }
}

/// Writes a byte each half second until the other side has had enough; how long that took.
fn drip(mut stream: impl Write, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    for byte in bytes.iter().cycle() {
        if stream.write_all(&[*byte]).and_then(|()| stream.flush()).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(500));
        if begun.elapsed() > Duration::from_secs(60) {
            break;
        }
    }
    begun.elapsed()
}

#[test]
fn who_sends_a_byte_now_and_then_or_never_reads_is_cut_by_the_timers() {
    let scene = scene();
    let to = scene.daemon.dicom;
    let associate = || {
        let (stream, answer) =
            raw::associate(to, &scene.hospital, &scene.abuser, "CT1").expect("an association");
        assert_eq!(answer.0, 2, "no A-ASSOCIATE-AC");
        stream
    };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let handshake = scope.spawn(|| {
            // The head of a TLS record with a ClientHello of 512 bytes.
            let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 500]].concat();
            drip(TcpStream::connect(to).expect("connected"), &hello)
        });
        let request = scope.spawn(|| {
            let stream = raw::dial(to, &scene.hospital, &scene.abuser).expect("TLS");
            drip(stream, &raw::associate_rq("CT1"))
        });
        let data = scope.spawn(|| {
            let mut stream = associate();
            let pdus = raw::c_store("1.2.3.4", "1.2.3.4.5", 40_000);
            stream.write_all(&pdus[0]).expect("sent");
            drip(stream, &pdus[1])
        });
        scope.spawn(|| {
            // Asks and never reads the answers, until nothing can be written; then holds on.
            let mut stream = associate();
            stream.sock.set_write_timeout(Some(Duration::from_secs(1))).expect("set");
            let echoes = raw::c_echo().repeat(200);
            while !over.load(Ordering::SeqCst) {
                if stream.write_all(&echoes).is_err() {
                    break;
                }
            }
            let limit = Instant::now() + Duration::from_secs(180);
            while !over.load(Ordering::SeqCst) && Instant::now() < limit {
                thread::sleep(Duration::from_millis(100));
            }
        });
        // Another peer's sends succeed meanwhile.
        let mut sent = 0;
        while sent < 3 || !(handshake.is_finished() && request.is_finished() && data.is_finished()) {
            scene.good.deliver(to, &[], &[sample("CT_small.dcm")]);
            sent += 1;
        }
        let limit = Instant::now() + Duration::from_secs(90);
        while scene.open() != 0 && Instant::now() < limit {
            thread::sleep(Duration::from_millis(200));
        }
        let left = scene.open();
        over.store(true, Ordering::SeqCst);
        assert_eq!(left, 0, "the peer that never reads still has its place");
        for (what, slow) in [("handshake", handshake), ("request", request), ("data", data)] {
            let took = slow.join().expect("no panic");
            assert!(took < Duration::from_secs(30), "{what}: not cut, {took:?}");
            assert!(took > Duration::from_millis(1500), "{what}: not cut by a timer, {took:?}");
        }
    });
    let ledger = scene.daemon.ledger();
    assert_eq!(ledger.number("SELECT count(*) FROM instances WHERE peer = 'ct-1'"), 0);
    let reasons = ledger.texts("SELECT reason FROM refusals");
    for wanted in [
        "did not finish the TLS handshake in time",
        "no whole PDU in time while we waited for A-ASSOCIATE-RQ",
    ] {
        assert!(reasons.iter().any(|reason| reason.contains(wanted)), "{wanted} in {reasons:?}");
    }
}

impl Scene {
    fn metric(&self, name: &str) -> i64 {
        let text = self.browser.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or("0").trim().parse::<f64>().expect("a number") as i64
    }

    fn open(&self) -> i64 {
        self.metric("lightbox_associations_open")
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.daemon.pid())).expect("it runs").count()
    }

    /// Resident memory, KiB.
    fn resident(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.daemon.pid())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Waits until nothing is going on, and yields tasks and descriptors. What was received must be moved
    /// out of its segments first, each of which is an open file.
    fn at_rest(&self, goal: Option<(i64, usize)>) -> (i64, usize) {
        let mut last = (0, 0);
        // As long as it gets on: a loaded machine takes its time to move tens of thousands of files.
        let mut fewest = usize::MAX;
        let mut limit = Instant::now() + Duration::from_secs(60);
        while Instant::now() < limit {
            let now = (self.metric("lightbox_tasks_alive"), self.descriptors());
            let quiet = self.daemon.ledger().is_quiet() && self.open() == 0;
            if now.1 < fewest {
                (fewest, limit) = (now.1, Instant::now() + Duration::from_secs(60));
            }
            match goal {
                Some((tasks, descriptors))
                    if quiet && now.0 <= tasks && now.1 <= descriptors + SPARE_DESCRIPTORS =>
                {
                    return now;
                }
                None if quiet && now == last => return now,
                _ => last = now,
            }
            thread::sleep(Duration::from_millis(1000));
        }
        last
    }
}

/// Closes with a TCP reset.
fn reset(stream: &Stream) {
    setsockopt(&stream.sock, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).expect("set");
}

/// Readers of the ledger and spare segments are opened as they are needed and kept: a few more after a hundred
/// seconds than after the warm-up are none that leaked, of tens of thousands of associations.
const SPARE_DESCRIPTORS: usize = 4;

/// One association of one kind or another; yields what was acknowledged.
fn misbehave(
    scene: &Scene,
    random: &mut Random,
    next: &mut impl FnMut() -> (String, String),
) -> io::Result<Vec<String>> {
    let to = scene.daemon.dicom;
    let kind = random.below(10);
    if kind == 0 {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(&[0x16, 3, 1])?;
        return Ok(Vec::new());
    }
    if kind == 1 {
        let mut stream = raw::dial(to, &scene.hospital, &scene.abuser)?;
        let request = raw::associate_rq("CT1");
        stream.write_all(&request[..random.below(request.len() as u64) as usize])?;
        stream.sock.shutdown(Shutdown::Write)?;
        drop(stream.read(&mut [0; 64]));
        return Ok(Vec::new());
    }
    if kind == 9 {
        return leave_under_way(scene, random, next);
    }
    let (mut stream, answer) = raw::associate(to, &scene.hospital, &scene.abuser, "CT1")?;
    if answer.0 != 2 {
        return Ok(Vec::new());
    }
    let mut acknowledged = Vec::new();
    for _ in 0..random.below(3) {
        let (study, instance) = next();
        if raw::send(&mut stream, &study, &instance, 20_000 + random.below(60_000) as usize)? == 0 {
            acknowledged.push(instance);
        }
    }
    let (study, instance) = next();
    let partly = |stream: &mut Stream, random: &mut Random| -> io::Result<()> {
        let bytes = raw::c_store(&study, &instance, 100_000).concat();
        stream.write_all(&bytes[..random.below(bytes.len() as u64 - 1) as usize])?;
        stream.flush()
    };
    // An error after an acknowledgement takes nothing back.
    let ended = match kind {
        2 => partly(&mut stream, random).map(|()| reset(&stream)),
        3 => partly(&mut stream, random).and_then(|()| stream.write_all(&raw::abort())),
        4 => partly(&mut stream, random).and_then(|()| {
            stream.sock.shutdown(Shutdown::Write)?;
            drop(stream.read(&mut [0; 64]));
            Ok(())
        }),
        5 => stream.write_all(&[0xff; 100]).and_then(|()| stream.flush()),
        6 => Ok(()),
        _ => stream.write_all(&raw::release()).and_then(|()| raw::read(&mut stream).map(|_| ())),
    };
    drop(ended);
    Ok(acknowledged)
}

/// Several images under way on one association, some of their answers read, then a reset.
fn leave_under_way(
    scene: &Scene,
    random: &mut Random,
    next: &mut impl FnMut() -> (String, String),
) -> io::Result<Vec<String>> {
    let mut sender = Windowed::associate(scene.daemon.dicom, &scene.hospital, &scene.abuser, "CT1", 8)?;
    let mut open = BTreeMap::new();
    for _ in 0..1 + random.below(7) {
        let (study, instance) = next();
        let id = sender.begin(&study, &instance, &vec![7; 20_000 + 2 * random.below(30_000) as usize])?;
        open.insert(id, instance);
    }
    let mut acknowledged = Vec::new();
    for _ in 0..random.below(open.len() as u64 + 1) {
        let Ok((id, status)) = sender.answer() else { break };
        acknowledged.extend(open.remove(&id).filter(|_| status == 0));
    }
    reset(&sender.stream);
    Ok(acknowledged)
}

fn abuse(scene: &Scene, run: u64, seconds: u64) -> BTreeSet<String> {
    let acknowledged = Mutex::new(BTreeSet::new());
    let until = Instant::now() + Duration::from_secs(seconds);
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let acknowledged = &acknowledged;
            scope.spawn(move || {
                let mut random = Random(run * 1000 + worker);
                let mut count = 0;
                let study = format!("1.2.826.0.1.3680043.10.999.{run}.{worker}");
                let mut next = || {
                    count += 1;
                    (study.clone(), format!("{study}.2.{count}"))
                };
                while Instant::now() < until {
                    if let Ok(taken) = misbehave(scene, &mut random, &mut next) {
                        acknowledged.lock().expect("whole").extend(taken);
                    }
                }
            });
        }
    });
    acknowledged.into_inner().expect("whole")
}

#[test]
fn sixty_four_bad_associations_leak_nothing_and_lose_nothing() {
    let scene = scene();
    let mut acknowledged = abuse(&scene, 1, 3);
    let (tasks, descriptors) = scene.at_rest(None);
    let resident = scene.resident();
    acknowledged.extend(abuse(&scene, 2, seconds()));
    let after = scene.at_rest(Some((tasks, descriptors)));
    println!(
        "acknowledged {}; tasks {tasks} then {}; descriptors {descriptors} then {}; resident {resident} then {} KiB",
        acknowledged.len(),
        after.0,
        after.1,
        scene.resident()
    );
    assert!(after.0 <= tasks, "tasks: {tasks} after the warm-up, {} now", after.0);
    assert!(
        after.1 <= descriptors + SPARE_DESCRIPTORS,
        "descriptors: {descriptors} after the warm-up, {} now",
        after.1
    );
    let most = resident + (resident / 4).max(32 * 1024);
    assert!(scene.resident() <= most, "resident: {resident} KiB after the warm-up, {} now", scene.resident());
    let ledger = scene.daemon.ledger();
    let kept: BTreeSet<String> =
        ledger.texts("SELECT sop_instance_uid FROM instances WHERE state = 'kept'").into_iter().collect();
    assert!(!acknowledged.is_empty(), "nothing was acknowledged: the test does not test");
    let lost: Vec<_> = acknowledged.difference(&kept).collect();
    assert!(lost.is_empty(), "acknowledged and not in the ledger: {lost:?}");
    scene.good.deliver(scene.daemon.dicom, &[], &[sample("CT_small.dcm")]);
}
