//! How far long work has come, on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that appears when the first bytes are done.
pub struct Bar {
    what: &'static str,
    bar: Option<ProgressBar>,
}

impl Bar {
    /// For work of this name.
    pub fn new(what: &'static str) -> Bar {
        Bar { what, bar: None }
    }

    /// So many bytes are done.
    pub fn at(&mut self, done: u64, total: u64) {
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}");
            let bar = ProgressBar::new(total).with_message(self.what);
            style.map_or(bar.clone(), |style| bar.with_style(style))
        });
        bar.set_position(done);
    }

    /// The work is done.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
