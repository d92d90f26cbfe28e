//! Images to send: real ones from packages, and phantoms with known answers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dicom_dictionary_std::tags;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::command::{part, program, python, run, run_lightbox};
use crate::hospital::Hospital;
use crate::site::Site;

/// A file of pydicom's `test_files`.
pub fn sample(name: &str) -> PathBuf {
    part(&format!("parts/samples/pydicom/test_files/{name}"))
}

/// A file of pydicom-data.
pub fn large_sample(name: &str) -> PathBuf {
    part(&format!("parts/samples/pydicom-data/{name}"))
}

/// A file of pydicom's `charset_files`.
pub fn charset_sample(name: &str) -> PathBuf {
    part(&format!("parts/samples/pydicom/charset_files/{name}"))
}

/// A copy under new UIDs: of the instance alone, or of study and series as well.
#[track_caller]
pub fn copy_as(source: &Path, to: &Path, new_study: bool) -> PathBuf {
    fs::copy(source, to).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    let mut command = Command::new(program("dcmodify"));
    command.args(["-nb", "-gin"]);
    if new_study {
        command.args(["-gst", "-gse"]);
    }
    run(command.arg(to)).ok("giving a copy new UIDs");
    to.to_owned()
}

/// The copies of one image as a study of its own: the first under new UIDs, the others in its series.
#[track_caller]
pub fn study_of_copies(hospital: &Hospital, source: &Path, name: &str, count: usize) -> Vec<PathBuf> {
    let folder = hospital.sub_folder(name);
    let first = copy_as(source, &folder.join("0.dcm"), true);
    let others = (1..count).map(|index| copy_as(&first, &folder.join(format!("{index}.dcm")), false));
    std::iter::once(first.clone()).chain(others).collect()
}

/// A phantom study and what is in it.
#[derive(Debug)]
pub struct Phantom {
    /// Its files.
    pub files: Vec<PathBuf>,
    /// `truth.json`.
    pub truth: Value,
}

/// Makes a phantom by the binary under test; equal seeds make equal files.
#[track_caller]
pub fn phantom(hospital: &Hospital, kind: &str, seed: u64) -> Phantom {
    let folder = hospital.sub_folder(&format!("phantom-{kind}-{seed}"));
    let out = folder.to_str().expect("a plain path");
    run_lightbox(&["phantom", "--out", out, "--seed", &seed.to_string(), "--kind", kind])
        .ok("lightbox phantom");
    let truth = fs::read_to_string(folder.join("truth.json")).expect("truth.json");
    let mut files = Vec::new();
    collect(&folder, "dcm", &mut files);
    assert!(!files.is_empty(), "lightbox phantom made no file");
    Phantom { files, truth: serde_json::from_str(&truth).expect("JSON") }
}

/// The files with an ending below a folder, sorted.
pub fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(folder, ending, &mut files);
    files.sort();
    files
}

fn collect(folder: &Path, ending: &str, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, ending, into);
        } else if path.extension().is_some_and(|found| found == ending) {
            into.push(path);
        }
    }
    into.sort();
}

/// What a box holds, as `lightbox studies export` writes it: beside a running daemon or after its death.
#[track_caller]
pub fn held(site: &Site) -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, to) = (site.path.to_str(), folder.path().to_str());
    let arguments =
        ["studies", "--site", path.expect("plain"), "export", "--all", "--to", to.expect("plain")];
    run_lightbox(&arguments).ok("studies export");
    let files = files_below(folder.path(), "dcm");
    (folder, files)
}

/// The digests of the data sets that a box holds.
#[track_caller]
pub fn held_digests(site: &Site) -> BTreeSet<[u8; 32]> {
    let (_folder, files) = held(site);
    files.iter().map(|file| data_set_digest(file).expect("a Part 10 file")).collect()
}

/// A string element of a file.
#[track_caller]
pub fn text_of(file: &Path, tag: dicom_core::Tag) -> String {
    let object = dicom_object::open_file(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    object.element(tag).ok().and_then(|element| element.to_str().ok()).unwrap_or_default().trim().to_owned()
}

/// The SOP Instance UID of a file.
#[track_caller]
pub fn sop_uid(file: &Path) -> String {
    text_of(file, tags::SOP_INSTANCE_UID)
}

/// The digest of a file's data set as it lies in the file, without the file meta information; none
/// where the file is not even a whole header.
pub fn data_set_digest(file: &Path) -> Option<[u8; 32]> {
    let bytes = fs::read(file).ok()?;
    if bytes.get(128..132)? != b"DICM" || bytes.get(132..140)? != [2, 0, 0, 0, b'U', b'L', 4, 0] {
        return None;
    }
    let length = u32::from_le_bytes(bytes.get(140..144)?.try_into().ok()?) as usize;
    Some(Sha256::digest(bytes.get(144 + length..)?).into())
}

/// A copy of `image` that carries the patient's name and the character set of `donor`, byte by byte.
#[track_caller]
pub fn with_name_of(hospital: &Hospital, donor: &Path, image: &Path, name: &str) -> PathBuf {
    let (plain, named) = (hospital.folder().join(format!("{name}.plain.dcm")), hospital.folder().join(name));
    copy_as(image, &plain, true);
    run(python("name.py").arg("give").args([donor, &plain, &named])).ok("giving a name");
    named
}
