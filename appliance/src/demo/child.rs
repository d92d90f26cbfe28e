//! The real daemon, as a child process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long the daemon has to come up: it loads every network first.
const START: Duration = Duration::from_secs(40);
/// How long it has to stop, a little more than it gives itself.
const STOP: Duration = Duration::from_secs(25);

/// Where the daemon listens: its line on standard output.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    /// DICOM over TLS.
    pub dicom: String,
    /// The administration page.
    pub admin: String,
}

/// A running daemon; it is killed when it is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
    /// Where it listens.
    pub ready: Ready,
}

impl Daemon {
    /// Starts `lightbox serve` and waits until it says that it is ready.
    pub async fn start(site_file: &Path, log: &Path) -> anyhow::Result<Daemon> {
        let program = std::env::current_exe().context("this program's own file is not found")?;
        let log_file = std::fs::File::create(log).with_context(|| format!("making {}", log.display()))?;
        let mut child = Command::new(program)
            .args(["serve", "--site"])
            .arg(site_file)
            // Under systemd the log would go to the journal instead of the file.
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file)
            // A Ctrl-C is ours to handle, by a clean stop.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("the daemon cannot be started")?;
        let out = child.stdout.take().context("the daemon has no standard output")?;
        let mut lines = BufReader::new(out).lines();
        let first = tokio::time::timeout(START, lines.next_line()).await.map_err(|_| {
            anyhow!("the daemon is not ready within {} s; its log: {}", START.as_secs(), log.display())
        })??;
        let Some(line) = first else {
            bail!("the daemon did not start: {} (its log: {})", last_words(log), log.display());
        };
        let ready = serde_json::from_str(&line).context("the daemon's first line is not the one expected")?;
        Ok(Daemon { child, log: log.to_owned(), ready })
    }

    /// Fails if the daemon has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!(
                "the daemon ended ({status}): {} (its log: {})",
                last_words(&self.log),
                self.log.display()
            ),
        }
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            kill(Pid::from_raw(id), Signal::SIGTERM).context("the daemon cannot be told to stop")?;
        }
        let ended = tokio::time::timeout(STOP, self.child.wait()).await.map_err(|_| {
            anyhow!("the daemon did not stop within {} s; its log: {}", STOP.as_secs(), self.log.display())
        })??;
        if !ended.success() {
            bail!("the daemon stopped with {ended}; its log: {}", self.log.display());
        }
        Ok(())
    }
}

/// Why the daemon ended: the last line of its log that is not a structured one.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let plain: Vec<&str> =
        text.lines().filter(|line| !line.starts_with('{') && !line.trim().is_empty()).collect();
    match plain.iter().rposition(|line| line.starts_with("lightbox:")) {
        Some(at) => plain[at..].join("; ").trim_start_matches("lightbox:").trim().to_owned(),
        None => plain.last().map_or_else(|| "it said nothing".to_owned(), |line| (*line).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_the_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"level\":\"INFO\"}\nlightbox: site.toml: bad\n  line 3\n").unwrap();
        assert_eq!(last_words(file.path()), "site.toml: bad;   line 3");
        assert_eq!(last_words(Path::new("/nonexistent")), "it said nothing");
    }
}
