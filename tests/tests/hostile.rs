//! Peers that attack, over TLS and byte by byte: what breaks the protocol is aborted as PS3.8 §9.3.8 says,
//! bombs and lies about lengths cost little memory, a UID is never a path, and nobody else suffers.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use lightbox_tests::peers::raw::{self, CT, EXPLICIT, VERIFICATION};
use lightbox_tests::peers::storescu::Storescu;
use lightbox_tests::peers::tls_client::Stream;
use lightbox_tests::samples::sample;
use lightbox_tests::{Daemon, Hospital, Identity, Site};

/// A-ABORT by the service provider: unrecognised PDU, unexpected PDU, invalid PDU parameter value.
const UNRECOGNISED: (u8, u8) = (2, 1);
const UNEXPECTED: (u8, u8) = (2, 2);
const INVALID: (u8, u8) = (2, 6);
const NO_REASON: (u8, u8) = (2, 0);
/// Storage Commitment Push Model.
const COMMITMENT: &str = "1.2.840.10008.1.20.1";
/// Deflated Explicit VR Little Endian.
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
/// What the daemon may need beside what it needs when it has just received an image, KiB.
const MEMORY_KIB: u64 = 64 * 1024;

struct Scene {
    attacker: Identity,
    good: Storescu,
    daemon: Daemon,
    hospital: Hospital,
}

fn scene() -> Scene {
    let hospital = Hospital::new();
    let attacker = hospital.issue("ct1");
    let good = Storescu::new(&hospital, "CT2");
    let site = Site::new(&hospital)
        .dicom_line("artim_seconds = 2\nidle_timeout_seconds = 5")
        .sender("ct-1", "CT1", &attacker)
        .sender("ct-2", "CT2", good.identity());
    let daemon = Daemon::start(&site);
    let scene = Scene { attacker, good, daemon, hospital };
    scene.nobody_suffers();
    scene
}

impl Scene {
    fn associate(&self, contexts: &[(u8, &str, &str)]) -> Stream {
        let request = raw::associate_rq_with("CT1", contexts);
        let (stream, answer) =
            raw::associate_with(self.daemon.dicom, &self.hospital, &self.attacker, &request).expect("a PDU");
        assert_eq!(answer.0, 2, "no A-ASSOCIATE-AC");
        stream
    }

    /// Another peer's images are taken.
    #[track_caller]
    fn nobody_suffers(&self) {
        self.good.deliver(self.daemon.dicom, &[], &[sample("CT_small.dcm")]);
    }

