//! Takes entries from the commit records over into the ledger's index, behind the acknowledgement.
//!
//! The commit record is the durable entry; this only makes it findable. What a crash keeps from it is
//! entered at the next start ([`index::mend`]).

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::entry::Entry;
use super::index::{self, Stored};
use super::ledger::{Ledger, LedgerError};
use super::objects::Committed;

/// Entries in one transaction.
const BATCH_MAX: usize = 256;
/// So long passes at least between the begin of two transactions: each costs a sync, which the disk would
/// rather spend on instances. The first after a pause goes at once.
const PACE: Duration = Duration::from_millis(50);
/// Wait before a transaction that failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Starts the thread. It ends when the object store is closed and all entries were taken.
pub fn start(ledger: Ledger, committed: Committed) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("indexer".into()).spawn(move || {
        while let Some(entries) = committed.next(BATCH_MAX) {
            let (count, began) = (entries.len(), Instant::now());
            enter(&ledger, entries);
            committed.indexed(count);
            thread::sleep(PACE.saturating_sub(began.elapsed()));
        }
    })
}

/// Enters them, however long it takes: they were acknowledged.
fn enter(ledger: &Ledger, entries: Vec<Entry>) {
    loop {
        let batch = entries.clone();
        let written = ledger.write_blocking(move |writer| {
            batch.iter().map(|entry| index::insert(writer, entry)).collect::<Result<Vec<_>, _>>()
        });
        match written {
            Ok(stored) => {
                for (entry, stored) in entries.iter().zip(stored) {
                    tell(entry, stored);
                }
                return;
            }
            Err(LedgerError::Closed) => return, // the next start enters them
            Err(error) => {
                tracing::error!(reason = %error, "received instances cannot be indexed yet; they are safe");
                // One entry that the ledger refuses must not keep the others out.
                if !error.is_full() && entries.len() > 1 {
                    return entries.into_iter().for_each(|entry| enter(ledger, vec![entry]));
                }
                thread::sleep(AGAIN);
            }
        }
    }
}

fn tell(entry: &Entry, stored: Stored) {
    let outcome = match stored {
        Stored::New => "new",
        Stored::Identical => "identical",
        Stored::Conflict => "conflict",
    };
    metrics::counter!("lightbox_instances_received_total", "outcome" => outcome).increment(1);
    if stored == Stored::Conflict {
        let study = entry.study_key();
        tracing::warn!(study, "an instance came again with other content: kept beside the first");
    }
}
