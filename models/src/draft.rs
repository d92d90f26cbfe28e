//! All problems of a document at once, for those who write one. What a box reads is refused at its
//! first problem; whoever writes a manifest or a plan wants to know of all of them.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::problem::{Problem, line_at};

/// What a text begins with that somebody has yet to decide. Neither a manifest nor a plan with such
/// a text is taken, on any box.
pub const UNDECIDED: &str = "DECIDE";

const DECIDE_REMEDY: &str = "decide it: write the value instead of the text that begins with DECIDE";

/// A document under examination.
pub(crate) struct Draft<'t> {
    file: &'t Path,
    text: &'t str,
    table: DeTable<'t>,
    undecided: Vec<Problem>,
    problems: Vec<Problem>,
    known: Vec<&'static str>,
}

impl<'t> Draft<'t> {
    /// Reads the TOML; a text that is none has that one problem.
    pub(crate) fn new(file: &'t Path, text: &'t str) -> Result<Draft<'t>, Problem> {
        let table = DeTable::parse(text).map_err(|error| Problem {
            file: file.to_owned(),
            line: error.span().map(|span| line_at(text, span.start)),
            key: String::new(),
            problem: error.message().to_owned(),
            remedy: "write TOML: https://toml.io".into(),
        })?;
        let mut undecided = Vec::new();
        for (key, value) in table.get_ref() {
            look(file, text, key.get_ref(), value, &mut undecided);
        }
        let (problems, known) = (Vec::new(), Vec::new());
        Ok(Draft { file, text, table: table.into_inner(), undecided, problems, known })
    }

    /// Whether a section is of its type.
    pub(crate) fn section<T: DeserializeOwned>(&mut self, name: &'static str, required: bool) -> Option<T> {
        self.known.push(name);
        match self.table.get(name).cloned() {
            Some(value) => self.typed(name, value),
            None => {
                if required {
                    self.missing(name);
                }
                None
            }
        }
    }

    /// Whether each entry of an array of tables is of its type; those that are.
    pub(crate) fn entries<T: DeserializeOwned>(&mut self, name: &'static str, required: bool) -> Vec<T> {
        self.known.push(name);
        let Some(value) = self.table.get(name).cloned() else {
            if required {
                self.missing(name);
            }
            return Vec::new();
        };
        let Some(entries) = value.get_ref().as_array().cloned() else {
            let line = line_at(self.text, value.span().start);
            self.add(Some(line), name, "not an array of tables", "write each as [[...]]");
            return Vec::new();
        };
        let entries = entries.into_iter().enumerate();
        entries.filter_map(|(at, entry)| self.typed(&format!("{name}[{at}]"), entry)).collect()
    }

    fn typed<T: DeserializeOwned>(&mut self, key: &str, value: Spanned<DeValue<'t>>) -> Option<T> {
        let start = value.span().start;
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(read) => Some(read),
            Err(error) => {
                let line = line_at(self.text, error.span().map_or(start, |span| span.start));
                // A number that nobody has decided yet is a text: that is told already.
                if !self.undecided.iter().any(|other| other.line == Some(line)) {
                    let problem = error.message().to_owned();
                    self.add(Some(line), key, &problem, "write the key as models/README.md gives it");
                }
                None
            }
        }
    }

    fn missing(&mut self, name: &'static str) {
        self.add(None, name, "missing", "add it as models/README.md gives it");
    }

    fn add(&mut self, line: Option<usize>, key: &str, problem: &str, remedy: &str) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line,
            key: key.to_owned(),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    /// What was found, in the order of lines.
    pub(crate) fn finish(mut self) -> Vec<Problem> {
        let unknown: Vec<(String, usize)> = self
            .table
            .iter()
            .filter(|(key, _)| !self.known.contains(&key.get_ref().as_ref()))
            .map(|(key, _)| (key.get_ref().to_string(), line_at(self.text, key.span().start)))
            .collect();
        for (key, line) in unknown {
            self.add(Some(line), &key, "not a key of this document", "remove it, or write it as meant");
        }
        let mut all = self.undecided;
        all.append(&mut self.problems);
        all.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        all
    }
}

/// The first text that nobody has decided, if any.
pub(crate) fn undecided(file: &Path, text: &str) -> Option<Problem> {
    // What is no TOML is told by who reads it.
    let table = DeTable::parse(text).ok()?;
    let mut found = Vec::new();
    for (key, value) in table.get_ref() {
        look(file, text, key.get_ref(), value, &mut found);
    }
    found.into_iter().min_by_key(|problem| problem.line)
}

fn look(file: &Path, text: &str, key: &str, value: &Spanned<DeValue<'_>>, found: &mut Vec<Problem>) {
    match value.get_ref() {
        DeValue::String(content) if content.trim_start().starts_with(UNDECIDED) => found.push(Problem {
            file: file.to_owned(),
            line: Some(line_at(text, value.span().start)),
            key: key.to_owned(),
            problem: format!("nobody has decided this: {:?}", content.trim()),
            remedy: DECIDE_REMEDY.into(),
        }),
        DeValue::Array(entries) => {
            for (at, entry) in entries.iter().enumerate() {
                look(file, text, &format!("{key}[{at}]"), entry, found);
            }
        }
        DeValue::Table(table) => {
            for (name, value) in table {
                look(file, text, &format!("{key}.{}", name.get_ref()), value, found);
            }
        }
        _ => {}
    }
}