    /// The most memory that the daemon has had, KiB.
    fn peak(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.daemon.pid())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

/// The status of the response, or the A-ABORT's source and reason; none where the connection just ended.
fn outcome(stream: &mut Stream) -> io::Result<Result<u16, (u8, u8)>> {
    let answer = raw::read(stream)?;
    match answer.0 {
        7 => Ok(Err((answer.1[2], answer.1[3]))),
        4 => raw::status(&answer).map(Ok).ok_or_else(|| io::Error::other("no status")),
        other => Err(io::Error::other(format!("a PDU of type {other}"))),
    }
}

/// Sends what may be cut off in its midst, and reads the answer.
fn send(stream: &mut Stream, pdus: &[Vec<u8>]) -> io::Result<Result<u16, (u8, u8)>> {
    for pdu in pdus {
        if stream.write_all(pdu).is_err() {
            break;
        }
    }
    drop(stream.flush());
    outcome(stream)
}

/// A fault, the PDUs that make it, and source and reason of the A-ABORT that answers it.
type Case = (&'static str, Vec<Vec<u8>>, (u8, u8));

#[test]
fn what_breaks_the_protocol_is_aborted_with_its_reason() {
    let scene = scene();
    let usual = [(1, VERIFICATION, EXPLICIT), (3, CT, EXPLICIT)];
    let echo = raw::c_echo();
    let begun = || raw::p_data(3, 3, &raw::store_command("1.2.3"));
    let head = |kind: u8, length: u32| [&[kind, 0][..], &length.to_be_bytes()].concat();
    let value = |length: u32| raw::pdu(4, &[&length.to_be_bytes()[..], &[1, 3]].concat());
    let huge_command = [
        raw::command_element(0, &4_u32.to_le_bytes()),
        vec![0, 0, 2, 0, 0xf0, 0xff, 0xff, 0xff],
        vec![0; 64],
    ]
    .concat();
    // The head and the application context of a request are those of an acceptance.
    let acceptance = raw::pdu(2, &raw::associate_rq("CT1")[6..6 + 68 + 25]);
    let cases: [Case; 17] = [
        ("no value in a P-DATA-TF", vec![raw::pdu(4, &[])], INVALID),
        ("a value of length 0", vec![raw::pdu(4, &[0; 4])], INVALID),
        ("a value longer than its PDU", vec![value(u32::MAX)], INVALID),
        ("a value of one byte", vec![value(1)], INVALID),
        ("a PDU longer than agreed", vec![head(4, 0x7fff_ffff)], INVALID),
        ("a release of a gigabyte", vec![head(5, 0x4000_0000)], INVALID),
        ("a PDU of no known type", vec![raw::pdu(0x99, &[0; 4])], UNRECOGNISED),
        ("a second request", vec![raw::associate_rq("CT1")], UNEXPECTED),
        ("an acceptance", vec![acceptance], UNEXPECTED),
        ("a rejection", vec![raw::pdu(3, &[0, 1, 1, 1])], UNEXPECTED),
        ("a context that was not agreed", vec![raw::p_data(99, 3, b"\0\0\0\0")], UNEXPECTED),
        ("a data set before any command", vec![raw::p_data(3, 2, b"abcd")], UNEXPECTED),
        ("another context amid a command", vec![raw::p_data(3, 1, b"\0\0"), echo.clone()], UNEXPECTED),
        ("another context amid a data set", vec![begun(), raw::p_data(1, 0, b"ab")], UNEXPECTED),
        ("a command amid a data set", vec![begun(), raw::p_data(3, 0, b"ab"), echo.clone()], UNEXPECTED),
        ("a release amid a data set", vec![begun(), raw::release()], UNEXPECTED),
        ("a command of a lying length", vec![raw::p_data(1, 3, &huge_command)], NO_REASON),
    ];
    for (what, pdus, wanted) in cases {
        let mut stream = scene.associate(&usual);
        assert_eq!(send(&mut stream, &pdus).expect("an answer"), Err(wanted), "{what}");
        // Nothing comes behind an abort but the end.
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest));
        assert!(rest.is_empty(), "{what}: {rest:?}");
    }
    // A command set without end.
    let mut stream = scene.associate(&usual);
    let endless = raw::p_data(1, 1, &[0; 8000]);
    assert_eq!(send(&mut stream, &vec![endless; 400]).expect("an answer"), Err(NO_REASON));
    // Values without content are allowed, and no end of them is a beginning.
    let mut stream = scene.associate(&usual);
    let empty = raw::pdu(4, &[0, 0, 0, 2, 3, 0].repeat(1000));
    let pdus = [vec![begun()], vec![empty; 50], vec![raw::p_data(3, 2, b"")]].concat();
    let status = send(&mut stream, &pdus).expect("an answer").expect("no abort");
    assert_ne!(status, 0, "an instance without a byte was taken");
    scene.nobody_suffers();
}

#[test]
fn requests_that_lie_are_refused() {
    let scene = scene();
    let request = raw::associate_rq("CT1");
    // Every byte of the lengths in the request, as large as it goes.
    let mut answers = BTreeSet::new();
    for at in (6..request.len()).filter(|at| *at < 10 || *at >= 74).step_by(3) {
        let mut lying = request.clone();
        lying[at] = 0xff;
        let mut stream = raw::dial(scene.daemon.dicom, &scene.hospital, &scene.attacker).expect("TLS");
        stream.write_all(&lying).and_then(|()| stream.flush()).expect("sent");
        let answer = raw::read(&mut stream).expect("an answer");
        assert!(matches!(answer.0, 2 | 3 | 7), "byte {at}: a PDU of type {}", answer.0);
        answers.insert(answer.0);
    }
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), [2, 3, 7], "the sweep is too tame");
    // More contexts than there are odd numbers.
    let contexts: Vec<(u8, &str, &str)> = (0..=255).map(|id| (id, CT, EXPLICIT)).collect();
    let request = raw::associate_rq_with("CT1", &contexts);
    let (_, answer) =
        raw::associate_with(scene.daemon.dicom, &scene.hospital, &scene.attacker, &request).expect("a PDU");
    assert_eq!(answer.0, 2);
    scene.nobody_suffers();
}

fn deflated(bytes: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    bytes.for_each(|piece| encoder.write_all(&piece).expect("memory"));
    encoder.finish().expect("memory")
}

/// Sequences in sequences, each of undefined length; closed, where asked for.
fn nested(depth: usize, closed: bool) -> Vec<u8> {
    let begin = [
        &[0x08, 0, 0x40, 0x11, b'S', b'Q', 0, 0, 0xff, 0xff, 0xff, 0xff][..],
        &[0xfe, 0xff, 0, 0xe0, 0xff, 0xff, 0xff, 0xff],
    ]
    .concat();
    let end = [[0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0], [0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]].concat();
    [begin.repeat(depth), if closed { end.repeat(depth) } else { Vec::new() }].concat()
}

