//! The socket: TLS with an operator's certificate, then HTTP/1.1.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rusqlite::params;
use rustls::pki_types::UnixTime;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::guard::Tokens;
use super::routes::{self, App, Turns};
use super::{AdminError, AdminState, Operator};
use crate::audit::{Event, EventKind, Outcome};
use crate::dicom::tls::{Trust, explain_handshake};

/// Connections at once: browsers of a few people and a scraper.
const CONNECTIONS_MAX: usize = 64;
/// Time for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for the head of a request, and for an idle connection to say something.
const HEAD: Duration = Duration::from_secs(30);
/// A connection is closed after this long, whatever happens on it.
const LIFETIME: Duration = Duration::from_secs(600);
/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;

struct Server {
    router: Router,
    state: AdminState,
}

/// Serves the administration page until `stop` turns true.
pub async fn serve(
    listener: TcpListener,
    state: AdminState,
    mut stop: watch::Receiver<bool>,
) -> Result<(), AdminError> {
    let address = listener.local_addr().map_err(AdminError::Address)?;
    tracing::info!(%address, "administration page");
    let app = Arc::new(App { state: state.clone(), tokens: Tokens::new()?, turns: Turns::default() });
    let server = Arc::new(Server { router: routes::router(app), state });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        match accepted {
            Ok((stream, address)) => {
                // Beyond the limit a connection is closed at once: nobody waits in the dark.
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let (server, stop) = (server.clone(), stop.clone());
                tokio::spawn(async move {
                    server.connection(stream, address, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(kind = %error.kind(), "accepting an administration connection failed");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

impl Server {
    async fn connection(&self, stream: TcpStream, address: SocketAddr, mut stop: watch::Receiver<bool>) {
        drop(stream.set_nodelay(true));
        let live = self.state.live.borrow().clone();
        let acceptor = TlsAcceptor::from(live.operators_server.clone());
        let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.refused(address, &error).await,
            Err(_) => return,
        };
        // The handshake has checked the certificate; this finds out whose it is.
        let Some(operator) = self.operator(&live.operators, stream.get_ref().1) else { return };
        let service = self.router.clone().layer(Extension(operator));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        tokio::pin!(connection);
        let ended = tokio::time::timeout(LIFETIME, async {
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = async { drop(stop.wait_for(|stop| *stop).await) } => {
                    connection.as_mut().graceful_shutdown();
                    connection.as_mut().await
                }
            }
        });
        if let Ok(Err(error)) = ended.await {
            tracing::debug!(reason = error.to_string(), "an administration connection ended early");
        }
    }

    fn operator(&self, trust: &Trust, connection: &rustls::ServerConnection) -> Option<Operator> {
        let now = self.state.clock.now_ms().try_into().unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now));
        let [certificate, intermediates @ ..] = connection.peer_certificates()? else { return None };
        Operator::of(&self.state.site, &trust.owners(certificate, intermediates, now))
    }

    /// Records who was turned away, and shows it where the refused peers are shown.
    async fn refused(&self, address: SocketAddr, error: &std::io::Error) {
        // A connection that ends without a word of TLS is a port check, or a browser whose user
        // chose no certificate yet.
        if error.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>()) {
            return;
        }
        let (reason, remedy) = explain_handshake(error);
        let reason = format!("administration page: {reason}");
        let remedy = remedy.replace("[[peer]]", "[[operator]]");
        let address = address.ip().to_string();
        tracing::warn!(address, reason, "refused");
        let written = self.state.ledger.write(move |writer| {
            writer.tx().execute(
                "INSERT INTO refusals (at, peer, calling_ae, address, code, reason, remedy) VALUES (?1,?2,'',?2,'TLS',?3,?4)",
                params![writer.now_ms(), address, reason, remedy],
            )?;
            let detail = json!({ "port": "admin", "address": address, "reason": reason });
            writer.audit(
                &Event::new(EventKind::AssociationRefused, address.as_str(), detail)
                    .with_outcome(Outcome::Minor),
            )
        });
        if let Err(error) = written.await {
            tracing::error!(reason = error.to_string(), "a refusal could not be recorded");
        }
    }
}
