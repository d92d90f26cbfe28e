//! A vendor's acceptance set: a folder of DICOM images and `set.toml`, which says the truth of each; from it
//! the one file that is sealed to devices.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use dicom_dictionary_std::tags;
use lightbox_models::acceptance::{AcceptanceSet, Case, CaseInput, SetWriter};
use lightbox_models::draft::UNDECIDED;
use lightbox_models::manifest::Manifest;
use lightbox_models::{line_of, plain};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{below, read_text};
use crate::infer::header;
use crate::infer::image::{Image, Limits};

/// The list of cases in a set's folder.
pub const SET_NAME: &str = "set.toml";
/// The folder of images that have none of the labels.
const NEGATIVE: &str = "negative";
/// Most files that are looked at.
const FILES_MAX: usize = 100_000;
/// Largest image.
const CASE_BYTES_MAX: u64 = 1 << 30;

const HEAD: &str = "\
# An acceptance set: images whose truth is known, on which every box measures the model before it is used.
# `lightbox acceptance-set check` says what is left; `seal` makes the file for the boxes.
# truth: the labels that the image has, by their names in the bundle's manifest; [] where it has none.
# Optional: boxes = { disk = [[left, top, right, bottom]] } in pixels, for the metric dice; groups = { sex = \"F\" }, for the
# plan's [[subgroup]]; frame = 2. Names go into the boxes' records: no patient's.
schema = 1
";

/// `set.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    schema: u32,
    id: String,
    case: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    file: String,
    name: String,
    #[serde(default = "first")]
    frame: u32,
    truth: Vec<String>,
    #[serde(default)]
    boxes: BTreeMap<String, Vec<[f64; 4]>>,
    #[serde(default)]
    groups: BTreeMap<String, String>,
}

fn first() -> u32 {
    1
}

/// A set that can be sealed.
#[derive(Debug)]
pub struct CaseSet {
    folder: PathBuf,
    set: AcceptanceSet,
    files: Vec<String>,
    text: String,
}

/// A checked folder: the set where nothing is wrong with it, and what is to be told.
#[derive(Debug)]
pub struct Checked {
    /// The set; none where there are problems.
    pub set: Option<CaseSet>,
    /// Each with file, line, key and remedy.
    pub problems: Vec<String>,
    /// What may be meant, and should be looked at.
    pub notes: Vec<String>,
}

/// How many images were listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Of all.
    pub cases: usize,
    /// Of those whose truth the folder did not say.
    pub undecided: usize,
    /// Files that are no DICOM images.
    pub others: usize,
}

/// Writes `set.toml` for the images below a folder. The truth is taken from the folder that an image lies in, where
/// that has a label's name, or is `negative`.
pub fn new(folder: &Path, manifest: &Manifest) -> anyhow::Result<Listed> {
    let path = folder.join(SET_NAME);
    if path.exists() {
        bail!("{}: exists; remedy: go on with it, or remove it first", path.display());
    }
    let mut text = String::from(HEAD);
    let _infallible = writeln!(text, "id = {}", quoted(&format!("{}-acceptance", manifest.model.id)));
    let mut listed = Listed { cases: 0, undecided: 0, others: 0 };
    for file in images(folder)? {
        let file = match file {
            Found::Image(file) => file,
            Found::Other => {
                listed.others += 1;
                continue;
            }
        };
        listed.cases += 1;
        let place = file.split('/').next().filter(|_| file.contains('/')).unwrap_or_default();
        let truth = match manifest.label.iter().find(|label| label.name == place && !label.negative) {
            Some(label) => quoted(&label.name),
            None if place == NEGATIVE => String::new(),
            None => {
                listed.undecided += 1;
                quoted(&format!("{UNDECIDED}: which labels it has"))
            }
        };
        let sex = Image::open(&folder.join(&file), &Limits::default()).ok().and_then(|image| sex(&image));
        let groups = sex.map_or(String::new(), |sex| format!("groups = {{ sex = {} }}\n", quoted(&sex)));
        let _infallible = write!(
            text,
            "\n[[case]]\nfile = {}\nname = \"case-{:04}\"\ntruth = [{truth}]\n{groups}",
            quoted(&file),
            listed.cases
        );
    }
    if listed.cases == 0 {
        bail!(
            "{}: no DICOM image is in it; remedy: put images into folders below it, named as the labels that they have, or `{NEGATIVE}`",
            folder.display()
        );
    }
    plain::write(&path, text.as_bytes()).with_context(|| format!("{}: cannot be written", path.display()))?;
    Ok(listed)
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn sex(image: &Image) -> Option<String> {
    let value = image.object().element(tags::PATIENT_SEX).ok()?.to_str().ok()?.trim().to_owned();
    ["F", "M", "O"].contains(&value.as_str()).then_some(value)
}

enum Found {
    Image(String),
    Other,
}

/// Every file below a folder, by its path there, sorted.
fn images(folder: &Path) -> anyhow::Result<Vec<Found>> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::new()];
    while let Some(next) = open.pop() {
        let path = folder.join(&next);
        let entries = fs::read_dir(&path).with_context(|| {
            format!("{}: cannot be read; remedy: give the folder of the images", path.display())
        })?;
        for entry in entries {
            let entry = entry?;
            let (kind, below) = (entry.file_type()?, next.join(entry.file_name()));
            match (kind.is_dir(), kind.is_file(), below.to_str()) {
                (true, ..) => open.push(below),
                (_, true, Some(name)) if name != SET_NAME => drop(found.insert(name.to_owned())),
                _ => {}
            }
            if found.len() > FILES_MAX {
                bail!(
                    "{}: more than {FILES_MAX} files; remedy: give the folder of the images alone",
                    folder.display()
                );
            }
        }
    }
    let kind = |name: String| match is_dicom(&folder.join(&name)) {
        true => Found::Image(name),
        false => Found::Other,
    };
    Ok(found.into_iter().map(kind).collect())
}

