//! The object store against itself: what goes in comes out, whatever the end of the run was.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::*;
use crate::dicom::attributes::Attributes;
use crate::phi::Phi;

const SYNTAX: &str = "1.2.840.10008.1.2.1";
const STUDY: &str = "abcdefghijkm";
/// Small, so that a test sees many lives of a segment.
const SIZES: Config = Config { reserve_bytes: 0, segment_bytes: 1 << 20, segments: 3 };

fn receipt() -> Receipt {
    Receipt {
        sop_class_uid: "1.2.840.10008.5.1.4.1.1.2".into(),
        sop_instance_uid: Phi::from("1.2.3.4"),
        transfer_syntax: SYNTAX.into(),
        calling_ae: "CT1".into(),
        called_ae: "LIGHTBOX".into(),
        peer: "ct-1".into(),
        received_ms: 1_790_000_000_123,
    }
}

fn entry(digest: &Digest, size: u64) -> Entry {
    Entry {
        object: ObjectId::new(STUDY, digest),
        receipt: receipt(),
        study_uid: Phi::from("1.2"),
        series_uid: Phi::from("1.2.3"),
        attributes: Attributes::default(),
        frames: 1,
        size,
        readable: true,
    }
}

async fn incoming(objects: &Objects, bytes: &[u8]) -> Incoming {
    let mut incoming = objects.begin(receipt()).expect("begun");
    for fragment in bytes.chunks(130_000) {
        incoming.write(fragment).await.expect("written");
    }
    incoming
}

async fn store(objects: &Objects, bytes: &[u8]) -> ObjectId {
    let finished = incoming(objects, bytes).await.finish().await.expect("finished");
    let entry = entry(finished.digest(), finished.length());
    let id = entry.object.clone();
    finished.commit(entry).await.expect("committed");
    id
}

fn bytes_of(objects: &Objects, id: &ObjectId) -> Vec<u8> {
    let (found, mut reader) = objects.read(id).expect("read");
    assert_eq!(found, receipt());
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes.len() as u64, reader.length());
    bytes
}

fn some_bytes(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + seed * 7 + at / 251) as u8).collect()
}

