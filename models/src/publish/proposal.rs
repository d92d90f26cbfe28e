//! A change that several people sign, one after another.
//!
//! The first one rehearses the change: what would have to be signed is written into a proposal,
//! with the time that it bears. Each holder adds signatures; the last one publishes the same change
//! at the same time, and so the same bytes. Snapshot and timestamp are signed then: they depend on
//! the signatures before them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::{Addition, Change, Design, Holders, Lifetimes, PublicKey, PublishError, Publisher, Signer};
use crate::bundle::hex;

const SCHEMA: u32 = 1;

/// A change, and the signatures collected for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    schema: u32,
    /// The time that the metadata bear, in seconds since 1970.
    at: i64,
    add: Vec<Added>,
    remove: Vec<String>,
    renew: BTreeSet<String>,
    design: Option<BTreeMap<String, Holding>>,
    /// What is to be signed.
    messages: Vec<Message>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Added {
    name: String,
    by: String,
    file: PathBuf,
    custom: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Holding {
    keys: Vec<String>,
    threshold: u64,
}

/// Metadata in canonical form, and who may sign them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Whose metadata they are, for people: the text itself names no delegated role.
    #[serde(default)]
    pub role: String,
    /// The canonical form: JSON.
    pub text: String,
    /// Public keys that are asked for, in hex.
    pub keys: BTreeSet<String>,
    /// Signatures by public key, both in hex.
    pub signatures: BTreeMap<String, String>,
}

impl Proposal {
    /// Rehearses a change: nothing that a box reads is altered. `signers` sign what they can.
    pub fn rehearse(
        publisher: &Publisher,
        change: &Change,
        lifetimes: &Lifetimes,
        now: OffsetDateTime,
        signers: &[&dyn Signer],
    ) -> Result<Proposal, PublishError> {
        let mut asked: BTreeSet<PublicKey> = keys(&publisher.design()?);
        asked.extend(change.design.iter().flat_map(keys));
        let messages = RefCell::new(Vec::new());
        let recorders: Vec<Recorder<'_>> =
            asked.into_iter().map(|public| Recorder { public, messages: &messages }).collect();
        let all: Vec<&dyn Signer> = recorders.iter().map(|recorder| recorder as &dyn Signer).collect();
        publisher.rehearse(change, lifetimes, now, &all)?;
        drop(all);
        drop(recorders);
        let mut messages = messages.into_inner();
        let after = match &change.design {
            Some(design) => design.clone(),
            None => publisher.design()?,
        };
        for message in &mut messages {
            message.role = role_of(message, &after);
        }
        let holding = |holders: &Holders| Holding {
            keys: holders.keys.iter().map(ToString::to_string).collect(),
            threshold: holders.threshold,
        };
        let mut proposal = Proposal {
            schema: SCHEMA,
            at: now.unix_timestamp(),
            add: change
                .add
                .iter()
                .map(|addition| Added {
                    name: addition.name.clone(),
                    by: addition.by.to_string(),
                    file: addition.file.clone(),
                    custom: addition.custom.clone(),
                })
                .collect(),
            remove: change.remove.clone(),
            renew: change.renew.clone(),
            design: change.design.as_ref().map(|design| {
                roles(design).into_iter().map(|(role, holders)| (role, holding(holders))).collect()
            }),
            messages,
        };
        proposal.sign(signers)?;
        Ok(proposal)
    }

    /// Reads a proposal's JSON.
    pub fn read(bytes: &[u8]) -> Result<Proposal, PublishError> {
        let proposal: Proposal = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
        if proposal.schema != SCHEMA {
            return Err(damaged(&format!("schema {}, known is {SCHEMA}", proposal.schema)));
        }
        Ok(proposal)
    }

    /// The proposal's JSON.
    pub fn to_json(&self) -> Result<String, PublishError> {
        serde_json::to_string_pretty(self).map_err(|error| damaged(&error))
    }

    /// What is to be signed.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Adds the signatures of these keys where they are asked for; how many were added.
    pub fn sign(&mut self, signers: &[&dyn Signer]) -> Result<usize, PublishError> {
        let mut added = 0;
        for message in &mut self.messages {
            for signer in signers {
                let public = signer.public().to_string();
                if message.keys.contains(&public) && !message.signatures.contains_key(&public) {
                    let signature = signer.sign(message.text.as_bytes())?;
                    message.signatures.insert(public, hex(&signature));
                    added += 1;
                }
            }
        }
        Ok(added)
    }

    /// Publishes the change with the collected signatures; `signers` are those of snapshot and
    /// timestamp at least. Refused where the repository has changed since.
    pub fn complete(
        &self,
        publisher: &mut Publisher,
        lifetimes: &Lifetimes,
        signers: &[&dyn Signer],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), PublishError> {
        let now = OffsetDateTime::from_unix_timestamp(self.at).map_err(|error| damaged(&error))?;
        let change = self.change()?;
        let given: BTreeSet<PublicKey> = signers.iter().map(|signer| signer.public()).collect();
        let mut collected: BTreeMap<PublicKey, Collected> = BTreeMap::new();
        for message in &self.messages {
            for (public, signature) in &message.signatures {
                let key = PublicKey::from_hex(public)?;
                let entry =
                    collected.entry(key).or_insert(Collected { public: key, signed: BTreeMap::new() });
                entry.signed.insert(message.text.clone().into_bytes(), signature_of(signature)?);
            }
        }
        // A key that is at hand signs for itself: it can sign what is only known now.
        let collected: Vec<Collected> =
            collected.into_values().filter(|collected| !given.contains(&collected.public)).collect();
        let mut all = signers.to_vec();
        all.extend(collected.iter().map(|collected| collected as &dyn Signer));
        publisher.publish(&change, lifetimes, now, &all, progress)
    }

