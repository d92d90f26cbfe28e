//! What a document may say, and hardly means. Boxes read it; whoever writes it is told.

/// Something doubtful.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Dotted key.
    pub key: String,
    /// What it comes to.
    pub what: String,
    /// What to do about it.
    pub remedy: &'static str,
    /// Whether it cannot be meant by anybody: then it is not to be published.
    pub senseless: bool,
}

impl Doubt {
    pub(crate) fn warning(key: impl Into<String>, what: impl Into<String>, remedy: &'static str) -> Doubt {
        Doubt { key: key.into(), what: what.into(), remedy, senseless: false }
    }

    pub(crate) fn senseless(key: impl Into<String>, what: impl Into<String>, remedy: &'static str) -> Doubt {
        Doubt { senseless: true, ..Doubt::warning(key, what, remedy) }
    }

    /// The line for people: file, line of the key in its text, what it comes to, remedy.
    pub fn told(&self, file: &std::path::Path, text: &str) -> String {
        let line = crate::line_of(text, &self.key).map_or(String::new(), |line| format!(":{line}"));
        let word = if self.senseless { "" } else { "warning: " };
        format!("{word}{}{line}: {}: {}; remedy: {}", file.display(), self.key, self.what, self.remedy)
    }
}
