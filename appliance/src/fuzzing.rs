//! What the fuzz targets of `appliance/fuzz` run, one function for each parser of peers' bytes.
//!
//! They stand here and not with the fuzzer because the tests run them too, on the seeds and on every input
//! that once broke a parser. Nothing of this is compiled into the product.

use std::io::{Cursor, Read};
use std::path::Path;
use std::time::Duration;

use lightbox_bootstrap::slot::disk::Disk;
use lightbox_bootstrap::slot::gpt::Table;
use lightbox_bootstrap::slot::uki::Uki;
use lightbox_models::acceptance::{SetReader, seal};
use lightbox_models::golden::Expected;
use lightbox_models::network::NetworkError;
use lightbox_models::plan::{self, Plan};
use lightbox_models::publish::Proposal;
use lightbox_models::recall::Notice;
use lightbox_models::{Manifest, pack};
use lightbox_provisioning::site::{Orders, Site};
use sha2::{Digest as _, Sha256};
use tokio::io::{join, sink};

pub use crate::deliver::forward::fuzzing::forward;
use crate::dicom::association::{Incoming, Limits, Requested, Roles};
use crate::dicom::attributes::Attributes;
use crate::dicom::data_set::DataSet;
use crate::dicom::dimse::Command;
use crate::dicom::part_ten::{self, Head, Source};
use crate::dicom::{charset, commitment, header, procedure_step, services};
use crate::hl7::er7::Message;
use crate::hl7::mllp::{self, AckCode, Complaint, Decoder};
use crate::infer::image;
use crate::ingest::orders::message;
pub use crate::store::objects::fuzzing::segment;
use crate::system::manifest::{self, Here};
use crate::web::json;
use crate::web::multipart::{Event, Malformed, MediaType, Reader};

/// What a target does with an input: it ends, whatever the input is.
pub type Target = fn(&[u8]);

/// Every target: its name, and what runs.
pub const TARGETS: [(&str, Target); 21] = [
    ("acceptance_set", acceptance_set),
    ("association", association),
    ("bundle", bundle),
    ("charset", charset),
    ("command", command),
    ("data_set", data_set),
    ("dicom_json", dicom_json),
    ("er7", er7),
    ("forward", forward),
    ("header", header),
    ("image", image),
    ("image_manifest", image_manifest),
    ("mllp", mllp),
    ("multipart", multipart),
    ("network", network),
    ("partition_table", partition_table),
    ("plan", plan),
    ("sealed", sealed),
    ("segment", segment),
    ("site", site),
    ("uki", uki),
];

/// Data sets of this length or less are what the fuzzer makes; nothing may grow far beyond.
const INFLATED_MAX: u64 = 1 << 20;

/// A peer's whole conversation: A-ASSOCIATE-RQ, then messages, as the listener reads them.
pub fn association(bytes: &[u8]) {
    let limits = Limits {
        max_pdu: 16_384,
        artim: Duration::from_secs(1),
        idle: Duration::from_secs(1),
        operations: 8,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let stream = join(Cursor::new(bytes.to_vec()), sink());
        let Ok(requested) = Requested::read(stream, limits).await else { return };
        let _ = (requested.identity(), requested.proposals());
        if requested.fault().is_some() {
            return;
        }
        let roles = |_: &str, proposed: Roles| Some(proposed);
        let accepted = requested.accept_with_roles(services::judge, roles).await;
        let Ok(mut association) = accepted else { return };
        while let Ok(Incoming::Command(context, command)) = association.next().await {
            if !command.has_data_set {
                continue;
            }
            loop {
                match association.fragment(context).await {
                    Ok((_, false)) => {}
                    Ok((_, true)) => break,
                    Err(_) => return,
                }
            }
        }
    });
}

/// Character sets: the bytes before the first NUL are the Specific Character Set's values.
pub fn charset(bytes: &[u8]) {
    let split = bytes.iter().position(|byte| *byte == 0).unwrap_or(0);
    let sets: Vec<String> = String::from_utf8_lossy(&bytes[..split]).split('\\').map(str::to_owned).collect();
    charset::decode(&bytes[split..], &sets);
    charset::person_name_groups(&bytes[split..], &sets);
}

