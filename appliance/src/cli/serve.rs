//! `lightbox serve`: runs the daemon.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lightbox_provisioning::site::Site;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::signal::unix::{SignalKind, signal};

use super::SiteArg;
use crate::clock::SystemClock;
use crate::config::chain;
use crate::daemon::Daemon;

/// Run the daemon until SIGTERM or SIGINT.
///
/// The whole site file is checked first; a bad one ends with exit code 78 and every problem with
/// its line, key and remedy. When all ports are open, one line of JSON on standard output says
/// where: {"ready":true,"dicom":"0.0.0.0:2762",...}. Logs are JSON lines on standard error, or go
/// to the journal where systemd runs the daemon.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    site: SiteArg,
}

impl Args {
    /// Runs the daemon.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        start_logging()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> anyhow::Result<ExitCode> {
        let site = Site::load(&self.site.site)?;
        let recorder = PrometheusBuilder::new().build_recorder();
        let prometheus = recorder.handle();
        metrics::set_global_recorder(recorder)
            .map_err(|_| anyhow::anyhow!("the metrics recorder was already set"))?;
        let upkeep = prometheus.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                upkeep.run_upkeep();
            }
        });
        // Asked for before the ports open, so that no signal is missed.
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let daemon = Daemon::start(site, Arc::new(SystemClock), prometheus).await?;
        let mut out = std::io::stdout();
        writeln!(out, "{}", serde_json::to_string(&daemon.ready)?)?;
        out.flush()?;
        tracing::info!(dicom = daemon.ready.dicom, admin = daemon.ready.admin, "ready");
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("stopping");
        daemon.stop().await;
        Ok(ExitCode::SUCCESS)
    }
}

/// Structured logs: to the journal when systemd has connected our standard error to it, else as
/// JSON lines on standard error. Levels by `LIGHTBOX_LOG` (default `info`).
fn start_logging() -> anyhow::Result<()> {
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    // dicom-rs logs values of data sets at `warn`: they are patients' data, so only errors pass.
    let quiet = "dicom_object=off,dicom_encoding=off,dicom_parser=off,dicom_ul=off,dicom_pixeldata=off,\
                 dicom_transfer_syntax_registry=off,ort=warn";
    let wanted = std::env::var("LIGHTBOX_LOG").unwrap_or_else(|_| "info".into());
    let filter = EnvFilter::try_new(format!("{wanted},{quiet}"))
        .map_err(|error| anyhow::anyhow!("LIGHTBOX_LOG: {error}; remedy: e.g. info or debug"))?;
    let registry = tracing_subscriber::registry().with(filter);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal).try_init()?,
        None => registry
            .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
            .try_init()?,
    }
    // A panic's message may quote the bytes that it stumbled over: only its place is logged.
    std::panic::set_hook(Box::new(|panic| {
        let place =
            panic.location().map_or_else(String::new, |place| format!("{}:{}", place.file(), place.line()));
        tracing::error!(place, "a fault in the code was contained");
    }));
    Ok(())
}

/// The text for an error that ends the command: the error and its causes, one a line.
pub fn explain(error: &anyhow::Error) -> String {
    chain(error.as_ref())
}
