//! `lightbox site`: checks a site file, prints its reference and an example.

use std::path::PathBuf;
use std::process::ExitCode;

use lightbox_provisioning::site::{Site, SiteError, reference_markdown};

use crate::clock::{Clock as _, SystemClock, utc_text};
use crate::config::Config;
use crate::daemon::start_engine;

/// Check a site file, or print what may stand in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Check a site file and everything it names: certificates, keys, rules. Opens no port,
    /// writes nothing. Exit code 78 when something is wrong; every problem is printed at once.
    Check {
        /// The site file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Check the text alone, not the files that it names (for a file written elsewhere).
        #[arg(long)]
        text_only: bool,
    },
    /// Print every table and key with form, default and meaning (Markdown).
    Reference,
    /// Print a commented example to start from.
    Example,
}

impl Args {
    /// Runs the verb.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Check { file, text_only } => {
                let site = Site::load(&file)?;
                if text_only {
                    println!("{}: the text is good", file.display());
                    return Ok(ExitCode::SUCCESS);
                }
                let config = Config::load(site)?;
                // The library and the networks are loaded as the daemon would load them.
                let runtime = tokio::runtime::Builder::new_current_thread().build()?;
                runtime.block_on(start_engine(&config))?;
                let now = SystemClock.now_ms();
                let expired = config.live.expiries.iter().find(|one| one.not_after_ms < now);
                if let Some(expired) = expired {
                    let problem = config.site.problem(
                        "appliance.tls",
                        format!("{} expired at {}", expired.who, utc_text(expired.not_after_ms)),
                        "renew it: peers refuse it, or are refused for it",
                    );
                    let path = config.site.path.clone();
                    return Err(SiteError { path, problems: vec![problem] }.into());
                }
                let settings = &config.site.file;
                println!(
                    "{}: good ({} peers, {} destinations, {} models, {} rules; AE {}, DICOM on {})",
                    file.display(),
                    settings.peer.len(),
                    settings.destination.len(),
                    settings.model.len(),
                    settings.rule.len(),
                    settings.appliance.ae_title,
                    settings.dicom.listen,
                );
                if settings.dicom.allow_plaintext {
                    println!(
                        "warning: DICOM without TLS is allowed; patient data may cross the network unencrypted"
                    );
                }
            }
            Verb::Reference => print!("{}", reference_markdown()),
            Verb::Example => print!("{}", include_str!("../../../provisioning/examples/site.toml")),
        }
        Ok(ExitCode::SUCCESS)
    }
}