/// DIMSE command sets: what parses is written and parsed again to the same command.
pub fn command(bytes: &[u8]) {
    if let Ok(command) = Command::parse(bytes) {
        let again = Command::parse(&command.encode()).expect("what we write, we read");
        assert_eq!(
            (again.field, again.message_id, again.status),
            (command.field, command.message_id, command.status)
        );
    }
}

/// Small data sets that are read whole, in both encodings (the first byte chooses), as a query's answer and
/// as the information of the normalised services. What was written reads back the same.
pub fn data_set(bytes: &[u8]) {
    const SYNTAXES: [&str; 2] = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"];
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let Ok(read) = DataSet::parse(bytes, SYNTAXES[usize::from(choice % 2)]) else { return };
    for tag in read.tags() {
        read.text(tag);
        read.uids(tag);
        read.number(tag);
    }
    let _ = commitment::Request::read(&read);
    let _ = commitment::Report::read(&read);
    let _ = procedure_step::Begun::read(&read);
    let _ = procedure_step::Change::read(&read);
    let _ = procedure_step::Availability::read(&read);
    // In Implicit VR the dictionary's VRs decide, so what is written must be what is read again.
    let written = read.encode(SYNTAXES[1]);
    if let Ok(again) = DataSet::parse(&written, SYNTAXES[1]) {
        assert!(again.encode(SYNTAXES[1]) == written);
    }
}

/// HL7 messages in ER7 encoding: taken apart, read as orders and merges, and answered.
pub fn er7(bytes: &[u8]) {
    let Ok(read) = Message::parse(bytes) else { return };
    for segment in read.segments() {
        for value in segment.repetitions(3, 4) {
            assert!(!value.expose().contains(['\r', '\n']));
        }
    }
    let settings = Orders {
        expected_series_field: Some("ZDS-5".into()),
        expected_instances_field: Some("OBR-13.2".into()),
        ..Orders::default()
    };
    let _ = message::read(&read, &settings);
    let complaint = Complaint { error_code: 200, text: "ORM^O01 | only" };
    if let Ok(answer) = mllp::answer(read.text().expose(), AckCode::AR, "20260101", Some(complaint)) {
        // Whatever came, the answer is one frame with one MSA segment.
        let _ = mllp::encode(&answer);
        assert_eq!(answer.split('\r').filter(|segment| segment.starts_with("MSA")).count(), 1);
    }
}

