//! Opening bundles through the public API: the committed one, and copies of it with one flaw each.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::fs;
use std::path::{Path, PathBuf};

use lightbox_models::{Bundle, BundleError};

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/phantom-detector/bundle")
}

/// A copy of the phantom detector's bundle in a new folder.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(reference()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

/// The refusal of a copy whose manifest was edited.
fn refusal(from: &str, to: &str) -> String {
    let folder = copy();
    let path = folder.path().join("manifest.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "the fixture has no {from:?}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
    Bundle::open(folder.path()).unwrap_err().to_string()
}

#[test]
fn the_phantom_detectors_bundle_opens() {
    let bundle = Bundle::open(&reference()).unwrap();
    assert_eq!(bundle.manifest().model.id, "lightbox-phantom-detector");
    assert!(bundle.manifest().model.not_for_clinical_use);
    assert_eq!(bundle.digest().len(), 64);
    assert_eq!(bundle.digest(), Bundle::open(copy().path()).unwrap().digest());
    assert_eq!(bundle.read_network().unwrap(), fs::read(reference().join("model.onnx")).unwrap());
}

#[test]
fn a_changed_byte_is_refused_and_a_changed_word_changes_the_digest() {
    let folder = copy();
    let network = folder.path().join("model.onnx");
    let opened = Bundle::open(folder.path()).unwrap();
    let mut bytes = fs::read(&network).unwrap();
    bytes[100] ^= 1;
    fs::write(&network, bytes).unwrap();
    let refusal = Bundle::open(folder.path()).unwrap_err();
    assert!(matches!(refusal, BundleError::Digest { .. }), "{refusal}");
    assert!(refusal.to_string().contains("remedy: "), "{refusal}");
    // What was opened before does not hand out other bytes either.
    assert!(matches!(opened.read_network(), Err(BundleError::Digest { .. })));

    let folder = copy();
    let path = folder.path().join("manifest.toml");
    let text = fs::read_to_string(&path).unwrap().replace("1.0.0", "1.0.1");
    fs::write(&path, text).unwrap();
    let digest = Bundle::open(folder.path()).unwrap().digest().to_owned();
    assert_ne!(digest, Bundle::open(&reference()).unwrap().digest());
}

#[test]
fn links_and_unlisted_files_are_refused() {
    let folder = copy();
    let network = folder.path().join("model.onnx");
    fs::remove_file(&network).unwrap();
    std::os::unix::fs::symlink(reference().join("model.onnx"), &network).unwrap();
    assert!(matches!(Bundle::open(folder.path()), Err(BundleError::NotPlain(_))));

    let folder = copy();
    fs::write(folder.path().join("weights.bin"), b"x").unwrap();
    assert!(matches!(Bundle::open(folder.path()), Err(BundleError::Unlisted(_))));

    let folder = copy();
    fs::create_dir(folder.path().join("more")).unwrap();
    assert!(matches!(Bundle::open(folder.path()), Err(BundleError::Unlisted(_))));

    let folder = copy();
    fs::remove_file(folder.path().join("card.md")).unwrap();
    assert!(matches!(Bundle::open(folder.path()), Err(BundleError::Read { .. })));
}

#[test]
fn every_refusal_names_line_key_and_remedy() {
    let long = "x".repeat(65);
    let name = format!("name = \"{long}\"");
    let cases = [
        ("schema = 2", "schema = 3", "schema: schema 3 is not known"),
        ("schema = 2", "schema = 1", "ask the vendor for a bundle of this schema: an older one lacks device"),
        ("schema = 2", "schema = 2\nspeed = 3", "unknown field `speed`"),
        ("release = 1", "release = 0", "model.release: not a release number"),
        ("release = 1", "", "missing field `release`"),
        ("[\"09521234543213\"]", "[]", "device.udi_di: empty"),
        ("[\"09521234543213\"]", "[\"09521234543214\"]", "device.udi_di[0]: a GTIN-14 whose check digit"),
        ("[\"09521234543213\"]", "[\"0952 1234\"]", "device.udi_di[0]: not a device identifier"),
        ("clinical_use = true", "clinical_use = false", "regulatory.submission: missing"),
        ("claim = \"detection\"", "claim = \"cure\"", "unknown variant `cure`"),
        ("memory_mib = 256", "memory_mib = 0", "resources.memory_mib: not an amount"),
        ("runtime_seconds = 60", "runtime_seconds = nan", "resources.runtime_seconds: not a time"),
        ("role = \"sbom\"", "role = \"document\"", "file: no SBOM"),
        ("role = \"licence\"", "role = \"document\"", "file: 0 files have the role \"licence\""),
        ("size = 4", "size = -4", "invalid value: integer"),
        ("frame = 1", "frame = 0", "golden[0].frame: not a frame"),
        ("input = \"golden-disks.dcm\"", "input = \"model.onnx\"", "golden[0].input: no file of role"),
        ("{ tensor = \"labels\" },", "", "golden[0].tolerance: none for the output tensor \"labels\""),
        ("absolute = 0.001", "absolute = -1", "golden[0].tolerance[0]: not a tolerance"),
        ("[\"PHANTOM\"]", "[\"PHANTOM\"]\nsex = [\"F\", \"F\"]", "indication.sex: a sex stands twice"),
        ("[\"PHANTOM\"]", "[\"PHANTOM\"]\nviews = [\"pa\"]", "indication.views: not a DICOM code string"),
        ("[\"PHANTOM\"]", "[\"PHANTOM\"]\nexcluded = [{}]", "indication.excluded[0]: excludes nothing"),
        ("path = \"model.onnx\"", "path = \"../model.onnx\"", "file[0].path: not a path below"),
        ("path = \"model.onnx\"", "path = \"/model.onnx\"", "file[0].path: not a path below"),
        ("path = \"card.md\"", "path = \"model.onnx\"", "file[1].path: listed twice"),
        ("sha256 = \"", "sha256 = \"Z", "file[0].sha256: not a SHA-256"),
        ("role = \"card\"", "role = \"network\"", "file: 2 files have the role \"network\""),
        ("channels = 1", "channels = 2", "input.channels: 2 channels asked for"),
        ("side = 1024", "side = 0", "input.resize: a side of the tensor is out of range"),
        ("side = 1024", "side = 1024, depth = 3", "unknown field `depth`"),
        ("{ from = \"modality\" }", "{ from = \"modality\", width = 1 }", "unknown field `width`"),
        ("{ from = \"modality\" }", "{ from = \"window\", centre = 1, width = 0 }", "not a window"),
        ("family = \"detection\"", "family = \"classification\"", "output: does not go with model.family"),
        ("flagged_min = 0.4", "flagged_min = 0.8", "label[0].reported_min: thresholds out of order"),
        ("flagged_min = 0.4", "flagged_min = nan", "label[0].reported_min: thresholds out of order"),
        ("index = 0", "index = 1", "label: indices are not 0 to n-1"),
        ("iou_min = 0.1", "iou_min = 0.0", "output.detection.merge_slices: not an overlap"),
        ("[\"CT\", \"DX\", \"CR\"]", "[]", "indication.modalities: empty"),
        ("[\"PHANTOM\"]", "[\"phantom\"]", "indication.body_parts: not a DICOM code string"),
        ("name = \"Lightbox Phantom Detector\"", name.as_str(), "model.name: empty, too long"),
        ("id = \"lightbox", "id = \"Lightbox", "model.id: not an identifier"),
        ("scheme = \"99LIGHTBOX\"", "scheme = \"\"", "label[0].finding.scheme: not a coding scheme"),
    ];
    for (from, to, expected) in cases {
        let refusal = refusal(from, to);
        assert!(refusal.contains(expected), "{from} -> {to}: {refusal}");
        assert!(refusal.contains("; remedy: "), "{refusal}");
        let line = refusal.split("manifest.toml:").nth(1).and_then(|rest| rest.split(':').next());
        assert!(
            line.is_some_and(|line| line.parse::<usize>().is_ok()),
            "{from} -> {to}: no line in {refusal}"
        );
    }
}
