//! What the person at the terminal sees: a line for each step, and a bar that moves where there is
//! a terminal.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The demo's output.
pub struct Show {
    started: Instant,
    bar: Option<ProgressBar>,
    last: String,
}

impl Default for Show {
    fn default() -> Self {
        Show::new()
    }
}

impl Show {
    /// Starts the clock.
    pub fn new() -> Show {
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Show { started: Instant::now(), bar, last: String::new() }
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// A line that stays.
    pub fn say(&self, line: impl AsRef<str>) {
        let line = format!("[{:5.1} s] {}", self.seconds(), line.as_ref());
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
    }

    /// What is going on now: replaces what was going on before, on a terminal; else a line of its
    /// own when it has changed.
    pub fn now(&mut self, what: String) {
        if what == self.last {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_message(what.clone()),
            None => self.say(&what),
        }
        self.last = what;
    }

    /// Ends the bar.
    pub fn done(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
