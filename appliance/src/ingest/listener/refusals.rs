//! Refusals: each is logged, audited, and kept for the peers' page with reason, numbers and remedy.

use std::net::SocketAddr;

use rusqlite::params;
use serde_json::json;

use crate::audit::{Event, EventKind, Outcome};
use crate::store::ledger::Ledger;

/// Why a connection or an association was refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Name in the site file, or the address where the caller is unknown.
    pub peer: String,
    /// Calling AE title; empty where it came to none.
    pub calling_ae: String,
    /// Where it came from.
    pub address: SocketAddr,
    /// How it was refused: `1/1/3` (result/source/reason of PS3.8 §9.3.4), `context 3` (PS3.8
    /// §9.3.3.2), `TLS`, or empty.
    pub code: String,
    /// Why.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// Refusals that the ledger keeps for the page; the audit log keeps them all.
const KEPT: u32 = 1000;

/// Audits a refusal and keeps it for the page.
pub async fn record(ledger: &Ledger, refusal: Refusal) {
    metrics::counter!("lightbox_associations_total", "outcome" => "refused").increment(1);
    tracing::warn!(
        peer = refusal.peer,
        address = %refusal.address.ip(),
        code = refusal.code,
        reason = refusal.reason,
        remedy = refusal.remedy,
        "refused"
    );
    let written = ledger.write(move |writer| {
        let address = refusal.address.ip().to_canonical().to_string();
        writer.tx().execute(
            "INSERT INTO refusals (at, peer, calling_ae, address, code, reason, remedy)
             VALUES (?1,?2,?3,?4,?5,?6,?7)",
            params![
                writer.now_ms(),
                refusal.peer,
                refusal.calling_ae,
                address,
                refusal.code,
                refusal.reason,
                refusal.remedy
            ],
        )?;
        writer
            .tx()
            .execute("DELETE FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - ?1", [KEPT])?;
        let detail = json!({
            "calling_ae": refusal.calling_ae,
            "address": address,
            "code": refusal.code,
            "reason": refusal.reason,
        });
        writer.audit(
            &Event::new(EventKind::AssociationRefused, refusal.peer, detail).with_outcome(Outcome::Minor),
        )
    });
    if let Err(error) = written.await {
        tracing::error!(reason = error.to_string(), "a refusal could not be recorded");
    }
}