/// Waits for the exporter, which leaves a busy disk alone.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "no {what} in 30 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn segment_files(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder.join("segments")).expect("listed");
    listed
        .map(|item| item.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_every_length_come_back_from_the_segments_and_from_their_files() {
    let folder = tempfile::tempdir().expect("temp dir");
    let objects = Objects::open(folder.path(), Config { segments: 9, ..SIZES }).expect("opened").objects;
    let mut kept = Vec::new();
    for (seed, length) in [1, 7, 4096, 130_000, 786_431, 786_432, 786_433, 3_000_000].into_iter().enumerate()
    {
        let bytes = some_bytes(seed, length);
        kept.push((store(&objects, &bytes).await, bytes));
    }
    for (id, bytes) in &kept {
        assert_eq!(bytes_of(&objects, id), *bytes);
        assert!(objects.verify(id).expect("read"), "{} bytes", bytes.len());
    }
    until("export", || objects.list_in_segments().is_empty());
    let mut files = objects.list_files().expect("listed");
    files.sort();
    assert_eq!(files.len(), kept.len());
    for (id, bytes) in &kept {
        assert_eq!(bytes_of(&objects, id), *bytes);
        assert!(objects.verify(id).expect("read"));
    }
    objects.remove(&kept[0].0).expect("removed");
    assert!(matches!(objects.read(&kept[0].0), Err(ObjectError::Absent)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_is_there_after_any_end_and_what_was_not_is_not() {
    let folder = tempfile::tempdir().expect("temp dir");
    let mut kept = Vec::new();
    for run in 0..4 {
        let opened = Objects::open(folder.path(), SIZES).expect("opened");
        for (id, bytes) in &kept {
            assert_eq!(bytes_of(&opened.objects, id), *bytes, "in run {run}");
        }
        assert_eq!(opened.broken, []);
        for number in 0..3 {
            let bytes = some_bytes(run * 10 + number, 500_000 + 300_000 * number);
            kept.push((store(&opened.objects, &bytes).await, bytes));
        }
        // Given up by its sender, with a chunk at the writer.
        let given_up = incoming(&opened.objects, &some_bytes(99 + run, 1_700_000)).await;
        drop(given_up);
    }
    let opened = Objects::open(folder.path(), SIZES).expect("opened");
    let mut found = opened.objects.list_files().expect("listed");
    found.extend(opened.objects.list_in_segments());
    let mut names: Vec<_> = found.into_iter().map(|(id, _)| id).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), kept.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_used_again_and_extra_ones_go() {
    let folder = tempfile::tempdir().expect("temp dir");
    let objects = Objects::open(folder.path(), SIZES).expect("opened").objects;
    for number in 0..40 {
        let bytes = some_bytes(number, 600_000);
        let id = store(&objects, &bytes).await;
        assert_eq!(bytes_of(&objects, &id), bytes, "object {number}");
    }
    until("export", || objects.list_in_segments().is_empty());
    until("return of the extra segments", || segment_files(folder.path()).len() <= SIZES.segments);
    assert_eq!(objects.list_files().expect("listed").len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_fall_on_the_same_object() {
    let folder = tempfile::tempdir().expect("temp dir");
    let objects = Objects::open(folder.path(), SIZES).expect("opened").objects;
    let first = store(&objects, b"bytes").await;
    assert_eq!(store(&objects, b"bytes").await, first);
    assert_ne!(store(&objects, b"bytez").await, first);
    until("export", || objects.list_in_segments().is_empty());
    assert_eq!(store(&objects, b"bytes").await, first);
    until("export", || objects.list_in_segments().is_empty());
    assert_eq!(objects.list_files().expect("listed").len(), 2);
}

/// A store that has so many segments that nothing presses the exporter.
fn roomy(folder: &Path) -> Opened {
    Objects::open(folder, Config { segments: 8, ..SIZES }).expect("opened")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_off_at_every_byte_and_takes_nothing_else_along() {
    let folder = tempfile::tempdir().expect("temp dir");
    let opened = roomy(folder.path());
    let first = store(&opened.objects, &some_bytes(1, 3000)).await;
    // A sender that knows how records look, but not the segment's nonce.
    let forged = record::RecordHeader { kind: record::Kind::Commit, length: 0, payload_crc: 0 }.encode(7);
    let hostile: Vec<u8> = forged.iter().copied().cycle().take(9000).collect();
    let second = store(&opened.objects, &hostile).await;
    let located = opened.objects.inner.live.find(&second).expect("in a segment");
    let (begin, end) = (located.pieces[0].at - 32, located.record.at + u64::from(located.record.length));
    let file = located.record.segment.path().to_owned();
    drop((located, opened));

    let whole = fs::read(&file).expect("read");
    for cut in (begin..end).step_by(487).chain([end - 1]) {
        let torn = tempfile::tempdir().expect("temp dir");
        fs::create_dir(torn.path().join("segments")).expect("made");
        let mut bytes = whole.clone();
        bytes[cut as usize..end as usize].fill(0xee);
        fs::write(torn.path().join("segments").join("00000001.seg"), bytes).expect("written");
        let opened = roomy(torn.path());
        let found: Vec<_> = opened.entries.iter().map(|entry| entry.object.clone()).collect();
        assert_eq!(found, std::slice::from_ref(&first), "cut at {cut}");
        assert_eq!(bytes_of(&opened.objects, &first), some_bytes(1, 3000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_once_never_comes_back() {
    let folder = tempfile::tempdir().expect("temp dir");
    let opened = roomy(folder.path());
    let torn = store(&opened.objects, &some_bytes(1, 9000)).await;
    let located = opened.objects.inner.live.find(&torn).expect("in a segment");
    let (file, at) = (located.pieces[0].segment.path().to_owned(), located.pieces[0].at);
    drop((located, opened));
    // The chunk was not written before the power went, its commit record was.
    let file = OpenOptions::new().write(true).open(file).expect("opened");
    file.write_all_at(&[0xee; 4000], at + 100).expect("written");
    for run in 0..3 {
        let opened = roomy(folder.path());
        assert!(opened.entries.iter().all(|entry| entry.object != torn), "in run {run}");
        assert!(matches!(opened.objects.read(&torn), Err(ObjectError::Absent)), "in run {run}");
        store(&opened.objects, &some_bytes(run + 10, 5000)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_is_found() {
    let folder = tempfile::tempdir().expect("temp dir");
    let opened = roomy(folder.path());
    let id = store(&opened.objects, &some_bytes(5, 5000)).await;
    assert!(opened.objects.verify(&id).expect("read"));
    let flip = |path: &Path, at: u64| {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("opened");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 1], at).expect("written");
    };
    if let Some(located) = opened.objects.inner.live.find(&id) {
        flip(located.pieces[0].segment.path(), located.pieces[0].at + 100);
        assert!(!opened.objects.verify(&id).expect("read"));
        flip(located.pieces[0].segment.path(), located.pieces[0].at + 100);
    }
    until("export", || opened.objects.list_in_segments().is_empty());
    let file = opened.objects.inner.path(&id);
    flip(&file, fs::metadata(&file).expect("there").len() - 10);
    assert!(!opened.objects.verify(&id).expect("read"));
}
