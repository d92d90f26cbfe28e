//! Orthanc as the demo's PACS: a child process with DICOM over mutual TLS, and its REST interface
//! on a loopback port, by which the results are read back.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::folder::Folder;
use super::pacs::Held;
use super::site::{DemoSite, ae, party};
use crate::phi::Phi;

/// How long Orthanc has to come up.
const START: Duration = Duration::from_secs(20);
/// How long one request may take, and the largest answer.
const REQUEST: Duration = Duration::from_secs(10);
const ANSWER_MAX: u64 = 64 * 1024 * 1024;

/// A running Orthanc; it is killed when it is dropped.
#[derive(Debug)]
pub struct Orthanc {
    /// Host and port for DICOM.
    pub address: String,
    /// Host and port of the REST interface and its page.
    pub http: String,
    /// Its version.
    pub version: String,
    _child: Child,
}

/// Orthanc's program on the `PATH`.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian puts it among the daemons, where the PATH of a user does not reach.
    let daemons = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(daemons)
        .map(|folder| folder.join("Orthanc"))
        .find(|file| file.is_file())
}

/// A port that was free a moment ago: Orthanc must be told one, it cannot choose.
async fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

impl Orthanc {
    /// Starts it and waits until both its ports answer.
    pub async fn start(program: &Path, site: &DemoSite, folder: &Folder) -> anyhow::Result<Orthanc> {
        let storage = folder.make("pacs")?;
        let (dicom, http) = (free_port().await?, free_port().await?);
        let settings = json!({
            "Name": "Lightbox demo PACS",
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            "Plugins": [],
            "SaveJobs": false,
            "DicomAet": ae::PACS,
            "DicomPort": dicom,
            "DicomCheckCalledAet": true,
            "DicomAlwaysAllowEcho": false,
            "DicomAlwaysAllowStore": false,
            "DicomModalities": { "lightbox": [ae::BOX, "127.0.0.1", 104] },
            "DicomTlsEnabled": true,
            "DicomTlsCertificate": site.certificate(party::PACS),
            "DicomTlsPrivateKey": site.key(party::PACS),
            "DicomTlsTrustedCertificates": site.authority(),
            "DicomTlsRemoteCertificateRequired": true,
            "HttpServerEnabled": true,
            "HttpPort": http,
            // Only this machine reaches it.
            "RemoteAccessAllowed": false,
            "AuthenticationEnabled": false,
        });
        let file = folder.join("site").join("orthanc.json");
        std::fs::write(&file, serde_json::to_vec_pretty(&settings)?)
            .with_context(|| format!("writing {}", file.display()))?;
        let log = std::fs::File::create(folder.join("orthanc.log")).context("making orthanc.log")?;
        let mut child = Command::new(program)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C is ours to handle: the daemon must stop before its PACS does.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("it cannot be run")?;
        let (address, http) = (format!("127.0.0.1:{dicom}"), format!("127.0.0.1:{http}"));
        let up = async {
            loop {
                if let Some(status) = child.try_wait()? {
                    bail!("it ended at once ({status})");
                }
                if let Ok(body) = get(&http, "/system").await
                    && TcpStream::connect(&address).await.is_ok()
                {
                    let system: Value = serde_json::from_slice(&body)?;
                    return Ok(system["Version"].as_str().unwrap_or("of unknown version").to_owned());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let version = tokio::time::timeout(START, up)
            .await
            .map_err(|_| anyhow!("it does not answer within {} s", START.as_secs()))??;
        Ok(Orthanc { address, http, version, _child: child })
    }

    /// Every instance that it has, by its REST interface.
    pub async fn held(&self) -> anyhow::Result<Vec<Held>> {
        let ids: Vec<String> = serde_json::from_slice(&get(&self.http, "/instances").await?)?;
        let mut held = Vec::new();
        for id in ids {
            let plain = id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
            ensure!(plain, "Orthanc lists an instance by a name that is none");
            let instance: Value =
                serde_json::from_slice(&get(&self.http, &format!("/instances/{id}")).await?)?;
            let uid = instance["MainDicomTags"]["SOPInstanceUID"].as_str().unwrap_or_default();
            held.push(Held {
                sop_instance_uid: Phi::from(uid),
                file: Phi::new(get(&self.http, &format!("/instances/{id}/file")).await?),
            });
        }
        Ok(held)
    }
}

/// A GET in HTTP/1.0: one request a connection, the body up to its end. All that is needed here.
async fn get(address: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
        body(&answer).map(<[u8]>::to_vec)
    };
    tokio::time::timeout(REQUEST, exchange).await.map_err(|_| anyhow!("Orthanc does not answer {path}"))?
}

/// The body of an answer, if it is a whole success.
fn body(answer: &[u8]) -> anyhow::Result<&[u8]> {
    let end =
        answer.windows(4).position(|four| four == b"\r\n\r\n").context("Orthanc's answer is no HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    ensure!(status == "200", "Orthanc answers with HTTP status {status}");
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    let body = &answer[end + 4..];
    ensure!(length.is_none_or(|length| length == body.len()), "Orthanc's answer was cut off");
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::body;

    #[test]
    fn only_a_whole_success_has_a_body() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").unwrap(), b"hi");
        assert_eq!(body(b"HTTP/1.1 200 OK\r\n\r\n").unwrap(), b"");
        assert!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi").is_err());
        assert!(body(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
        assert!(body(b"nonsense").is_err());
    }
}
