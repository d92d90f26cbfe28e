//! TLS clients that are not DICOM toolkits: `openssl s_client` for old protocol versions, and one of
//! rustls that can show a certificate whose key it does not have.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SignatureScheme, StreamOwned};

use crate::command::{Said, program};
use crate::hospital::Identity;

/// Runs `openssl s_client` until the other side closes, 10 seconds at most.
#[track_caller]
pub fn openssl(to: SocketAddr, options: &[&str], identity: Option<&Identity>) -> Said {
    let mut command = Command::new(program("openssl"));
    command.args(["s_client", "-connect", &to.to_string()]).args(options);
    if let Some(identity) = identity {
        command.arg("-cert").arg(&identity.certificate).arg("-key").arg(&identity.key);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl starts");
    // Its standard input stays open: at its end openssl would hang up by itself.
    let input = child.stdin.take();
    let deadline = Instant::now() + Duration::from_secs(10);
    while child.try_wait().expect("a child of ours").is_none() {
        if Instant::now() >= deadline {
            let _ = child.kill();
        }
        thread::sleep(Duration::from_millis(20));
    }
    drop(input);
    child.wait_with_output().expect("its output").into()
}

/// The number of the TLS alert by which the other side refused, as `openssl` tells it.
pub fn alert(said: &Said) -> Option<u8> {
    let (_, rest) = said.err.split_once("SSL alert number ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// An open TLS connection.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Connects with `certificate`, signing with `key`, which need not belong to it. Errors of the
/// handshake come out here or, with TLS 1.3, at the first read.
pub fn connect(to: SocketAddr, ca: &Path, certificate: &Path, key: &Path) -> io::Result<Stream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("an authority");
    let chain = vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let signer = provider.key_provider.load_private_key(key).expect("a usable key");
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Shown(Arc::new(CertifiedKey::new(chain, signer)))));
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let socket = TcpStream::connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    stream.flush()?;
    Ok(stream)
}

/// What becomes of a connection on which nothing is said for two seconds: an error of TLS, the end of
/// the stream, or nothing (`Ok(None)`), which means that the server is waiting for us to speak.
pub fn listen(mut stream: Stream) -> io::Result<Option<usize>> {
    stream.sock.set_read_timeout(Some(Duration::from_secs(2)))?;
    match stream.read(&mut [0; 64]) {
        Ok(read) => Ok(Some(read)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(None),
        Err(error) => Err(error),
    }
}