    fn change(&self) -> Result<Change, PublishError> {
        let mut add = Vec::new();
        for added in &self.add {
            let by = added.by.parse().map_err(|()| damaged(&format!("unknown role {}", added.by)))?;
            let (name, file, custom) = (added.name.clone(), added.file.clone(), added.custom.clone());
            add.push(Addition { name, by, file, custom });
        }
        let design = self.design.as_ref().map(design_of).transpose()?;
        Ok(Change { add, remove: self.remove.clone(), design, renew: self.renew.clone() })
    }
}

fn roles(design: &Design) -> Vec<(String, &Holders)> {
    let mut all = vec![
        ("root".to_owned(), &design.root),
        ("targets".to_owned(), &design.targets),
        ("snapshot".to_owned(), &design.snapshot),
        ("timestamp".to_owned(), &design.timestamp),
    ];
    all.extend(design.delegates.iter().map(|(role, holders)| (role.to_string(), holders)));
    all
}

/// Whose metadata a text is: by its kind, the keys that may sign it, and the targets in it.
fn role_of(message: &Message, design: &Design) -> String {
    let Ok(content) = serde_json::from_str::<Value>(&message.text) else { return String::new() };
    match content["_type"].as_str() {
        // The top-level one hands paths to roles; theirs have an empty table of them, or none.
        Some("targets") if content["delegations"]["roles"].as_array().is_none_or(Vec::is_empty) => {}
        Some(top) => return top.to_owned(),
        None => return String::new(),
    }
    let targets: Vec<&str> =
        content["targets"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let may_be = design.delegates.iter().filter(|(role, holders)| {
        let keys: BTreeSet<String> = holders.keys.iter().map(ToString::to_string).collect();
        keys == message.keys && targets.iter().all(|name| role.may(name))
    });
    may_be.map(|(role, _)| role.to_string()).collect::<Vec<_>>().join(" or ")
}

fn keys(design: &Design) -> BTreeSet<PublicKey> {
    roles(design).into_iter().flat_map(|(_, holders)| holders.keys.iter().copied()).collect()
}

fn design_of(roles: &BTreeMap<String, Holding>) -> Result<Design, PublishError> {
    let holders = |role: &str| {
        let holding = roles.get(role).ok_or_else(|| damaged(&format!("no holders of {role}")))?;
        let keys = holding.keys.iter().map(|key| PublicKey::from_hex(key)).collect::<Result<_, _>>()?;
        Ok::<_, PublishError>(Holders { keys, threshold: holding.threshold })
    };
    let delegates = roles.keys().filter_map(|role| Some((role, role.parse().ok()?)));
    Ok(Design {
        root: holders("root")?,
        targets: holders("targets")?,
        snapshot: holders("snapshot")?,
        timestamp: holders("timestamp")?,
        delegates: delegates
            .map(|(role, delegate)| Ok((delegate, holders(role)?)))
            .collect::<Result<_, PublishError>>()?,
    })
}

fn signature_of(text: &str) -> Result<[u8; 64], PublishError> {
    let byte =
        |at: usize| text.get(2 * at..2 * at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let bytes: Option<Vec<u8>> = if text.len() == 128 { (0..64).map(byte).collect() } else { None };
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| damaged(&"a signature that is none"))
}

fn damaged(problem: &dyn std::fmt::Display) -> PublishError {
    PublishError::Proposal(problem.to_string())
}

/// Signs nothing, and remembers what it was asked for.
#[derive(Debug)]
struct Recorder<'a> {
    public: PublicKey,
    messages: &'a RefCell<Vec<Message>>,
}

impl Signer for Recorder<'_> {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], PublishError> {
        let text = String::from_utf8(message.to_vec()).map_err(|error| damaged(&error))?;
        let content: Value = serde_json::from_str(&text).map_err(|error| damaged(&error))?;
        // What pins signed bytes cannot be signed before them.
        if matches!(content["_type"].as_str(), Some("targets" | "root")) {
            let mut messages = self.messages.borrow_mut();
            match messages.iter_mut().find(|known| known.text == text) {
                Some(known) => {
                    known.keys.insert(self.public.to_string());
                }
                None => messages.push(Message {
                    role: String::new(),
                    text,
                    keys: BTreeSet::from([self.public.to_string()]),
                    signatures: BTreeMap::new(),
                }),
            }
        }
        Ok([0; 64])
    }
}

/// A key whose holder has signed already.
#[derive(Debug)]
struct Collected {
    public: PublicKey,
    signed: BTreeMap<Vec<u8>, [u8; 64]>,
}

impl Signer for Collected {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], PublishError> {
        self.signed.get(message).copied().ok_or(PublishError::ProposalStale(self.public))
    }
}
