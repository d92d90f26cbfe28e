//! The chain itself: hash = SHA-256(previous hash ‖ canonical record).
//!
//! The head (sequence number and hash of the last record) is signed with every commit, so cutting
//! records off the end is found, not only editing, dropping and reordering. A signed checkpoint
//! stays every [`CHECKPOINT_EVERY`] records, so that a fault is confined to a stretch, and so that
//! exports can be compared with what was exported before.

use lightbox_bootstrap::identity::{DeviceIdentity, PublicKey};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Event;

/// Records between two checkpoints that stay.
pub const CHECKPOINT_EVERY: i64 = 256;

/// One record of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Place in the chain, from 1, without gaps.
    pub seq: i64,
    /// Milliseconds since the epoch, UTC.
    pub at: i64,
    /// The start of the daemon that wrote it.
    pub boot: String,
    /// Event kind.
    pub event: String,
    /// Outcome.
    pub outcome: String,
    /// Whom or what it concerns.
    pub subject: String,
    /// JSON text, hashed as it stands.
    pub detail: String,
}

impl Record {
    /// SHA-256 over the previous hash and this record. Every field goes in with its length, so
    /// that no two records share a canonical form.
    pub fn hash(&self, previous: &[u8; 32]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(b"lightbox audit record 1\0");
        hasher.update(previous);
        hasher.update(self.seq.to_be_bytes());
        hasher.update(self.at.to_be_bytes());
        for field in [&self.boot, &self.event, &self.outcome, &self.subject, &self.detail] {
            hasher.update((field.len() as u64).to_be_bytes());
            hasher.update(field.as_bytes());
        }
        hasher.finalize().into()
    }
}

/// What a signature covers: place and hash of a record, and by the hash all before it.
fn signed_message(seq: i64, hash: &[u8; 32]) -> Vec<u8> {
    let mut message = b"lightbox audit checkpoint 1\0".to_vec();
    message.extend(seq.to_be_bytes());
    message.extend(hash);
    message
}

/// The last record's place and hash; 0 and zeros for an empty chain.
fn head(connection: &Connection) -> rusqlite::Result<(i64, [u8; 32])> {
    let row = connection
        .prepare_cached("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(row.unwrap_or((0, [0; 32])))
}

/// Appends a record within the caller's transaction.
pub fn append(tx: &Transaction<'_>, at: i64, boot: &str, event: &Event) -> rusqlite::Result<()> {
    let (seq, previous) = head(tx)?;
    let record = Record {
        seq: seq + 1,
        at,
        boot: boot.to_owned(),
        event: event.kind.as_str().to_owned(),
        outcome: event.outcome.as_str().to_owned(),
        subject: event.subject.clone(),
        detail: event.detail.to_string(),
    };
    let hash = record.hash(&previous);
    tx.prepare_cached(
        "INSERT INTO audit (seq, at, boot, event, outcome, subject, detail, hash) VALUES (?1,?2,?3,?4,?5,?6,?7,?8)",
    )?
    .execute(params![
        record.seq,
        record.at,
        record.boot,
        record.event,
        record.outcome,
        record.subject,
        record.detail,
        hash
    ])?;
    Ok(())
}

/// Signs the head if the transaction moved it, and keeps a checkpoint where one is due.
pub fn sign_head(tx: &Transaction<'_>, at: i64, identity: &DeviceIdentity) -> rusqlite::Result<()> {
    let (seq, hash) = head(tx)?;
    let signed: Option<i64> =
        tx.query_row("SELECT seq FROM audit_head WHERE one = 1", [], |row| row.get(0)).optional()?;
    if seq == 0 || signed == Some(seq) {
        return Ok(());
    }
    let signature = identity.sign(&signed_message(seq, &hash));
    tx.execute(
        "INSERT INTO audit_head (one, seq, hash, signature) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (one) DO UPDATE SET seq = ?1, hash = ?2, signature = ?3",
        params![seq, hash, signature],
    )?;
    let last: Option<i64> = tx.query_row("SELECT max(seq) FROM audit_checkpoints", [], |row| row.get(0))?;
    if seq - last.unwrap_or(0) >= CHECKPOINT_EVERY {
        tx.execute(
            "INSERT INTO audit_checkpoints (seq, at, hash, signature) VALUES (?1, ?2, ?3, ?4)",
            params![seq, at, hash, signature],
        )?;
    }
    Ok(())
}

/// A signed statement that the chain had this hash at this place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Place in the chain.
    pub seq: i64,
    /// Hash of the record at that place, hex.
    pub hash: String,
    /// Ed25519 signature, hex.
    pub signature: String,
}

