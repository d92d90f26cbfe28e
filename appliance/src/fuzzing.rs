//! What the fuzz targets of `appliance/fuzz` run, one function for each parser of peers' bytes.
//!
//! They stand here and not with the fuzzer because the tests run them too, on the seeds and on every input
//! that once broke a parser. Nothing of this is compiled into the product.

use std::io::{Cursor, Read};
use std::path::Path;
use std::time::Duration;

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
use crate::web::json;
use crate::web::multipart::{Event, Malformed, MediaType, Reader};

/// What a target does with an input: it ends, whatever the input is.
pub type Target = fn(&[u8]);

/// Every target: its name, and what runs.
pub const TARGETS: [(&str, Target); 18] = [
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
    ("mllp", mllp),
    ("multipart", multipart),
    ("network", network),
    ("plan", plan),
    ("sealed", sealed),
    ("segment", segment),
    ("site", site),
];

/// Data sets of this length or less are what the fuzzer makes; nothing may grow far beyond.
const INFLATED_MAX: u64 = 1 << 20;

/// A peer's whole conversation: A-ASSOCIATE-RQ, then messages, as the listener reads them.
pub fn association(bytes: &[u8]) {
    let limits = Limits { max_pdu: 16_384, artim: Duration::from_secs(1), idle: Duration::from_secs(1) };
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
