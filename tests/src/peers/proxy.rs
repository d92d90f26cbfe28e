//! A browser with a client certificate is hard to drive headless; this stands between: HTTP on one
//! side, HTTPS with an operator's certificate on the other, one request a connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use super::tls_client;
use crate::hospital::{Hospital, Identity};

/// Starts the proxy; it lives as long as the test. Yields its address.
pub fn start(hospital: &Hospital, admin: SocketAddr, identity: &Identity) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (ca, identity) = (hospital.ca(), identity.clone());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (ca, identity) = (ca.clone(), identity.clone());
            thread::spawn(move || {
                if let Err(error) = pass(stream, admin, &ca, &identity) {
                    eprintln!("proxy: {error}");
                }
            });
        }
    });
    address
}

fn pass(mut browser: TcpStream, admin: SocketAddr, ca: &Path, identity: &Identity) -> io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 8192];
    let head = loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break String::from_utf8_lossy(&request[..end]).into_owned();
        }
        match browser.read(&mut buffer)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&buffer[..read]),
        }
    };
    let mut server = tls_client::connect(admin, ca, &identity.certificate, &identity.key)?;
    let kept = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head: Vec<&str> = kept.collect();
    write!(server, "{}\r\nConnection: close\r\n\r\n", head.join("\r\n"))?;
    server.flush()?;
    loop {
        match server.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => browser.write_all(&buffer[..read])?,
            // Closed without TLS's own farewell.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
