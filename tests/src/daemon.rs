//! The daemon as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::command::{lightbox, onnxruntime};
use crate::ledger::Ledger;
use crate::site::Site;
use crate::wait;

/// How long a start may take.
const READY_SECONDS: u64 = 60;

/// A running daemon. It is killed on drop; a failing test prints its log.
pub struct Daemon {
    child: Child,
    log: Arc<Mutex<String>>,
    /// Where it listens for DICOM over TLS.
    pub dicom: SocketAddr,
    /// Where it listens for plaintext DICOM.
    pub plaintext: Option<SocketAddr>,
    /// Where it takes orders by HL7 over TLS.
    pub orders: Option<SocketAddr>,
    /// Where it takes instances by DICOMweb.
    pub dicomweb: Option<SocketAddr>,
    /// Where its administration page is.
    pub admin: SocketAddr,
    /// Its `data_dir`, as this process sees it.
    pub data_dir: PathBuf,
}

fn address(ready: &Value, key: &str) -> Option<SocketAddr> {
    ready.get(key)?.as_str().map(|text| text.parse().expect("an address"))
}

impl Daemon {
    /// Writes the site file, starts the daemon and waits until it is ready.
    #[track_caller]
    pub fn start(site: &Site) -> Self {
        Self::start_logging(site, "info")
    }

    /// The same with a log of that level (`LIGHTBOX_LOG`).
    #[track_caller]
    pub fn start_logging(site: &Site, level: &str) -> Self {
        let daemon = Self::start_without_models(site, level);
        // Jobs would wait for them anyhow; but no test is about that unless it brings a vendor of its own.
        let models = site.signed_models() as i64;
        if models > 0 {
            daemon.wait_for("the models to be active", READY_SECONDS, |ledger| {
                let active = "SELECT count(*) FROM model_versions WHERE state = 'active'";
                (ledger.number(active) == models).then_some(())
            });
        }
        daemon
    }

    /// The same without waiting until the site's models are active.
    #[track_caller]
    pub fn start_without_models(site: &Site, level: &str) -> Self {
        site.write();
        let mut command = Command::new(lightbox());
        command.arg("serve").arg("--site").arg(&site.path);
        command.env("LIGHTBOX_ONNXRUNTIME", onnxruntime()).env("LIGHTBOX_LOG", level);
        command.envs(site.environment.iter().cloned());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut kept = kept.lock().expect("nobody panics while holding it");
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (send, receive) = channel();
        let also_kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The first line is for us; what else it prints, it should not, and goes to the log.
                if let Err(unread) = send.send(line) {
                    also_kept.lock().expect("nobody panics while holding it").push_str(&unread.0);
                }
            }
        });
        let line = match receive.recv_timeout(Duration::from_secs(READY_SECONDS)) {
            Ok(line) => line,
            Err(error) => {
                let _ = child.kill();
                let status = child.wait();
                let why = match error {
                    RecvTimeoutError::Timeout => format!("was not ready after {READY_SECONDS} s"),
                    RecvTimeoutError::Disconnected => format!("ended: {status:?}"),
                };
                thread::sleep(Duration::from_millis(100));
                panic!("the daemon {why}\n{}\n{}", log.lock().expect("whole"), site.toml());
            }
        };
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(ready["ready"], Value::Bool(true), "{line}");
        Daemon {
            dicom: address(&ready, "dicom").expect("its DICOM address"),
            plaintext: address(&ready, "plaintext"),
            orders: address(&ready, "orders"),
            dicomweb: address(&ready, "dicomweb"),
            admin: address(&ready, "admin").expect("its admin address"),
            data_dir: site.data_dir.clone(),
            child,
            log,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("whole").clone()
    }

    /// Its ledger, to be read.
    pub fn ledger(&self) -> Ledger {
        Ledger::open(&self.data_dir)
    }

    /// Waits until `probe` yields something; past the deadline it panics with the log and the ledger.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, seconds: u64, mut probe: impl FnMut(&Ledger) -> Option<T>) -> T {
        let ledger = self.ledger();
        wait::until(what, seconds, || probe(&ledger), || format!("{}\n{}", ledger.summary(), self.log()))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, then its exit status.
    pub fn stop(&mut self) -> ExitStatus {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).expect("it runs");
        let log = Arc::clone(&self.log);
        wait::until(
            "the daemon to stop after SIGTERM",
            20,
            || self.child.try_wait().expect("it is a child of ours"),
            || log.lock().expect("whole").clone(),
        )
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
    }
}