#[test]
fn bombs_cost_little_and_what_can_be_named_is_kept_as_it_came() {
    let scene = scene();
    let before = scene.peak();
    let pixels = |length: u32| {
        let head = [&[0xe0, 0x7f, 0x10, 0, b'O', b'W', 0, 0][..], &length.to_le_bytes()].concat();
        [head, vec![0; 1000]].concat()
    };
    let item = [&[0x08, 0, 0x40, 0x11, b'S', b'Q', 0, 0, 0x40, 0, 0, 0][..], &[0xfe, 0xff, 0, 0xe0]].concat();
    let plain: [(&str, Vec<u8>); 6] = [
        ("20,000 levels", nested(20_000, true)),
        ("20,000 levels without an end", nested(20_000, false)),
        ("pixels of 4 GiB", pixels(u32::MAX - 1)),
        ("fragments without an end", pixels(u32::MAX)),
        ("an item of 4 GiB", [item, vec![0xf0; 68]].concat()),
        ("200,000 elements", raw::element(0x11, 0x1010, b"LO", b"").repeat(200_000)),
    ];
    let mut kept = 0;
    for (index, (what, tail)) in plain.iter().enumerate() {
        let instance = format!("1.2.826.0.1.3680043.10.999.7.{index}");
        let mut stream = scene.associate(&[(3, CT, EXPLICIT)]);
        let data_set = [raw::identifiers("1.2.826.0.1.3680043.10.999.7", &instance), tail.clone()].concat();
        let status = send(&mut stream, &raw::c_store_of(&instance, &data_set)).expect("an answer");
        let status = status.unwrap_or_else(|abort| panic!("{what}: aborted {abort:?}"));
        kept += i64::from(status == 0);
    }
    // 128 MiB of zeros in an eighth of a MiB; the same behind what identifies the instance.
    let zeros = || std::iter::repeat_n(vec![0; 1 << 20], 128);
    let instance = |number: u32| format!("1.2.826.0.1.3680043.10.999.8.{number}");
    let identified =
        |number| std::iter::once(raw::identifiers("1.2.826.0.1.3680043.10.999.8", &instance(number)));
    let large = [0xe0, 0x7f, 0x10, 0, b'O', b'W', 0, 0, 0, 0, 0, 8].to_vec();
    for (number, what, bomb) in [
        (1, "zeros", deflated(zeros())),
        (2, "a value of 128 MiB", deflated(identified(2).chain([large]).chain(zeros()))),
        (3, "a nest", deflated(identified(3).chain(std::iter::repeat_n(nested(1000, false), 5000)))),
    ] {
        assert!(bomb.len() < 2 << 20, "{what}: {} bytes are no bomb", bomb.len());
        let mut stream = scene.associate(&[(3, CT, DEFLATED)]);
        let status = send(&mut stream, &raw::c_store_of(&instance(number), &bomb)).expect("an answer");
        let status = status.unwrap_or_else(|abort| panic!("{what}: aborted {abort:?}"));
        kept += i64::from(status == 0);
    }
    let grown = scene.peak().saturating_sub(before);
    println!("kept {kept}, {grown} KiB more");
    assert!(grown < MEMORY_KIB, "the bombs took {grown} KiB");
    scene.nobody_suffers();
    scene.daemon.wait_for("what was acknowledged to be in the index", 20, |ledger| {
        let sql = "SELECT count(*) FROM instances WHERE peer = 'ct-1'";
        (ledger.number(sql) == kept).then_some(())
    });
    // The studies are closed like others, and closing them costs no more.
    scene.daemon.wait_for("all studies to come to rest", 30, |ledger| ledger.is_quiet().then_some(()));
    let grown = scene.peak().saturating_sub(before);
    assert!(grown < MEMORY_KIB, "closing them took {grown} KiB");
}

/// An N-ACTION request for storage commitment, in context 1.
fn commitment_request(transaction: usize, references: usize) -> Vec<u8> {
    let with_length = |head: &[u8], content: Vec<u8>| {
        let length = u32::try_from(content.len()).expect("short").to_le_bytes();
        [head, &length, &content].concat()
    };
    let reference = |number| {
        let class = raw::element(8, 0x1150, b"UI", &raw::even(CT));
        let instance = raw::element(8, 0x1155, b"UI", &raw::even(&format!("1.2.3.{number}")));
        with_length(&[0xfe, 0xff, 0, 0xe0], [class, instance].concat())
    };
    let items: Vec<u8> = (0..references).flat_map(reference).collect();
    let data_set = [
        raw::element(8, 0x1195, b"UI", &raw::even(&format!("1.2.4.{transaction}"))),
        with_length(&[0x08, 0, 0x99, 0x11, b'S', b'Q', 0, 0], items),
    ]
    .concat();
    let command = raw::command(&[
        raw::command_element(3, &raw::even(COMMITMENT)),
        raw::command_element(0x100, &0x130_u16.to_le_bytes()),
        raw::command_element(0x110, &1_u16.to_le_bytes()),
        raw::command_element(0x800, &0_u16.to_le_bytes()),
        raw::command_element(0x1001, &raw::even(&format!("{COMMITMENT}.1"))),
        raw::command_element(0x1008, &1_u16.to_le_bytes()),
    ]);
    let mut pdus = raw::p_data(1, 3, &command);
    let last = data_set.chunks(16_000).count() - 1;
    for (index, piece) in data_set.chunks(16_000).enumerate() {
        pdus.extend(raw::p_data(1, if index == last { 2 } else { 0 }, piece));
    }
    pdus
}

