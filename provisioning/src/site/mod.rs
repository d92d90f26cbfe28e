//! The site file: text in, a checked [`Site`] out, or every problem at once with file, line, key
//! and remedy.
//!
//! Two checks, kept apart: [`Site::parse`] judges the text alone, [`Site::check_files`] what the
//! text names on this machine. Both run before a port opens.

mod check;
mod completion;
mod dicomweb;
mod locate;
mod networks;
mod peers;
mod priors;
pub mod raw;
mod reference;
mod routing;
mod sop_classes;
mod system;
mod updates;

use std::fmt;
use std::path::{Path, PathBuf};

pub use check::parse_fingerprint;
pub use completion::field_name;
pub use dicomweb::WebUrl;
pub use networks::Network;
pub use priors::{Priors, PriorsBy, Same};
pub use raw::*;
pub use reference::reference_markdown;
pub use routing::{
    Day, Edits, Schedule, SetKind, longest, parse_time_of_day, parse_transcode, parse_utc_offset,
};
pub use sop_classes::{is_sop_class_entry, sop_class_fits, sop_class_words};

/// A site file that passed every check of its text.
#[derive(Clone, Debug)]
pub struct Site {
    /// The settings. Relative paths are already joined to the site file's folder.
    pub file: SiteFile,
    /// Path of the site file, for messages.
    pub path: PathBuf,
    /// SHA-256 of the text, hex: the revision that each routing decision names.
    pub revision: String,
    text: String,
}

/// One thing wrong with the site file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the site file, from 1.
    pub line: usize,
    /// Key, e.g. `peer[0].certificate`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// A site file that cannot be used, with everything that is wrong with it.
#[derive(Clone, Debug)]
pub struct SiteError {
    /// Path of the site file.
    pub path: PathBuf,
    /// The problems, in the order of the file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for SiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}: ", self.path.display(), problem.line)?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            write!(f, "{}", problem.what)?;
            if !problem.remedy.is_empty() {
                write!(f, "\n    remedy: {}", problem.remedy)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for SiteError {}

impl Site {
    /// Reads and checks a site file's text.
    pub fn load(path: &Path) -> Result<Site, SiteError> {
        let text = std::fs::read_to_string(path).map_err(|error| SiteError {
            path: path.to_owned(),
            problems: vec![Problem {
                line: 1,
                key: String::new(),
                what: format!("cannot be read: {error}"),
                remedy: "name an existing file with --site".into(),
            }],
        })?;
        Site::parse(path, &text)
    }

    /// Checks the text of a site file; `path` gives relative paths their folder.
    pub fn parse(path: &Path, text: &str) -> Result<Site, SiteError> {
        check::parse(path, text)
    }

    /// Checks what the text names on this machine: files exist and can be read, the key fits the
    /// certificate, addresses have the right form. Opens no port.
    pub fn check_files(&self) -> Result<(), SiteError> {
        check::files(self)
    }

    /// An error about one key of this file, for checks that other crates make (CEL expressions,
    /// bundles).
    pub fn problem(&self, key: &str, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem {
            line: locate::line_of(&self.text, key),
            key: key.to_owned(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// The peer of that name.
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        self.file.peer.iter().find(|peer| peer.name == name)
    }

    /// The destination of that name.
    pub fn destination(&self, name: &str) -> Option<&Destination> {
        self.file.destination.iter().find(|destination| destination.name == name)
    }
}
