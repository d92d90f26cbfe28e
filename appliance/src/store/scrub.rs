//! The scrubber: rereads every object in idle time and compares it with its name, so that rot is found while
//! the PACS still has the image.

use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension, params};
use serde_json::json;
use tokio::sync::watch;

use super::ledger::{Ledger, LedgerError};
use super::objects::{ObjectError, ObjectId, Objects};
use crate::audit::{Event, EventKind, Outcome};
use crate::clock::SharedClock;

/// Wait when nothing is due.
const EVERY: Duration = Duration::from_secs(30);
/// Between two objects it waits this many times as long as the last one took: the disk is for others.
const SHARE: u32 = 9;

/// What scrubbing needs.
#[derive(Clone)]
pub struct Scrubber {
    /// Where the index is.
    pub ledger: Ledger,
    /// What is reread.
    pub objects: Objects,
    /// For the ages.
    pub clock: SharedClock,
    /// Each object is reread this often, milliseconds.
    pub every_ms: i64,
}

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Nothing is due.
    Nothing,
    /// Its bytes are what they were.
    Sound,
    /// They are not.
    Rotten,
    /// They cannot be read now.
    Unreadable,
}

impl Scrubber {
    /// Scrubs until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            let began = Instant::now();
            let wait = match self.next().await {
                Ok(Looked::Nothing | Looked::Unreadable) => EVERY,
                Ok(Looked::Sound | Looked::Rotten) => began.elapsed() * SHARE,
                Err(error) => {
                    tracing::error!(reason = error.to_string(), "objects cannot be reread");
                    EVERY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Rereads the object that waits longest, if one is due and nothing arrives meanwhile.
    pub async fn next(&self) -> Result<Looked, LedgerError> {
        let before = self.clock.now_ms().saturating_sub(self.every_ms);
        let found: Option<(i64, String)> = self
            .ledger
            .read(move |reader| {
                Ok(reader
                    .prepare_cached(
                        "SELECT id, object FROM instances
                         WHERE state IN ('kept', 'conflict', 'unreadable') AND coalesce(verified_at, received_at) <= ?1
                         ORDER BY coalesce(verified_at, received_at) LIMIT 1",
                    )?
                    .query_row([before], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?)
            })
            .await?;
        let Some((id, name)) = found else { return Ok(Looked::Nothing) };
        let object = ObjectId::parse(&name).ok_or(LedgerError::NotFound("object of that name"))?;
        let (objects, reread) = (self.objects.clone(), object.clone());
        let verified = tokio::task::spawn_blocking(move || objects.verify(&reread))
            .await
            .map_err(|_| LedgerError::Panicked)?;
        let state = match verified {
            Ok(true) => None,
            Ok(false) | Err(ObjectError::Damaged) => Some("damaged"),
            Err(ObjectError::Absent) => Some("missing"),
            Err(error) => {
                // The disk, not the object: it is tried again.
                tracing::error!(study = object.study_key(), reason = %error, "an object cannot be reread");
                return Ok(Looked::Unreadable);
            }
        };
        let study = object.study_key().to_owned();
        if let Some(state) = state {
            metrics::counter!("lightbox_objects_rotten_total", "state" => state).increment(1);
            tracing::error!(
                study,
                state,
                "an object's bytes are not what was received: send the study again"
            );
        }
        self.ledger
            .write(move |writer| {
                let now = writer.now_ms();
                writer
                    .tx()
                    .prepare_cached(
                        "UPDATE instances SET verified_at = ?2, state = coalesce(?3, state)
                         WHERE id = ?1 AND state != 'purged'",
                    )?
                    .execute(params![id, now, state])?;
                match state {
                    None => Ok(()),
                    Some(state) => writer.audit(
                        &Event::new(EventKind::ObjectRotten, study, json!({ "state": state }))
                            .with_outcome(Outcome::Serious),
                    ),
                }
            })
            .await?;
        Ok(if state.is_some() { Looked::Rotten } else { Looked::Sound })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::Fixture;

    #[tokio::test]
    async fn what_is_gone_or_changed_is_told_once_and_shown() {
        let fixture = Fixture::new();
        // The fixture fills the index without putting objects into the store.
        fixture.receive(1, 1, "PHANTOM", b"pixels");
        let scrubber = Scrubber {
            ledger: fixture.ledger.clone(),
            objects: fixture.objects.clone(),
            clock: fixture.clock.clone(),
            every_ms: 1000,
        };
        assert_eq!(scrubber.next().await.expect("looked"), Looked::Nothing, "it is fresh");
        fixture.clock.advance(Duration::from_secs(2));
        assert_eq!(scrubber.next().await.expect("looked"), Looked::Rotten);
        assert_eq!(scrubber.next().await.expect("looked"), Looked::Nothing, "it is told once");
        let state: String = fixture
            .ledger
            .read_blocking(
                |reader| Ok(reader.query_row("SELECT state FROM instances", [], |row| row.get(0))?),
            )
            .expect("read");
        assert_eq!(state, "missing");
    }
}