/// The header scan of a received data set, in each encoding (the first byte chooses).
pub fn header(bytes: &[u8]) {
    const SYNTAXES: [&str; 4] =
        ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"];
    let Some((choice, data_set)) = bytes.split_first() else { return };
    let syntax = SYNTAXES[usize::from(choice % 4)];
    let (header, _) = header::scan(Cursor::new(data_set), data_set.len() as u64, syntax);
    Attributes::of(&header);
    header.study_header();
    // Top-level elements lie end to end, whatever the bytes say.
    if let Ok((_, places)) = header::places(Cursor::new(data_set), data_set.len() as u64, syntax) {
        assert!(places.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(places.iter().all(|place| place.start < place.value && place.value <= place.end));
        assert!(places.last().is_none_or(|last| last.end == data_set.len() as u64));
    }
}

/// An image on its way to a model: opened within bounds, and its first frames decoded. The first byte
/// chooses the transfer syntax.
pub fn image(bytes: &[u8]) {
    const SYNTAXES: [&str; 7] = [
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.5",
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
    ];
    let Some((choice, data_set)) = bytes.split_first() else { return };
    let syntax = SYNTAXES[usize::from(*choice) % SYNTAXES.len()];
    let data_set = data_set.to_vec();
    let source = Source::new(move || {
        let length = data_set.len() as u64;
        Ok(part_ten::DataSet {
            transfer_syntax: syntax.into(),
            bytes: Box::new(Cursor::new(data_set.clone())),
            length,
        })
    });
    let limits = image::Limits {
        file_bytes_max: INFLATED_MAX,
        frame_samples_max: 1 << 16,
        image_samples_max: 1 << 18,
        frames_max: 4,
    };
    let Ok(image) = image::Image::read(&source, &limits) else { return };
    let layout = *image.layout();
    for number in 0..layout.frames {
        if let Ok(frame) = image.frame(number) {
            assert_eq!(frame.values.len(), frame.rows * frame.columns * frame.channels);
            assert!(frame.values.len() as u64 <= limits.frame_samples_max);
        }
    }
}

/// MLLP frames in pieces of any size, and the acknowledgements in them.
pub fn mllp(bytes: &[u8]) {
    let Some((size, rest)) = bytes.split_first() else { return };
    let mut decoder = Decoder::new(4096);
    for piece in rest.chunks(usize::from(*size).max(1)) {
        decoder.push(piece);
        while let Ok(Some(message)) = decoder.next_message() {
            let _ = mllp::parse(&message);
        }
    }
}

/// A packed model bundle, its manifest by itself, and the outputs of a golden case. What is taken is
/// as large as the input, and every refusal has a remedy.
pub fn bundle(bytes: &[u8]) {
    struct Sum(usize);
    impl pack::Contents for Sum {
        fn begin(&mut self, path: &str) -> Result<(), pack::PackError> {
            assert!(!path.starts_with('/') && path.split('/').all(|part| part != ".." && !part.is_empty()));
            Ok(())
        }
        fn write(&mut self, bytes: &[u8]) -> Result<(), pack::PackError> {
            self.0 += bytes.len();
            Ok(())
        }
        fn end(&mut self) -> Result<(), pack::PackError> {
            Ok(())
        }
    }
    let mut sum = Sum(0);
    if let Err(refusal) = pack::read(bytes, &mut sum, &mut |_| {}) {
        assert!(refusal.to_string().contains("remedy: ") && !refusal.clause().is_empty());
    }
    assert!(sum.0 <= bytes.len());
    if let Ok(text) = str::from_utf8(bytes)
        && let Err(problem) = Manifest::read(Path::new("manifest.toml"), text)
    {
        assert!(!problem.problem.is_empty() && !problem.remedy.is_empty());
    }
    let _ = Expected::read(bytes);
}

/// An acceptance set, read whole under the digest that its manifest has.
pub fn acceptance_set(bytes: &[u8]) {
    const HEAD: usize = b"lightbox acceptance set 1\n".len();
    let length = bytes.get(HEAD..HEAD + 8).and_then(|length| length.try_into().ok()).map(u64::from_be_bytes);
    let end = length.and_then(|length| usize::try_from(length).ok()?.checked_add(HEAD + 8));
    let manifest = end.and_then(|end| bytes.get(HEAD + 8..end)).unwrap_or_default();
    let named: String = Sha256::digest(manifest).iter().map(|byte| format!("{byte:02x}")).collect();
    let Ok(mut reader) = SetReader::new(bytes, &named) else { return };
    let mut sum = 0;
    while let Ok(Some((case, input))) = reader.next_case() {
        assert_eq!(case.size, input.len() as u64);
        sum += input.len();
    }
    assert!(sum <= bytes.len());
}

/// A network: walked to its end or refused, alike whether it comes whole or byte by byte.
pub fn network(bytes: &[u8]) {
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let one = into.len().min(1);
            self.0.read(&mut into[..one])
        }
    }
    let clause =
        |found: Result<(), NetworkError>| found.err().map(|error| (error.clause(), error.to_string()));
    let slowly = lightbox_models::network::examine(&mut Slow(bytes));
    assert_eq!(clause(lightbox_models::network::check(bytes)), clause(slowly));
}

