//! The outbound queues: one task a destination, so that one that is down, slow or hanging delays no
//! other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::sender::{Reason, Route, Sent};
use crate::clock::SharedClock;
use crate::store::deliveries::{self, Claim, Try};
use crate::store::ledger::{Ledger, LedgerError};
use crate::store::results::Results;

/// When a failed delivery is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Wait before the second try.
    pub first: Duration,
    /// Longest wait.
    pub longest: Duration,
    /// Age at which a delivery goes to the dead letters.
    pub give_up: Duration,
}

impl Backoff {
    /// The wait after the try with that number (from 1): doubling, up to a quarter more by
    /// `chance` (0 to 255), so that queues which failed together do not come back together.
    pub fn wait(&self, attempts: u32, chance: u8) -> Duration {
        let doubled = self.first.saturating_mul(1_u32 << attempts.saturating_sub(1).min(20));
        let wait = doubled.min(self.longest);
        wait + wait.mul_f64(f64::from(chance) / 255.0 * 0.25)
    }
}

/// What every destination's task needs.
#[derive(Clone)]
pub struct Queue {
    /// Where deliveries are.
    pub ledger: Ledger,
    /// Where the contents are.
    pub results: Results,
    /// For the waits.
    pub clock: SharedClock,
    /// When to try again.
    pub backoff: Backoff,
}

impl Queue {
    /// Sends what is due, until `stop` turns true. `wake` is told when something was queued;
    /// without it the queue is looked at every second, for replays from the command line.
    pub async fn run(self, route: Route, wake: Arc<Notify>, mut stop: watch::Receiver<bool>) {
        let route = Arc::new(route);
        loop {
            let sent = tokio::select! {
                sent = self.send_next(&route) => sent,
                _ = stop.changed() => return,
            };
            if sent {
                continue;
            }
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Sends the next delivery that is due; false when there is none.
    async fn send_next(&self, route: &Route) -> bool {
        let (name, owner) = (route.name.clone(), self.ledger.boot().to_owned());
        let lease_ms = route.longest().as_millis() as i64;
        let claimed =
            self.ledger.write(move |writer| deliveries::claim(writer, &name, &owner, lease_ms)).await;
        let claim = match claimed {
            Ok(Some(claim)) => claim,
            Ok(None) => return false,
            Err(error) => {
                tracing::error!(
                    destination = route.name,
                    reason = error.to_string(),
                    "the queue cannot be read"
                );
                return false;
            }
        };
        let sent = self.send(route, &claim).await;
        let ended = self.judge(route, &claim, sent);
        self.write_end(&claim, &ended).await;
        true
    }

    /// Writes the outcome until it is written: with a full disk it is known but not yet durable.
    async fn write_end(&self, claim: &Claim, ended: &Try) {
        loop {
            let (delivery, outcome) = (claim.clone(), ended.clone());
            match self.ledger.write(move |writer| deliveries::end(writer, &delivery, &outcome)).await {
                Ok(()) => return,
                // Shutting down: the next start sends it again under the same identifiers.
                Err(LedgerError::Closed) => return,
                Err(error) => {
                    let (destination, reason) = (&claim.destination, error.to_string());
                    tracing::error!(destination, reason, "the outcome could not be written, trying on");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn send(&self, route: &Route, claim: &Claim) -> Sent {
        let file = if route.is_hl7() { claim.oru_file.as_ref() } else { Some(&claim.sr_file) };
        let missing =
            |what: &str| Sent::Never(Reason { code: what.into(), text: crate::phi::Phi::from(what) });
        let Some(file) = file else { return missing("the result has no message for this destination") };
        match self.results.read(file) {
            Ok(content) => route.send(content, &claim.sr_instance_uid, &claim.message_control_id).await,
            Err(_) => missing("the result's file cannot be read"),
        }
    }

    fn judge(&self, route: &Route, claim: &Claim, sent: Sent) -> Try {
        let (study, destination) = (&claim.study_key, &route.name);
        let count = |outcome: &'static str| {
            metrics::counter!("lightbox_deliveries_total", "destination" => destination.clone(), "outcome" => outcome)
                .increment(1);
        };
        match sent {
            Sent::Delivered(remark) => {
                count("delivered");
                tracing::info!(study, destination, attempts = claim.attempts, "delivered");
                Try::Delivered(remark)
            }
            Sent::Never(reason) => {
                count("dead");
                tracing::error!(study, destination, code = reason.code, "dead letter");
                Try::Dead { reason: reason.text, code: reason.code }
            }
            Sent::Later(reason) => {
                let now = self.clock.now_ms();
                let age = Duration::from_millis(u64::try_from(now - claim.queued_ms).unwrap_or_default());
                if age >= self.backoff.give_up {
                    count("dead");
                    tracing::error!(study, destination, code = reason.code, "given up: dead letter");
                    return Try::Dead { reason: reason.text, code: reason.code };
                }
                count("later");
                let mut chance = [0];
                // Without random numbers the waits are still right, only not spread.
                let _ = getrandom::fill(&mut chance);
                let wait = self.backoff.wait(claim.attempts, chance[0]);
                tracing::warn!(
                    study,
                    destination,
                    code = reason.code,
                    attempts = claim.attempts,
                    wait_seconds = wait.as_secs(),
                    "not delivered, will be tried again"
                );
                Try::Again { reason: reason.text, next_ms: now + wait.as_millis() as i64 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread_by_a_quarter() {
        let backoff = Backoff {
            first: Duration::from_secs(5),
            longest: Duration::from_secs(300),
            give_up: Duration::from_secs(3600),
        };
        let waits: Vec<u64> = (1..9).map(|attempts| backoff.wait(attempts, 0).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.wait(u32::MAX, 0).as_secs(), 300);
        assert_eq!(backoff.wait(3, 255).as_secs(), 25);
    }
}
