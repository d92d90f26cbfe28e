//! The demo's RIS: takes HL7 messages by MLLP over mutual TLS and keeps each before it says AA.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::audit::chain::hex;
use crate::clock::SharedClock;
use crate::hl7::mllp::{self, AckCode};
use crate::phi::Phi;
use crate::store::folder;

/// The largest message that is taken.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// How long a connection may stay without a message.
const IDLE: Duration = Duration::from_secs(60);

/// A running receiver; it ends when it is dropped.
#[derive(Debug)]
pub struct Ris {
    /// Host and port.
    pub address: String,
    folder: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Ris {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A message as it was kept.
#[derive(Debug)]
pub struct Kept {
    /// MSH-10.
    pub control_id: String,
    /// The message.
    pub message: Phi<String>,
}

impl Ris {
    /// Listens on a free port and keeps messages in `folder`.
    pub async fn start(tls: Arc<ServerConfig>, folder: &Path, clock: SharedClock) -> anyhow::Result<Ris> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port for the demo's RIS")?;
        let address = listener.local_addr()?.to_string();
        let inbox = folder.to_owned();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, inbox, clock) = (TlsAcceptor::from(tls.clone()), inbox.clone(), clock.clone());
                tokio::spawn(async move {
                    // Whoever fails the handshake sees the alert; there is nothing else to do.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    loop {
                        let now = time_stamp(&clock);
                        let served =
                            mllp::serve_one(&mut stream, MESSAGE_MAX, IDLE, &now, |text| take(&inbox, text));
                        if served.await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Ok(Ris { address, folder: folder.to_owned(), task })
    }

    /// Every message that was kept.
    pub fn kept(&self) -> anyhow::Result<Vec<Kept>> {
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "hl7") {
                let message = std::fs::read_to_string(&path)?;
                kept.push(Kept { control_id: control_id(&message), message: Phi::new(message) });
            }
        }
        Ok(kept)
    }
}

/// Keeps a message under its digest, synced before it is acknowledged: the same message sent again
/// falls on the first.
fn take(folder: &Path, message: &str) -> AckCode {
    let keep = || -> anyhow::Result<()> {
        let name = hex(&Sha256::digest(message.as_bytes()));
        let part = folder.join(format!("{name}.part"));
        let mut file = std::fs::File::create(&part)?;
        file.write_all(message.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&part, folder.join(format!("{name}.hl7")))?;
        Ok(folder::sync(folder)?)
    };
    // AR: it may go better later.
    if keep().is_ok() { AckCode::AA } else { AckCode::AR }
}

/// MSH-10 of a message with the usual separators.
fn control_id(message: &str) -> String {
    message.split('\r').next().and_then(|msh| msh.split('|').nth(9)).unwrap_or_default().to_owned()
}

fn time_stamp(clock: &SharedClock) -> String {
    let format = time::macros::format_description!("[year][month][day][hour][minute][second]+0000");
    clock.now().format(format).unwrap_or_default()
}

/// The report's text in a message: OBX-5 of its text lines, without escapes.
pub fn readable(message: &str) -> Vec<String> {
    message
        .split('\r')
        .map(|segment| segment.split('|').collect::<Vec<_>>())
        .filter(|fields| fields.first() == Some(&"OBX") && matches!(fields.get(2), Some(&("TX" | "FT"))))
        .flat_map(|fields| {
            let text = fields.get(5).copied().unwrap_or_default();
            let text = text.replace(r"\.br\", "\n").replace(r"\S\", "^").replace(r"\T\", "&");
            let text = text.replace(r"\R\", "~").replace(r"\F\", "|").replace(r"\E\", r"\");
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "MSH|^~\\&|A|B|C|D|20260101||ORU^R01^ORU_R01|abc123|P|2.5.1\rOBR|1\r\
        OBX|1|TX|18782-3^x^LN||one \\T\\ two\\.br\\three||||||P\rOBX|2|NM|1||5\r";

    #[test]
    fn a_message_is_kept_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(take(folder.path(), MESSAGE), AckCode::AA);
        assert_eq!(take(folder.path(), MESSAGE), AckCode::AA);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(take(&folder.path().join("missing"), MESSAGE), AckCode::AR);
        assert_eq!(control_id(MESSAGE), "abc123");
    }

    #[test]
    fn the_readable_part_is_the_text_lines() {
        assert_eq!(readable(MESSAGE), ["one & two", "three"]);
    }
}
