//! The HL7 listener: connections of the site's sources, frames within bounds, and an answer only after
//! the message is on disk.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lightbox_provisioning::site::{Orders, Site};
use rusqlite::params;
use rustls::pki_types::UnixTime;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::inbox::{self, Taken};
use crate::audit::{Event, EventKind, Outcome};
use crate::clock::SharedClock;
use crate::dicom::tls::explain_handshake;
use crate::dicom::tls::live::Live;
use crate::hl7::er7::Message;
use crate::hl7::mllp::{self, AckCode, Complaint, Decoder, MllpError};
use crate::hl7::time_stamp_utc;
use crate::store::ledger::Ledger;

/// Connections that have not yet shown who they are.
const WAITING_MAX: usize = 64;

/// The listener; shared by all connections.
pub struct Listener {
    settings: Arc<Orders>,
    live: watch::Receiver<Arc<Live>>,
    by_address: HashMap<IpAddr, String>,
    handshake: Duration,
    ledger: Ledger,
    clock: SharedClock,
    waiting: Semaphore,
    open: Mutex<HashMap<String, u32>>,
}

/// A connection's place, given back when dropped.
struct Place<'a>(&'a Listener, String);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.1) {
            *count -= 1;
        }
    }
}

impl Listener {
    /// A listener with the site's sources.
    pub fn new(site: &Site, live: watch::Receiver<Arc<Live>>, ledger: Ledger, clock: SharedClock) -> Self {
        let settings = site.file.orders.clone();
        let by_address = settings
            .source
            .iter()
            .filter_map(|source| Some((source.address.as_ref()?.parse().ok()?, source.name.clone())))
            .collect();
        Listener {
            live,
            by_address,
            settings: Arc::new(settings),
            handshake: Duration::from_secs(site.file.dicom.handshake_timeout_seconds),
            ledger,
            clock,
            waiting: Semaphore::new(WAITING_MAX),
            open: Mutex::default(),
        }
    }

    /// Accepts connections until `stop` turns true. `encrypted` says which of the two ports it is.
    pub async fn run(self: Arc<Self>, port: TcpListener, encrypted: bool, mut stop: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                accepted = port.accept() => accepted,
                _ = stop.changed() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let (listener, mut stop) = (self.clone(), stop.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = listener.connection(stream, address, encrypted) => {}
                            // What is not acknowledged the source sends again.
                            _ = stop.changed() => {}
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: breathe, then go on.
                    tracing::error!(kind = %error.kind(), "accepting an HL7 connection failed");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream, address: SocketAddr, encrypted: bool) {
        drop(stream.set_nodelay(true));
        // Nobody waits for a place: a stranger that holds one is out of it after the handshake's time.
        let Ok(waiting) = self.waiting.try_acquire() else { return };
        let who = address.ip().to_string();
        if !encrypted {
            drop(waiting);
            return match self.by_address.get(&address.ip().to_canonical()) {
                Some(source) => self.serve(stream, source, address).await,
                None => {
                    let reason = "the address belongs to no source of orders";
                    let remedy = "add an [[orders.source]] with this address, or send by TLS";
                    self.refused(&who, address, reason.into(), remedy).await;
                }
            };
        }
        // One state of certificates for the whole handshake, whatever is reloaded meanwhile.
        let live = self.live.borrow().clone();
        let acceptor = TlsAcceptor::from(live.sources_server.clone());
        match tokio::time::timeout(self.handshake, acceptor.accept(stream)).await {
            Err(_) => {
                let reason = "the source did not finish the TLS handshake in time".to_owned();
                self.refused(&who, address, reason, "check that the source speaks TLS on this port").await;
            }
            Ok(Err(error)) => {
                let (reason, remedy) = explain_handshake(&error);
                self.refused(&who, address, reason, remedy).await;
            }
            Ok(Ok(stream)) => {
                drop(waiting);
                let Some(source) = self.owner(&live, stream.get_ref().1) else { return };
                self.serve(stream, &source, address).await;
            }
        }
    }

    /// The source whose certificate this is.
    fn owner(&self, live: &Live, connection: &rustls::ServerConnection) -> Option<String> {
        let now = UnixTime::since_unix_epoch(Duration::from_millis(self.clock.now_ms().try_into().ok()?));
        let [certificate, intermediates @ ..] = connection.peer_certificates()? else { return None };
        live.sources.owners(certificate, intermediates, now).first().map(|owner| (*owner).to_owned())
    }

    fn take_place(&self, source: &str) -> Option<Place<'_>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source.to_owned()).or_default();
        if *count >= self.settings.connections_per_source {
            return None;
        }
        *count += 1;
        Some(Place(self, source.to_owned()))
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        source: &str,
        address: SocketAddr,
    ) {
        let Some(_place) = self.take_place(source) else {
            let reason = format!("{} connections are open already", self.settings.connections_per_source);
            let remedy = "let the source keep one connection, or raise orders.connections_per_source";
            return self.refused(source, address, reason, remedy).await;
        };
        if let Err(error) = self.messages(&mut stream, source).await {
            tracing::warn!(source, reason = error.to_string(), "an HL7 connection was ended");
            if let MllpError::TooLarge { .. } = error {
                let remedy = "raise orders.max_message_kib if the source's messages are that large";
                self.refused(source, address, error.to_string(), remedy).await;
            }
        }
    }