#[test]
fn long_requests_are_taken_one_after_the_other() {
    let scene = scene();
    let before = scene.peak();
    let requests: Vec<_> = (0..16).map(|number| commitment_request(number, 50_000)).collect();
    let answers: Vec<_> = thread::scope(|scope| {
        let senders: Vec<_> = requests
            .iter()
            .map(|request| {
                scope.spawn(|| {
                    let mut stream = scene.associate(&[(1, COMMITMENT, EXPLICIT)]);
                    // An A-ABORT in the midst of what is sent may be lost with the connection.
                    let answer = send(&mut stream, std::slice::from_ref(request)).unwrap_or(Err(NO_REASON));
                    // Long enough for the report, of which nothing is read.
                    thread::sleep(Duration::from_secs(3));
                    answer
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().expect("no panic")).collect()
    });
    let taken = answers.iter().filter(|answer| **answer == Ok(0)).count();
    // Who had to wait for longer than the idle timeout, on a slow machine, is told to send again.
    assert!(answers.iter().all(|answer| matches!(answer, Ok(0 | 0x0213))), "{answers:?}");
    assert!(taken > 0, "{answers:?}");
    let grown = scene.peak().saturating_sub(before);
    println!("{taken} of {} long requests taken, {grown} KiB more", answers.len());
    // All at once they would take over half a GiB; one after the other, the allocator keeps some of each.
    assert!(grown < 2 * MEMORY_KIB, "the long requests took {grown} KiB");
    scene.nobody_suffers();
}

/// Every file and folder below a folder.
fn below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(below(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

#[test]
fn a_uid_is_never_a_path() {
    let scene = scene();
    let data = scene.hospital.folder().join("data");
    let outside = || -> BTreeSet<PathBuf> {
        below(scene.hospital.folder()).into_iter().filter(|path| !path.starts_with(&data)).collect()
    };
    let before = outside();
    let names = [
        "../../escaped",
        "/tmp/lightbox-escaped",
        "..\\..\\escaped",
        "escaped",
        "1.2.3/../../escaped",
        "1.2.3\0/../escaped",
        "....//escaped",
        "%2e%2e%2fescaped",
        "",
    ];
    for name in names {
        for (study, in_command, in_data_set) in
            [("1.2.3", name, name), ("1.2.3", "1.2.3.4", name), (name, "1.2.3.4", "1.2.3.4")]
        {
            let mut stream = scene.associate(&[(3, CT, EXPLICIT)]);
            let data_set = raw::identifiers(study, in_data_set);
            let answer = send(&mut stream, &raw::c_store_of(in_command, &data_set)).expect("an answer");
            assert!(!matches!(answer, Ok(0)), "{study:?} {in_command:?} {in_data_set:?}: taken");
        }
        // As an AE title it is nobody's.
        let request = raw::associate_rq_with(&name.replace('\0', " "), &[(3, CT, EXPLICIT)]);
        if request.len() == raw::associate_rq_with("CT1", &[(3, CT, EXPLICIT)]).len() {
            let (_, answer) =
                raw::associate_with(scene.daemon.dicom, &scene.hospital, &scene.attacker, &request)
                    .expect("a PDU");
            assert_eq!(answer.0, 3, "{name:?}: no A-ASSOCIATE-RJ");
        }
    }
    // A name that is a UID is taken, so it is the names that were refused.
    let mut stream = scene.associate(&[(3, CT, EXPLICIT)]);
    let whole = raw::c_store_of("1.2.3.4", &raw::identifiers("1.2.3", "1.2.3.4"));
    assert_eq!(send(&mut stream, &whole).expect("an answer"), Ok(0));
    assert_eq!(outside().difference(&before).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
    let named: Vec<PathBuf> =
        below(&data).into_iter().filter(|path| path.to_string_lossy().contains("escaped")).collect();
    assert_eq!(named, Vec::<PathBuf>::new());
    assert!(!Path::new("/tmp/lightbox-escaped").exists());
    scene.nobody_suffers();
}
