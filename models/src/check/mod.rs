//! Reading a manifest: first by its types, then by what the types cannot say.

mod doubts;
mod files;
mod identity;
mod indication;
mod labels;
mod tensors;

pub(crate) use doubts::doubts;

use std::path::Path;

use crate::document::{self, Fault};
use crate::draft::Draft;
use crate::manifest::{
    Code, Device, File, Golden, Indication, Input, Label, Manifest, Model, Output, Performance, Regulatory,
    Resources, SCHEMA,
};
use crate::problem::{Problem, line_of};

/// Parses and checks a manifest's text.
pub(crate) fn read(file: &Path, text: &str) -> Result<Manifest, Problem> {
    document::read(file, text, SCHEMA, other_schema, faults)
}

fn other_schema(schema: i64) -> &'static str {
    if schema < i64::from(SCHEMA) {
        "ask the vendor for a bundle of this schema: an older one lacks device, clearance, SBOM and \
         golden cases; models/README.md says what a manifest has now"
    } else {
        "update the box, or ask the vendor for a bundle of its schema"
    }
}

/// Every problem of a manifest's text, and the files that it lists as far as they can be read.
pub(crate) fn problems(file: &Path, text: &str) -> (Vec<Problem>, Vec<File>) {
    let first = match read(file, text) {
        Ok(manifest) => return (Vec::new(), manifest.file),
        Err(first) => first,
    };
    if first.key == "schema" {
        return (vec![first], Vec::new());
    }
    let mut draft = match Draft::new(file, text) {
        Ok(draft) => draft,
        Err(problem) => return (vec![problem], Vec::new()),
    };
    draft.section::<u32>("schema", true);
    draft.section::<Model>("model", true);
    draft.section::<Device>("device", true);
    draft.section::<Regulatory>("regulatory", true);
    draft.section::<Resources>("resources", true);
    let files: Vec<File> = draft.entries("file", true);
    draft.entries::<Golden>("golden", true);
    draft.section::<Indication>("indication", true);
    draft.section::<Input>("input", true);
    draft.section::<Output>("output", true);
    draft.entries::<Label>("label", true);
    draft.entries::<Performance>("performance", false);
    let mut found = draft.finish();
    if let Ok(manifest) = toml::from_str::<Manifest>(text) {
        found.extend(faults(&manifest).into_iter().map(|(key, problem, remedy)| Problem {
            file: file.to_owned(),
            line: line_of(text, &key),
            key,
            problem,
            remedy: remedy.to_owned(),
        }));
        // What is not decided is told as that, not as a value that does not fit.
        let told: Vec<String> = found.iter().map(|problem| problem.key.clone()).collect();
        let mut at = 0;
        found.retain(|problem| {
            at += 1;
            !told[..at - 1].iter().any(|key| key.starts_with(&problem.key))
        });
    }
    if found.is_empty() {
        found.push(first);
    }
    (found, files)
}

fn fault<T>(key: &str, problem: impl Into<String>, remedy: &'static str) -> Result<T, Fault> {
    Err((key.to_owned(), problem.into(), remedy))
}

/// What looks at a part of a manifest, and tells its first fault.
type Room = fn(&Manifest) -> Result<(), Fault>;

/// The first fault of every room.
fn faults(manifest: &Manifest) -> Vec<Fault> {
    let rooms: [Room; 12] = [
        identity::identity,
        identity::device,
        identity::regulatory,
        files::files,
        files::roles,
        files::resources,
        indication::indication,
        tensors::input,
        tensors::output,
        labels::labels,
        files::golden,
        labels::performance,
    ];
    let mut found: Vec<Fault> = rooms.iter().filter_map(|room| room(manifest).err()).collect();
    // Each label has a fault of its own.
    found.extend(labels::each(manifest));
    found
}

fn short_text(key: &str, value: &str) -> Result<(), Fault> {
    let printable = value.chars().all(|char| char.is_ascii_graphic() || char == ' ');
    if value.trim().is_empty() || value.len() > 64 || !printable || value.contains('\\') {
        return fault(
            key,
            "empty, too long, or with characters that DICOM does not carry everywhere",
            "use 1 to 64 printable ASCII characters other than the backslash",
        );
    }
    Ok(())
}

fn code(key: &str, code: &Code) -> Result<(), Fault> {
    if code.value.is_empty() || code.value.len() > 16 || !code.value.bytes().all(|b| b.is_ascii_graphic()) {
        return fault(&format!("{key}.value"), "not a code value", "use 1 to 16 printable characters");
    }
    if code.scheme.is_empty() || code.scheme.len() > 16 || !code.scheme.bytes().all(|b| b.is_ascii_graphic())
    {
        return fault(
            &format!("{key}.scheme"),
            "not a coding scheme designator",
            "use SCT, LN, DCM, RADLEX or the designator that PS3.16 chapter 8 gives",
        );
    }
    short_text(&format!("{key}.meaning"), &code.meaning)
}
