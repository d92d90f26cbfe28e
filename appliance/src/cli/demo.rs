//! `lightbox demo`: the whole line on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

use crate::demo::{self, Options};

/// Show the whole line on this machine: a site with its own certificates, the real daemon, a PACS
/// (Orthanc if it is installed) and a RIS; phantoms and real studies go in, results come out.
///
/// Leaves results/*.dcm (SRs, as the PACS gives them back), oru/*.hl7, preview.png and summary.json
/// in the output folder. Exit code 0 means that everything arrived, that the phantoms' answers are
/// exact, and that the audit log verifies.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for the output; an earlier demo's is cleared [default: target/demo in a checkout, else
    /// ./lightbox-demo].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder of the sample studies [default: target/parts/samples, made by ./justw parts].
    #[arg(long, value_name = "DIR")]
    samples: Option<PathBuf>,
    /// Folder of the reference bundles [default: target/bundles, made by ./justw parts].
    #[arg(long, value_name = "DIR")]
    bundles: Option<PathBuf>,
    /// Leave everything running at the end, until Ctrl-C.
    #[arg(long)]
    keep_running: bool,
    /// What is drawn by chance in the phantoms comes from this number.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Receive the results in this process even if Orthanc is installed.
    #[arg(long)]
    in_process_pacs: bool,
}

impl Args {
    /// Runs the demo.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let options = Options {
            out: self.out,
            samples: self.samples,
            bundles: self.bundles,
            keep_running: self.keep_running,
            seed: self.seed,
            in_process_pacs: self.in_process_pacs,
        };
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
            let stopped = demo::wait_for_stop();
            tokio::pin!(stopped);
            // Leaving early drops, and so ends, every child.
            let mut shown = tokio::select! {
                shown = demo::run(options) => shown?,
                _ = &mut stopped => bail!("the demo was stopped by a signal"),
            };
            if shown.is_running() {
                println!("\nEverything keeps running. Ctrl-C stops it.");
                stopped.await?;
                shown.stop().await?;
            }
            shown.outcome.judge()?;
            Ok(ExitCode::SUCCESS)
        })
    }
}