/// The manifest of a firmware image: refused, or the same when it is written and read again, and judged for a box.
pub fn image_manifest(bytes: &[u8]) {
    let Ok(read) = manifest::Manifest::parse(bytes) else { return };
    let again = serde_json::to_vec(&read).expect("what we read, we write");
    assert_eq!(manifest::Manifest::parse(&again).expect("what we write, we read"), read);
    let here = Here {
        version: manifest::Version(1, 0, 0),
        machine: "x86_64".into(),
        flavour: "test".into(),
        floor: Some(1),
        ledger: manifest::Ledger { schema: 2, oldest: 1 },
        room: Some((100, 10)),
    };
    if let Err(unfit) = read.judge(&here, 100, 10) {
        assert!(unfit.to_string().contains("remedy: "));
    }
}

/// A disk in memory.
struct Memory(Vec<u8>);

impl Memory {
    fn place(&self, at: u64, length: usize) -> std::io::Result<std::ops::Range<usize>> {
        let from = usize::try_from(at).ok().filter(|from| from.saturating_add(length) <= self.0.len());
        from.map(|from| from..from + length).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }
}

impl Disk for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read(&self, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
        bytes.copy_from_slice(&self.0[self.place(at, bytes.len())?]);
        Ok(())
    }
    fn write(&mut self, bytes: &[u8], at: u64) -> std::io::Result<()> {
        let place = self.place(at, bytes.len())?;
        self.0[place].copy_from_slice(bytes);
        Ok(())
    }
    fn sync(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A disk's partition table. The first byte says whether its checksums are mended first, which the fuzzer would
/// never guess, and how long the disk is. What is written over it reads back, and from its second copy alone too.
pub fn partition_table(bytes: &[u8]) {
    const SECTOR: usize = 512;
    let Some((first, bytes)) = bytes.split_first() else { return };
    let mut disk = Memory(bytes.to_vec());
    disk.0.resize((64 + usize::from(first >> 1)) * SECTOR, 0);
    if first & 1 == 1 {
        mend(&mut disk.0);
    }
    let Ok(mut table) = Table::read(&disk) else { return };
    let before = table.partitions();
    let Some(one) = before.first() else { return };
    table.rename(one.index, "lightbox_1.2.3", &one.kind).expect("a name that fits");
    if table.write(&mut disk).is_err() {
        return;
    }
    let renamed = table.partitions();
    assert_eq!(renamed.len(), before.len());
    assert_eq!(Table::read(&disk).expect("what we write, we read").partitions(), renamed);
    disk.0[SECTOR..2 * SECTOR].fill(0);
    assert_eq!(Table::read(&disk).expect("the second copy").partitions(), renamed);
}

/// Gives the first copy of a partition table the checksums that belong to it.
fn mend(disk: &mut [u8]) {
    let number =
        |disk: &[u8], at: usize| u32::from_le_bytes(disk[at..at + 4].try_into().expect("four bytes"));
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[536..544].copy_from_slice(&1_u64.to_le_bytes());
    let (first, count) = (number(disk, 584) as usize, number(disk, 592) as usize);
    let end = count.saturating_mul(128).saturating_add(first.saturating_mul(512));
    if let Some(entries) = disk.get(first.saturating_mul(512)..end) {
        let crc = crc32fast::hash(entries);
        disk[600..604].copy_from_slice(&crc.to_le_bytes());
    }
    let size = (number(disk, 524) as usize).clamp(92, 512);
    disk[528..532].fill(0);
    let crc = crc32fast::hash(&disk[512..512 + size]);
    disk[528..532].copy_from_slice(&crc.to_le_bytes());
}

/// A unified kernel image: what it says of itself, or why it is none.
pub fn uki(bytes: &[u8]) {
    let read = |into: &mut [u8], at: u64| {
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let piece = bytes.get(from..from.saturating_add(into.len()));
        into.copy_from_slice(piece.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    };
    match Uki::parse(&read) {
        Ok(said) => {
            let _ = (said.rollback(), said.version());
            assert_eq!(said.root_hash.len(), 64);
        }
        Err(problem) => assert!(!problem.is_empty()),
    }
}

/// A change-control plan: refused with all its problems, or taken and ruled by. A proposal that key
/// holders hand on, and a recall notice, too.
pub fn plan(bytes: &[u8]) {
    if let Ok(notice) = Notice::read(Path::new("notice.toml"), bytes) {
        assert!(notice.digests.iter().all(|digest| notice.names(digest, None)));
    }
    if let Ok(proposal) = Proposal::read(bytes) {
        let _ = proposal.to_json();
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    let path = Path::new("plan.toml");
    let problems = Plan::problems(path, text);
    assert!(problems.iter().all(|problem| !problem.problem.is_empty() && !problem.remedy.is_empty()));
    match Plan::read(path, text) {
        Err(_) => assert!(!problems.is_empty()),
        Ok(read) => {
            assert!(problems.is_empty());
            for tier in [plan::Tier::Suppressed, plan::Tier::Flagged, plan::Tier::Reported] {
                let _ = plan::site_threshold(&read, "disk", tier, 0.5);
            }
        }
    }
}

/// A file sealed in the age format, opened by a device that it may be for. No more comes out than
/// went in.
pub fn sealed(bytes: &[u8]) {
    let mut opened = Vec::new();
    if let Err(refusal) = seal::open(bytes, &mut opened, &[7; 32]) {
        assert!(!refusal.to_string().is_empty());
    }
    assert!(opened.len() <= bytes.len());
}

/// A site file: parsed and judged. Every problem says what, where and what to do.
pub fn site(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = Site::parse(Path::new("/site.toml"), &text) {
        assert!(!error.problems.is_empty() && !error.to_string().is_empty());
        assert!(error.problems.iter().all(|problem| problem.line >= 1 && !problem.what.is_empty()));
    }
}

/// The DICOM JSON model, as a PACS answers QIDO-RS and STOW-RS with it.
pub fn dicom_json(bytes: &[u8]) {
    for found in json::data_sets(bytes).unwrap_or_default() {
        for tag in found.tags() {
            found.text(tag);
            found.uid(tag);
            found.number(tag);
        }
        let encoded = found.encode("1.2.840.10008.1.2.1");
        drop(DataSet::parse(&encoded, "1.2.840.10008.1.2.1"));
    }
}

/// `multipart/related` bodies in pieces (the first byte says how long), the start of each part as a Part 10
/// file, and media types. The parts must not depend on how the body was cut.
pub fn multipart(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else { return };
    let (found, fault) = parts(body, usize::from(*first).max(1));
    if fault.is_none() {
        assert_eq!(parts(body, body.len().max(1)).0, found);
    }
    for part in &found {
        let mut head = Head::default();
        for bytes in part.chunks(usize::from(*first).max(1)) {
            match head.push(bytes) {
                Ok(None) => {}
                Ok(Some((_, taken))) => {
                    assert!(taken <= bytes.len());
                    break;
                }
                Err(_) => break,
            }
        }
    }
    if let Some(found) = std::str::from_utf8(body).ok().and_then(MediaType::parse) {
        found.parameter("boundary").and_then(Reader::new);
    }
}

fn parts(body: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<Malformed>) {
    let mut reader = Reader::new("b").expect("a boundary");
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for bytes in body.chunks(piece) {
        reader.push(bytes);
        loop {
            match reader.event() {
                Ok(Some(Event::Part(_))) => parts.push(Vec::new()),
                Ok(Some(Event::Data(bytes))) => parts.last_mut().expect("a part").extend(bytes),
                Ok(Some(Event::PartEnd | Event::End)) => {}
                Ok(None) => break,
                Err(error) => return (parts, Some(error)),
            }
        }
    }
    (parts, reader.end().err())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn inputs(folder: &str, target: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder).join(target);
        let Ok(listed) = fs::read_dir(folder) else { return Vec::new() };
        listed.map(|file| file.expect("a file").path()).collect()
    }

    #[test]
    fn every_seed_and_every_input_that_once_broke_a_parser_passes() {
        for (target, run) in TARGETS {
            let seeds = inputs("corpus", target);
            assert!(!seeds.is_empty(), "{target} has no seeds");
            for file in seeds.into_iter().chain(inputs("crashes", target)) {
                let bytes = fs::read(&file).expect("read");
                let done = std::panic::catch_unwind(|| run(&bytes));
                assert!(done.is_ok(), "{}", file.display());
            }
        }
    }
}
