//! Sending series on as they were received: one task a destination, many instances over one
//! association or one after the other by STOW-RS, and every instance that the destination has taken
//! written down.

mod coerce;
mod contexts;
mod decompress;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
pub(super) mod prepare;
mod rewrite;
mod send;
pub mod source;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lightbox_provisioning::site::Edits;
use tokio::sync::{Notify, watch};

use self::send::{Report, Tally};
use super::queue::Backoff;
use super::sender::{Reason, Route};
use crate::clock::SharedClock;
use crate::store::deliveries::Try;
use crate::store::forwards::{self, Claim, Claimed};
use crate::store::ledger::{Ledger, LedgerError};
use crate::store::objects::Objects;

/// How long a claim holds without a sign of progress. Only a start of the daemon takes back what
/// another one held, so this is for people who look.
const LEASE: Duration = Duration::from_secs(10 * 60);

/// What every destination's task needs.
#[derive(Clone)]
pub struct Forwarder {
    /// Where forwards are.
    pub ledger: Ledger,
    /// Where the instances are.
    pub objects: Objects,
    /// For the waits.
    pub clock: SharedClock,
    /// When to try again.
    pub backoff: Backoff,
    /// Transfer syntaxes into which an instance may be changed for this destination, the preferred one
    /// first.
    pub transcode: Vec<&'static str>,
    /// Elements that are changed on the way to this destination, where a rule does not say otherwise.
    pub set: Edits,
    /// How this box is named where it changes something.
    pub system: String,
}

impl Forwarder {
    /// Sends what is due, until `stop` turns true; the instance under way is finished first. `wake` is told when something was queued; without
    /// it the ledger is looked at every second, for replays from the command line and for hours that
    /// begin.
    pub async fn run(self, route: Route, wake: Arc<Notify>, mut stop: watch::Receiver<bool>) {
        loop {
            if *stop.borrow() {
                return;
            }
            if self.send_next(&route, &stop).await {
                continue;
            }
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Sends what is due of the next study; false when there is none.
    async fn send_next(&self, route: &Route, stop: &watch::Receiver<bool>) -> bool {
        let (name, owner) = (route.name.clone(), self.ledger.boot().to_owned());
        let lease_ms = LEASE.as_millis() as i64;
        let claimed = self.ledger.write(move |writer| forwards::claim(writer, &name, &owner, lease_ms)).await;
        let claim = match claimed {
            Ok(Some(claim)) => claim,
            Ok(None) => return false,
            Err(error) => {
                let (destination, reason) = (&route.name, error.to_string());
                tracing::error!(destination, reason, "the forwards cannot be read");
                return false;
            }
        };
        let report = send::send_all(self, route, &claim, stop).await;
        for forward in &claim.forwards {
            let ended = self.judge(&claim, forward, &report);
            self.write_end(&claim, forward, &ended).await;
        }
        true
    }

    fn judge(&self, claim: &Claim, forward: &Claimed, report: &Report) -> Try {
        let (study, destination) = (&claim.study_key, &claim.destination);
        let count = |outcome: &'static str| {
            metrics::counter!("lightbox_forwards_total", "destination" => destination.clone(), "outcome" => outcome)
                .increment(1);
        };
        let tally = report.of(forward.id);
        let dead = |reason: Reason| {
            count("dead");
            tracing::error!(study, destination, code = reason.code, "forward: dead letter");
            Try::Dead { reason: reason.text, code: reason.code }
        };
        match tally {
            Tally { waiting: 0, refused: 0, sent, .. } => {
                count("delivered");
                tracing::info!(
                    study,
                    destination,
                    instances = sent,
                    attempts = forward.attempts,
                    "forwarded"
                );
                Try::Delivered(report.remark.clone())
            }
            Tally { waiting: 0, refused, refusal, .. } => {
                let first = refusal.clone().unwrap_or_else(|| Reason::plain("refused"));
                dead(first.counted(*refused))
            }
            Tally { sent, .. } => {
                let reason = report.stopped.clone().unwrap_or_else(|| Reason::plain("not all were sent"));
                let now = self.clock.now_ms();
                let age = Duration::from_millis(u64::try_from(now - forward.queued_ms).unwrap_or_default());
                // A destination that takes something each time is not given up.
                if report.lasting || (age >= self.backoff.give_up && *sent == 0) {
                    return dead(reason);
                }
                count("later");
                let mut chance = [0];
                // Without random numbers the waits are still right, only not spread.
                let _ = getrandom::fill(&mut chance);
                let tries = if *sent > 0 { 1 } else { forward.attempts };
                let wait = self.backoff.wait(tries, chance[0]);
                let (code, wait_seconds) = (&reason.code, wait.as_secs());
                tracing::warn!(study, destination, code, wait_seconds, "not all forwarded, will go on");
                Try::Again { reason: reason.text, next_ms: now + wait.as_millis() as i64 }
            }
        }
    }

    /// Writes the outcome until it is written: with a full disk it is known but not yet durable.
    async fn write_end(&self, claim: &Claim, forward: &Claimed, ended: &Try) {
        loop {
            let (study, destination) = (claim.study_key.clone(), claim.destination.clone());
            let (forward, ended) = (forward.clone(), ended.clone());
            let written = self
                .ledger
                .write(move |writer| forwards::end(writer, &study, &destination, &forward, &ended))
                .await;
            match written {
                Ok(()) => return,
                // Shutting down: the next start goes on where the instances say.
                Err(LedgerError::Closed) => return,
                Err(error) => {
                    let (destination, reason) = (&claim.destination, error.to_string());
                    tracing::error!(destination, reason, "the outcome could not be written, trying on");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// By forward.
type Tallies = BTreeMap<i64, Tally>;
