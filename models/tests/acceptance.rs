//! The acceptance set's file and the signed record, through the public API.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use lightbox_bootstrap::identity::DeviceIdentity;
use lightbox_models::acceptance::{
    AcceptanceRecord, AcceptanceSet, Hardware, Measured, RecordError, SetError, SetReader, SetWriter,
};
use lightbox_models::manifest::Precision;
use lightbox_models::metrics::{Interval, SplitMix64};
use lightbox_models::plan::{Clause, ClauseName, Outcome, Stage, Verdict, text_digest};

fn record() -> AcceptanceRecord {
    AcceptanceRecord {
        schema: AcceptanceRecord::SCHEMA,
        at: "2026-11-22T10:00:00Z".into(),
        model: "m".into(),
        model_digest: "ab".repeat(32),
        plan: "PCCP".into(),
        plan_version: 3,
        sets: vec!["cd".repeat(32)],
        hardware: Hardware {
            device: "0011223344556677".into(),
            processor: "a CPU".into(),
            engine_build: "onnxruntime 1.24 cpu".into(),
            precision: Precision::Fp32,
            software: "0.1.0".into(),
        },
        measured: vec![(
            "C1".into(),
            Measured {
                positive: 50,
                negative: 50,
                estimate: 0.1 + 0.2,
                interval: Interval { lower: 0.1, upper: 1.0 / 3.0, level: 0.95 },
            },
        )],
        verdict: Verdict {
            plan: "PCCP".into(),
            plan_version: 3,
            candidate: "ab".repeat(32),
            stage: Stage::Acceptance,
            modifications: vec!["M1".into()],
            approvals: 2,
            clauses: vec![Clause {
                name: ClauseName::Estimate,
                subject: "C1".into(),
                outcome: Outcome::Met,
                why: "AUC 0.3".into(),
            }],
        },
    }
}

#[test]
fn a_record_verifies_by_this_devices_key_and_only_unaltered() {
    let folder = tempfile::tempdir().unwrap();
    let device = DeviceIdentity::open_or_create(&folder.path().join("1")).unwrap();
    let other = DeviceIdentity::open_or_create(&folder.path().join("2")).unwrap();
    let signed = record().sign(&device).unwrap();
    assert_eq!(signed.verify(&device.public_key()).unwrap(), record());
    assert!(matches!(signed.verify(&other.public_key()), Err(RecordError::Signature)));
    for at in [0, signed.bytes.len() / 2, signed.bytes.len() - 1] {
        let mut altered = signed.clone();
        altered.bytes[at] ^= 1;
        assert!(matches!(altered.verify(&device.public_key()), Err(RecordError::Signature)));
    }
    // The key's signature over the bare bytes is not one over a record.
    let mut bare = signed.clone();
    bare.signature = device.sign(&bare.bytes);
    assert!(matches!(bare.verify(&device.public_key()), Err(RecordError::Signature)));
}

#[test]
fn a_record_has_one_form_and_no_number_that_is_not_one() {
    assert_eq!(record().canonical().unwrap(), record().canonical().unwrap());
    let mut endless = record();
    endless.measured[0].1.estimate = f64::NAN;
    assert!(matches!(endless.canonical(), Err(RecordError::NotFinite)));
    // Every number comes back bit by bit, or a sound record would not verify later.
    let mut random = SplitMix64::new(1);
    let mut record = record();
    record.measured = (0..3000)
        .map(|at| {
            let mut part = || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            let interval = Interval { lower: part(), upper: part(), level: part() };
            (at.to_string(), Measured { positive: 1, negative: 1, estimate: part(), interval })
        })
        .collect();
    let again: AcceptanceRecord = serde_json::from_slice(&record.canonical().unwrap()).unwrap();
    assert_eq!(again, record);
}

const INPUTS: [&[u8]; 2] = [b"not really DICOM", &[0; 16]];

fn manifest() -> String {
    format!(
        "schema = 1\nid = \"disks\"\n\n[[case]]\nname = \"one\"\ninput = {{ kind = \"dicom\", frame = 1 }}\nsize = 16\n\
         sha256 = \"{}\"\ntruth = [\"disk\"]\nboxes = {{ disk = [[1, 2, 3, 4]] }}\ngroups = {{ sex = \"F\" }}\n\n\
         [[case]]\nname = \"two\"\ninput = {{ kind = \"tensor\", shape = [1, 1, 2, 2] }}\nsize = 16\nsha256 = \"{}\"\n\
         truth = []\n",
        text_digest("not really DICOM"),
        text_digest(str::from_utf8(INPUTS[1]).unwrap()),
    )
}

fn written() -> Vec<u8> {
    let mut writer = SetWriter::new(Vec::new(), &manifest()).unwrap();
    for input in INPUTS {
        writer.case(input).unwrap();
    }
    writer.finish().unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, SetError> {
    let mut reader = SetReader::new(bytes, &text_digest(&manifest()))?;
    let mut inputs = Vec::new();
    while let Some((case, input)) = reader.next_case()? {
        assert_eq!(case.size, input.len() as u64);
        inputs.push(input);
    }
    Ok(inputs)
}

#[test]
fn a_set_comes_back_case_by_case() {
    assert_eq!(read(&written()).unwrap(), INPUTS);
}

#[test]
fn a_set_that_was_touched_is_refused() {
    let whole = written();
    // Every byte counts: the manifest by the plan's digest, the inputs by the manifest.
    for at in 0..whole.len() {
        let mut touched = whole.clone();
        touched[at] ^= 1;
        assert!(read(&touched).is_err(), "byte {at}");
        assert!(read(&whole[..at]).is_err(), "cut at {at}");
    }
    let longer = [whole.as_slice(), b"x"].concat();
    assert!(matches!(read(&longer), Err(SetError::Longer)));
    let other = SetReader::new(whole.as_slice(), &"00".repeat(32));
    assert!(matches!(other, Err(SetError::Digest { .. })));
}

#[test]
fn a_manifest_of_a_set_is_checked() {
    for (name, from, to) in [
        ("unknown_key", "truth = []", "truth = []\nweight = 2"),
        ("name_twice", "name = \"two\"", "name = \"one\""),
        ("shape_of_another_size", "shape = [1, 1, 2, 2]", "shape = [1, 1, 2, 3]"),
        ("shape_beyond_counting", "shape = [1, 1, 2, 2]", "shape = [4611686018427387904, 4]"),
        ("empty_input", "size = 16", "size = 0"),
        ("later_schema", "schema = 1", "schema = 2"),
        ("boxes_of_what_is_not_there", "boxes = { disk =", "boxes = { ring ="),
        ("edge_not_finite", "[[1, 2, 3, 4]]", "[[1, 2, 3, inf]]"),
    ] {
        let text = manifest();
        assert!(text.contains(from), "{name}");
        let refused = AcceptanceSet::read(&text.replace(from, to));
        assert!(matches!(refused, Err(SetError::Manifest(_))), "{name}: {refused:?}");
    }
}

#[test]
fn a_set_is_not_written_with_a_case_missing_or_wrong() {
    let writer = SetWriter::new(Vec::new(), &manifest()).unwrap();
    assert!(matches!(writer.finish(), Err(SetError::Case(name)) if name == "one"));
    let mut writer = SetWriter::new(Vec::new(), &manifest()).unwrap();
    assert!(matches!(writer.case(INPUTS[1]), Err(SetError::Case(name)) if name == "one"));
}