    async fn messages<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        source: &str,
    ) -> Result<(), MllpError> {
        let limit = usize::try_from(self.settings.max_message_kib).unwrap_or(1024).saturating_mul(1024);
        let (idle, timeout) = (
            Duration::from_secs(self.settings.idle_timeout_seconds),
            Duration::from_secs(self.settings.message_timeout_seconds),
        );
        let mut decoder = Decoder::new(limit);
        while let Some(raw) = mllp::receive(stream, &mut decoder, idle, timeout).await? {
            for answer in self.take(source, raw).await? {
                mllp::reply(stream, &answer, timeout).await?;
            }
        }
        Ok(())
    }

    /// Keeps and applies a message, then yields what is to be answered.
    async fn take(&self, source: &str, raw: Vec<u8>) -> Result<Vec<String>, MllpError> {
        let message = Message::parse(&raw).ok();
        let (settings, from) = (self.settings.clone(), source.to_owned());
        let taken = self.ledger.write(move |writer| inbox::take(writer, &from, &raw, &settings)).await;
        let (outcome, complaint) = match &taken {
            Ok(Taken::Applied) => (Answer::Accept, None),
            Ok(Taken::Refused(refusal)) => {
                let (code, kind, text) = refusal.explain();
                (if kind { Answer::Reject } else { Answer::Error }, Some((code, text)))
            }
            Err(error) => {
                tracing::error!(source, reason = error.to_string(), "a message could not be kept");
                (Answer::Reject, Some((207, "the message cannot be kept now: send it again later".into())))
            }
        };
        metrics::counter!("lightbox_orders_received_total", "outcome" => outcome.name()).increment(1);
        let at = time_stamp_utc(self.clock.now());
        let complaint =
            complaint.as_ref().map(|(error_code, text)| Complaint { error_code: *error_code, text });
        match (message, complaint) {
            (Some(message), complaint) => codes(&message, outcome)
                .into_iter()
                .map(|code| mllp::answer(message.text().expose(), code, &at, complaint))
                .collect(),
            (None, Some(complaint)) => Ok(vec![mllp::answer_to_no_message(&at, complaint)]),
            (None, None) => Ok(Vec::new()),
        }
    }

    /// Puts a refusal on record, for the page of peers.
    async fn refused(&self, peer: &str, address: SocketAddr, reason: String, remedy: &'static str) {
        tracing::warn!(source = peer, address = %address.ip(), reason, "an HL7 connection was refused");
        let peer = peer.to_owned();
        let written = self.ledger.write(move |writer| {
            writer.tx().execute(
                "INSERT INTO refusals (at, peer, calling_ae, address, reason, remedy) VALUES (?1,?2,'HL7',?3,?4,?5)",
                params![writer.now_ms(), peer, address.to_string(), reason, remedy],
            )?;
            let detail = json!({ "address": address.ip().to_string(), "reason": reason, "port": "orders" });
            let event = Event::new(EventKind::AssociationRefused, peer.as_str(), detail);
            writer.audit(&event.with_outcome(Outcome::Minor))
        });
        if let Err(error) = written.await {
            tracing::error!(reason = error.to_string(), "a refusal could not be recorded");
        }
    }
}

/// What a message is answered with, before the acknowledgement's mode is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Accept,
    Error,
    Reject,
}

impl Answer {
    fn name(self) -> &'static str {
        match self {
            Answer::Accept => "applied",
            Answer::Error => "error",
            Answer::Reject => "rejected",
        }
    }
}

/// The acknowledgements that a message gets (HL7 v2.5.1 §2.9.2): in original mode the application's; in
/// enhanced mode, where MSH-15 or MSH-16 is given, the accept level's and the application's, each where
/// its condition (AL, NE, ER, SU) holds. What was not accepted has no application to answer.
fn codes(message: &Message, outcome: Answer) -> Vec<AckCode> {
    let (accept, application) = (message.header(15), message.header(16));
    let at_application = match outcome {
        Answer::Accept => AckCode::AA,
        Answer::Error => AckCode::AE,
        Answer::Reject => AckCode::AR,
    };
    if accept.expose().is_empty() && application.expose().is_empty() {
        return vec![at_application];
    }
    let at_commit = match outcome {
        Answer::Accept => AckCode::CA,
        Answer::Error => AckCode::CE,
        Answer::Reject => AckCode::CR,
    };
    let wanted = |condition: &str| match condition {
        "AL" => true,
        "SU" => outcome == Answer::Accept,
        "ER" => outcome != Answer::Accept,
        _ => false,
    };
    let commit = wanted(accept.expose()).then_some(at_commit);
    let told = commit.is_some() && outcome != Answer::Accept;
    let application = (wanted(application.expose()) && !told).then_some(at_application);
    commit.into_iter().chain(application).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_by_mode() {
        use AckCode::{AA, AE, AR, CA, CE, CR};
        let with = |accept: &str, application: &str, outcome| {
            let text = format!("MSH|^~\\&|R|H|L||2026||ORM^O01|1|P|2.5|||{accept}|{application}");
            codes(&Message::parse(text.as_bytes()).expect("a message"), outcome)
        };
        for (accept, application, outcome, expected) in [
            ("", "", Answer::Accept, vec![AA]),
            ("", "", Answer::Error, vec![AE]),
            ("", "", Answer::Reject, vec![AR]),
            ("AL", "NE", Answer::Accept, vec![CA]),
            ("AL", "NE", Answer::Error, vec![CE]),
            ("AL", "NE", Answer::Reject, vec![CR]),
            ("AL", "AL", Answer::Accept, vec![CA, AA]),
            ("AL", "AL", Answer::Error, vec![CE]),
            ("NE", "AL", Answer::Reject, vec![AR]),
            ("NE", "NE", Answer::Reject, vec![]),
            ("ER", "SU", Answer::Accept, vec![AA]),
            ("ER", "SU", Answer::Error, vec![CE]),
            ("SU", "ER", Answer::Error, vec![AE]),
        ] {
            assert_eq!(with(accept, application, outcome), expected, "{accept}/{application} {outcome:?}");
        }
    }
}