impl Checkpoint {
    /// Whether this key has signed it.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let hash: Option<[u8; 32]> = unhex(&self.hash).try_into().ok();
        hash.is_some_and(|hash| key.verify(&signed_message(self.seq, &hash), &unhex(&self.signature)))
    }
}

/// What is wrong with a chain, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The record at this place does not hash to what is stored: it was edited.
    #[error("record {seq}: its content does not match its hash: the record was altered")]
    Altered {
        /// Place.
        seq: i64,
    },
    /// A record is missing or out of order at this place.
    #[error("record {expected}: missing or out of order (found {found} in its place)")]
    Missing {
        /// The place where the chain breaks.
        expected: i64,
        /// The place found instead.
        found: i64,
    },
    /// Records were cut off the end, or the head was replaced.
    #[error(
        "the chain ends at record {last}, but the signed head says {head}: records were cut off or added"
    )]
    Cut {
        /// Last record there.
        last: i64,
        /// Place that the signed head names.
        head: i64,
    },
    /// A checkpoint's signature does not verify: not this device's, or altered.
    #[error("the signature at record {seq} is not this device's")]
    BadSignature {
        /// Place.
        seq: i64,
    },
    /// The chain was rewritten with matching hashes, but a signature tells.
    #[error(
        "record {seq}: the chain does not match the signed checkpoint: it was rewritten at or before this record"
    )]
    Rewritten {
        /// Place.
        seq: i64,
    },
    /// There are records, but no signed head.
    #[error("the chain has no signed head")]
    NoHead,
}

/// Verifies records one after another; the records are offered in the order in which they are kept.
#[derive(Debug)]
pub struct Verifier {
    key: PublicKey,
    checkpoints: std::collections::BTreeMap<i64, Checkpoint>,
    head: Option<Checkpoint>,
    seq: i64,
    previous: [u8; 32],
}

impl Verifier {
    /// Starts with everything that was signed.
    pub fn new(key: PublicKey, checkpoints: Vec<Checkpoint>, head: Option<Checkpoint>) -> Self {
        let checkpoints = checkpoints.into_iter().map(|checkpoint| (checkpoint.seq, checkpoint)).collect();
        Verifier { key, checkpoints, head, seq: 0, previous: [0; 32] }
    }

    /// Takes the next record with the hash that is stored beside it.
    pub fn record(&mut self, record: &Record, stored: &[u8]) -> Result<(), Broken> {
        if record.seq != self.seq + 1 {
            return Err(Broken::Missing { expected: self.seq + 1, found: record.seq });
        }
        let hash = record.hash(&self.previous);
        if hash != stored {
            return Err(Broken::Altered { seq: record.seq });
        }
        self.seq = record.seq;
        self.previous = hash;
        match self.checkpoints.get(&record.seq) {
            Some(checkpoint) => self.signed(checkpoint, &hash),
            None => Ok(()),
        }
    }

    fn signed(&self, checkpoint: &Checkpoint, hash: &[u8; 32]) -> Result<(), Broken> {
        if !checkpoint.is_signed_by(&self.key) {
            return Err(Broken::BadSignature { seq: checkpoint.seq });
        }
        if unhex(&checkpoint.hash) == hash { Ok(()) } else { Err(Broken::Rewritten { seq: checkpoint.seq }) }
    }

    /// After the last record: the head must name it. Yields the number of records.
    pub fn finish(self) -> Result<i64, Broken> {
        // What was signed beyond the last record is gone.
        if let Some(last) = self.checkpoints.keys().next_back().filter(|last| **last > self.seq) {
            return Err(Broken::Cut { last: self.seq, head: *last });
        }
        match &self.head {
            None if self.seq == 0 => Ok(0),
            None => Err(Broken::NoHead),
            Some(head) if head.seq != self.seq => Err(Broken::Cut { last: self.seq, head: head.seq }),
            Some(head) => self.signed(head, &self.previous).map(|()| self.seq),
        }
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a hex text; empty when it is none.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Option<Vec<u8>> =
        text.bytes().map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8)).collect();
    match digits {
        Some(digits) if digits.len().is_multiple_of(2) => {
            digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
        }
        _ => Vec::new(),
    }
}
