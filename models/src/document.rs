//! What reading a manifest and reading a plan have in common: the schema first, then what nobody has decided,
//! then the types, then what the types cannot say. What a box reads is refused at its first problem.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::draft;
use crate::problem::{Problem, line_at, line_of};

/// A fault beyond types: dotted key, what is wrong, what to do.
pub(crate) type Fault = (String, String, &'static str);

/// Parses and checks a text of schema `known`; `other_schema` says what to do about another one.
pub(crate) fn read<T: DeserializeOwned>(
    file: &Path,
    text: &str,
    known: u32,
    other_schema: impl Fn(i64) -> &'static str,
    faults: impl Fn(&T) -> Vec<Fault>,
) -> Result<T, Problem> {
    let problem = |line, key: &str, problem: String, remedy: &str| Problem {
        file: file.to_owned(),
        line,
        key: key.to_owned(),
        problem,
        remedy: remedy.to_owned(),
    };
    // The schema first: a text of a later schema would otherwise be refused for its new keys.
    if let Ok(table) = text.parse::<toml::Table>()
        && let Some(schema) = table.get("schema").and_then(toml::Value::as_integer)
        && schema != i64::from(known)
    {
        return Err(problem(
            line_of(text, "schema"),
            "schema",
            format!("schema {schema} is not known to this version, which reads schema {known}"),
            other_schema(schema),
        ));
    }
    if let Some(undecided) = draft::undecided(file, text) {
        return Err(undecided);
    }
    let document: T = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| line_at(text, span.start));
        problem(line, "", error.message().to_owned(), "write the key as models/README.md gives it")
    })?;
    match faults(&document).into_iter().next() {
        None => Ok(document),
        Some((key, what, remedy)) => Err(problem(line_of(text, &key), &key, what, remedy)),
    }
}