/// Whether a file begins as PS3.10 says.
fn is_dicom(path: &Path) -> bool {
    let mut start = [0; 132];
    plain::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok()) && start.ends_with(b"DICM")
}

/// Checks a set's folder whole; `progress` hears of bytes read and bytes in all.
pub fn check(
    folder: &Path,
    manifest: Option<&Manifest>,
    progress: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<Checked> {
    let path = folder.join(SET_NAME);
    let text = read_text(&path)
        .with_context(|| format!("{}: no set; remedy: `lightbox acceptance-set new`", folder.display()))?;
    let mut checked = Checked { set: None, problems: Vec::new(), notes: Vec::new() };
    let list: List = match toml::from_str(&text) {
        Ok(list) => list,
        Err(error) => {
            checked.problems.push(format!(
                "{}: {}; remedy: write schema, id and [[case]] with file, name, truth",
                path.display(),
                error.to_string().trim()
            ));
            return Ok(checked);
        }
    };
    let told = |key: &str, what: &str, remedy: &str| {
        let line = line_of(&text, key).map_or(String::new(), |line| format!(":{line}"));
        format!("{}{line}: {key}: {what}; remedy: {remedy}", path.display())
    };
    if list.schema != 1 {
        checked.problems.push(told("schema", "not known", "write schema = 1"));
    }
    if list.id.trim().is_empty() || list.id.len() > 64 || list.id.starts_with(UNDECIDED) {
        checked.problems.push(told("id", "not an identifier", "write 1 to 64 letters, digits and hyphens"));
    }
    let sizes =
        list.case.iter().filter_map(|case| Some(fs::metadata(below(folder, &case.file).ok()?).ok()?.len()));
    let total = sizes.sum();
    let (mut cases, mut done) = (Vec::new(), 0);
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for (at, entry) in list.case.iter().enumerate() {
        let key = format!("case[{at}]");
        for (name, what, remedy) in truth_faults(entry, manifest) {
            checked.problems.push(told(&format!("{key}.{name}"), &what, remedy));
        }
        let found = below(folder, &entry.file)
            .and_then(|path| image(&path, entry, manifest))
            .map_err(|error| format!("{error:#}"));
        match found {
            Ok(case) => {
                done += case.size;
                progress(done, total);
                if let Some(other) = seen.insert(case.sha256.clone(), case.name.clone()) {
                    checked.problems.push(told(
                        &format!("{key}.file"),
                        &format!("the same image as case {other:?}: it would count twice"),
                        "list each image once",
                    ));
                }
                cases.push(case);
            }
            Err(why) => checked.problems.push(told(&format!("{key}.file"), &why, "mend or remove the case")),
        }
    }
    let known: BTreeSet<&str> = list.case.iter().map(|entry| entry.file.as_str()).collect();
    let left = images(folder)?
        .iter()
        .filter(|found| matches!(found, Found::Image(file) if !known.contains(file.as_str())))
        .count();
    if left > 0 {
        checked
            .notes
            .push(format!("{left} images in {} are in no [[case]], and so not of the set", folder.display()));
    }
    if !checked.problems.is_empty() {
        return Ok(checked);
    }
    let set = AcceptanceSet { schema: 1, id: list.id, case: cases };
    let manifest_text = toml::to_string(&set)?;
    // What the box asks of a set's manifest.
    match AcceptanceSet::read(&manifest_text) {
        Ok(set) => {
            let files = list.case.into_iter().map(|entry| entry.file).collect();
            checked.set = Some(CaseSet { folder: folder.to_owned(), set, files, text: manifest_text });
        }
        Err(error) => checked.problems.push(format!("{}: {error}; remedy: mend the case", path.display())),
    }
    Ok(checked)
}

fn truth_faults(entry: &Entry, manifest: Option<&Manifest>) -> Vec<(&'static str, String, &'static str)> {
    let mut found = Vec::new();
    for label in &entry.truth {
        if label.starts_with(UNDECIDED) {
            found.push((
                "truth",
                "nobody has decided this".to_owned(),
                "write the names of the labels that the image has, or [] where it has none",
            ));
        } else if let Some(manifest) = manifest
            && !manifest.label.iter().any(|known| known.name == *label && !known.negative)
        {
            let known: Vec<&str> = manifest
                .label
                .iter()
                .filter(|label| !label.negative)
                .map(|label| label.name.as_str())
                .collect();
            found.push((
                "truth",
                format!("the bundle has no finding named {label:?}, only {known:?}"),
                "write a label's name as the bundle's manifest has it",
            ));
        }
    }
    if let Some(label) = entry.boxes.keys().find(|label| !entry.truth.contains(label)) {
        found.push((
            "boxes",
            format!("of {label:?}, which its truth does not name"),
            "name it in truth, or remove the boxes",
        ));
    }
    found
}

/// An image as a case: it opens, has the frame, and is inside the indication.
fn image(path: &Path, entry: &Entry, manifest: Option<&Manifest>) -> anyhow::Result<Case> {
    let mut file = plain::open(path).context("cannot be read")?;
    let mut hasher = Sha256::new();
    let size = std::io::copy(&mut file, &mut super::HashWriter(&mut hasher)).context("cannot be read")?;
    if size == 0 || size > CASE_BYTES_MAX {
        bail!("has {size} bytes, possible are 1 to 1 GiB");
    }
    let image = Image::open(path, &Limits::default()).context("not an image that a box can read")?;
    let frames = image.layout().frames;
    if !(1..=frames).contains(&entry.frame) {
        bail!("has {frames} frames, frame {} is asked for", entry.frame);
    }
    if let Some(manifest) = manifest {
        if !header::selected(image.object(), &manifest.indication) {
            bail!("its modality is none of the bundle's indication.modalities");
        }
        if let Some(reason) = header::outside(image.object(), &manifest.indication) {
            bail!("outside the bundle's indication: {reason}");
        }
    }
    Ok(Case {
        name: entry.name.clone(),
        input: CaseInput::Dicom { frame: entry.frame },
        size,
        sha256: hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        truth: entry.truth.clone(),
        boxes: entry.boxes.clone(),
        groups: entry.groups.clone(),
    })
}

impl CaseSet {
    /// What the plan names: SHA-256 of the set's manifest.
    pub fn digest(&self) -> String {
        Sha256::digest(self.text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Number of cases.
    pub fn cases(&self) -> usize {
        self.set.case.len()
    }

    /// For each label of the truth, how many cases have it; all others have it not.
    pub fn labels(&self) -> BTreeMap<&str, usize> {
        let mut count = BTreeMap::new();
        for label in self.set.case.iter().flat_map(|case| &case.truth) {
            *count.entry(label.as_str()).or_insert(0) += 1;
        }
        count
    }

    /// For each attribute and value, how many cases are in the group.
    pub fn groups(&self) -> BTreeMap<(&str, &str), usize> {
        let mut count = BTreeMap::new();
        for (key, value) in self.set.case.iter().flat_map(|case| &case.groups) {
            *count.entry((key.as_str(), value.as_str())).or_insert(0) += 1;
        }
        count
    }

    /// Writes the whole file, not sealed, one case in memory at a time. An image that has changed since the check is
    /// refused.
    pub fn write(&self, to: impl Write, progress: &mut dyn FnMut(u64, u64)) -> anyhow::Result<()> {
        let total = self.set.case.iter().map(|case| case.size).sum();
        let mut done = 0;
        let mut writer = SetWriter::new(BufWriter::new(to), &self.text)?;
        for (case, file) in self.set.case.iter().zip(&self.files) {
            let path = below(&self.folder, file)?;
            let bytes = plain::read(&path, case.size).with_context(|| format!("{}", path.display()))?;
            writer.case(&bytes).with_context(|| format!("{}: changed since the check", path.display()))?;
            done += case.size;
            progress(done, total);
        }
        writer.finish()?.flush()?;
        Ok(())
    }
}
