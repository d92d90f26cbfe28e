//! Reading a manifest: first by its types, then by what the types cannot say.

mod files;
mod identity;
mod indication;
mod labels;
mod tensors;

use std::path::Path;

use crate::manifest::{Code, Manifest, SCHEMA};
use crate::problem::{Problem, line_at, line_of};

/// Parses and checks a manifest's text.
pub(crate) fn read(file: &Path, text: &str) -> Result<Manifest, Problem> {
    let problem = |line, key: &str, problem: String, remedy: &str| Problem {
        file: file.to_owned(),
        line,
        key: key.to_owned(),
        problem,
        remedy: remedy.to_owned(),
    };
    // The schema first: a manifest of a later schema would otherwise be refused for its new keys.
    if let Ok(table) = text.parse::<toml::Table>()
        && let Some(schema) = table.get("schema").and_then(toml::Value::as_integer)
        && schema != i64::from(SCHEMA)
    {
        return Err(problem(
            line_of(text, "schema"),
            "schema",
            format!("schema {schema} is not known to this version, which reads schema {SCHEMA}"),
            if schema < i64::from(SCHEMA) {
                "ask the vendor for a bundle of this schema: an older one lacks device, clearance, SBOM and \
                 golden cases; models/README.md says what a manifest has now"
            } else {
                "update the box, or ask the vendor for a bundle of its schema"
            },
        ));
    }
    let manifest: Manifest = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| line_at(text, span.start));
        problem(line, "", error.message().to_owned(), "write the key as models/README.md gives it")
    })?;
    check(&manifest).map_err(|(key, what, remedy)| problem(line_of(text, &key), &key, what, remedy))?;
    Ok(manifest)
}

type Fault = (String, String, &'static str);

fn fault<T>(key: &str, problem: impl Into<String>, remedy: &'static str) -> Result<T, Fault> {
    Err((key.to_owned(), problem.into(), remedy))
}

fn check(manifest: &Manifest) -> Result<(), Fault> {
    identity::identity(manifest)?;
    files::files(manifest)?;
    files::resources(manifest)?;
    indication::indication(manifest)?;
    tensors::input(manifest)?;
    tensors::output(manifest)?;
    labels::labels(manifest)?;
    files::golden(manifest)
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
