//! `lightbox health`: is the daemon well? The image's health gate and its watch ask by it.
//!
//! - [`asked`]: how the daemon is reached, and what is no answer;
//! - [`study`]: a phantom study through it.
//!
//! The gate and the watch end in a restart, so they must tell what a restart can mend from what it cannot: a full
//! disk, a recalled model, a rule that the site has not written ([`Unwell::Held`]). A box that restarts for ever over
//! one of these does no work at all, and nobody can reach its page to see why.

mod asked;
mod study;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Parser;
use lightbox_bootstrap::boot_entry::EntryName;

use super::SiteArg;
use super::place::Place;
use crate::config::chain;

/// What the image's units leave of the boot entries for those who may not look at them; see `lightbox boot entries`.
const ENTRIES: &str = "/run/lightbox-boot-entries";
/// Pause before a gate that may not restart the machine asks again: at first, and at most.
const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// Ask the running daemon whether it is well: a C-ECHO over TLS, and a look into its ledger. With
/// `--phantom`, a study with exactly known findings goes through it, and the answer must be exact.
///
/// The box sends to itself, with its own certificate, as the peer `self-test` of the site file, which a
/// rule of its own should send to the phantom detector and to no destination:
///
/// [[peer]]
/// name = "self-test"
/// ae_title = "SELF-TEST"
/// certificate = { sha256 = "..." }    # of appliance.tls.certificate
/// networks = ["127.0.0.1"]
///
/// [[rule]]
/// name = "self-test"
/// match = { peer = "self-test" }
/// models = ["phantom"]
/// deliver = []
/// stop = true
///
/// From this machine the peer is let in past `store.congestion_mib` and `dicom.max_associations`, and its
/// studies come first: how busy the box is says nothing of whether it works.
///
/// Exit code 0: well. Otherwise the reason is on standard error.
#[derive(Debug, Parser)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(flatten)]
    site: SiteArg,
    /// Send a phantom study and compare the findings with the truth.
    #[arg(long)]
    phantom: bool,
    /// As --phantom, for the image's health gate: what a restart cannot mend (a full disk, a model out of
    /// service, a missing rule) is waited for, however long. So is everything else once no boot entry has a
    /// try left.
    #[arg(long, conflicts_with = "watch")]
    gate: bool,
    /// For the image's watch: a refusal (A-ASSOCIATE-RJ, or an alert of TLS) is an answer too, and where the
    /// site file is unreadable or has no such peer, nothing is asked.
    #[arg(long, conflicts_with = "phantom")]
    watch: bool,
    /// Seconds to wait for the daemon, and as long again for a study's answer after `timers.quiet_seconds`.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// The boot entries with their counters, one a line; where the file is not there, a restart may help.
    #[arg(long, value_name = "FILE", default_value = ENTRIES)]
    entries: PathBuf,
}

/// Why the daemon is not well.
#[derive(Debug)]
enum Unwell {
    /// A restart, or another image, may mend it.
    Broken(anyhow::Error),
    /// Neither would: the disk, the site file or a model is what stands in the way.
    Held(anyhow::Error),
}

impl Unwell {
    fn into_error(self) -> anyhow::Error {
        match self {
            Unwell::Broken(error) | Unwell::Held(error) => error,
        }
    }
}

impl From<anyhow::Error> for Unwell {
    fn from(error: anyhow::Error) -> Self {
        Unwell::Broken(error)
    }
}

impl Args {
    /// Asks.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let started = Instant::now();
        let said = runtime.block_on(async {
            if self.gate {
                self.gate().await
            } else {
                self.once(&mut |_| false).await.map_err(Unwell::into_error)
            }
        })?;
        println!("{said}; {:.1} s", started.elapsed().as_secs_f64());
        Ok(ExitCode::SUCCESS)
    }

    /// Asks once. `patient` hears why a stored study waits for what a restart would not mend, and says whether to go
    /// on waiting.
    async fn once(&self, patient: &mut dyn FnMut(&str) -> bool) -> Result<String, Unwell> {
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        let place = match Place::open(&self.site) {
            // The daemon goes on with the site file that it has: a restart would take that from it.
            Err(error) if self.watch => return Ok(format!("not asked: {}", chain(&*error))),
            place => place?,
        };
        // A box that came back from a newer release: the daemon does not start on such a ledger, however long we wait.
        place.is_no_newer_releases()?;
        let target = match asked::target(&place) {
            Err(Unwell::Held(why)) if self.watch => return Ok(format!("not asked: {why}")),
            target => target?,
        };
        match asked::echo(&target, deadline).await {
            Err(error) if self.watch && asked::is_refusal(&error) => {
                return Ok(format!("it answers, by a refusal: {}", chain(&*error)));
            }
            echoed => echoed?,
        }
        let ledger = place.reader()?;
        if !self.phantom && !self.gate {
            return Ok("healthy: it answers, and its ledger can be read".to_owned());
        }
        // A time of its own: a daemon that was long in starting is none the worse for it.
        let wait = Duration::from_secs(self.wait + place.site.file.timers.quiet_seconds);
        let found = study::through(&target, &ledger, wait, patient).await?;
        Ok(format!("healthy: {found}"))
    }

    /// Asks until the answer is good, or until it is bad in a way that a restart may mend.
    async fn gate(&self) -> anyhow::Result<String> {
        let mut pause = AGAIN;
        let mut said = String::new();
        let mut tell = |why: &str| {
            // On the machine's console: each reason once, on one line.
            let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
            if said != why {
                eprintln!("NOT healthy yet: {why}");
                said = why;
            }
            true
        };
        loop {
            let why = match self.once(&mut tell).await {
                Ok(said) => return Ok(said),
                Err(Unwell::Held(error)) => {
                    format!(
                        "{}; no restart would mend this, so it is asked again until it is mended",
                        chain(&*error)
                    )
                }
                Err(Unwell::Broken(error)) if restart_may_help(&self.entries) => return Err(error),
                Err(Unwell::Broken(error)) => {
                    format!(
                        "{}; no boot entry has a try left, so the machine is not restarted",
                        chain(&*error)
                    )
                }
            };
            tell(&why);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_MAX);
        }
    }
}

/// Whether an entry has a try left, this one or another: then a restart leads to something that is still to be tried.
fn restart_may_help(entries: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(entries) else { return true };
    let mut found = text.lines().filter_map(EntryName::parse).peekable();
    found.peek().is_none() || found.any(|entry| entry.left != Some(0))
}

/// The site file has to be changed before the box can ask itself.
fn site_lacks(what: &str) -> Unwell {
    Unwell::Held(anyhow!("{what}; remedy: add it to the site file, as `lightbox health --help` shows"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_may_help_as_long_as_an_entry_has_a_try_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("entries");
        assert!(restart_may_help(&file), "nothing is known of the entries");
        for (text, may) in [
            ("", true),
            ("lightbox_1.0.0+3.efi\n", true),
            ("lightbox_1.0.0+0-3.efi\nlightbox_1.1.0+0-3.efi\n", false),
            ("lightbox_1.0.0+0-3.efi\nlightbox_1.1.0+1-2.efi\n", true),
            ("lightbox_1.0.0.efi\nlightbox_1.1.0+0-3.efi\n", true),
            ("lightbox_1.1.0+0-3.efi", false),
        ] {
            std::fs::write(&file, text).expect("written");
            assert_eq!(restart_may_help(&file), may, "{text:?}");
        }
    }
}
