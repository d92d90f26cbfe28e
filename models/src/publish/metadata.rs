//! The metadata of a repository, from one version to the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU64;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use tough::TargetName;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::{Ed25519Key, Ed25519Scheme, Key};
use tough::schema::{
    DelegatedRole, Delegations, Hashes, Metafile, PathPattern, PathSet, Role, RoleKeys, RoleType, Root,
    Signature, Signed, Snapshot, Target, Targets, Timestamp,
};

use super::folder::{Copied, Folder, Written};
use super::{Change, Design, Holders, Lifetimes, PublicKey, PublishError, Signer};
use crate::bundle::hex;
use crate::trust::Delegate;

const SPEC_VERSION: &str = "1.0.0";

/// A role's file.
#[derive(Clone, Debug)]
struct Document<T> {
    signed: T,
    bytes: Vec<u8>,
}

/// All newest metadata of a repository.
#[derive(Clone, Debug)]
pub(super) struct State {
    root: Document<Root>,
    targets: Document<Targets>,
    delegates: BTreeMap<Delegate, Document<Targets>>,
    snapshot: u64,
    timestamp: u64,
}

impl State {
    /// The metadata of a new, empty repository, and the files in the order of writing.
    pub(super) fn new(
        design: &Design,
        lifetimes: &Lifetimes,
        now: OffsetDateTime,
        signers: &[&dyn Signer],
    ) -> Result<(State, Vec<Written>), PublishError> {
        check(design)?;
        let root = sign_root(design, None, 1, expires(now, lifetimes.root)?, signers)?;
        let date = expires(now, lifetimes.targets)?;
        let targets = sign(top(design, 1, date)?, "targets", &design.targets, signers)?;
        let mut delegates = BTreeMap::new();
        for (role, holders) in &design.delegates {
            let empty = Targets::new(SPEC_VERSION.into(), NonZeroU64::MIN, date);
            delegates.insert(role.clone(), sign(empty, &role.to_string(), holders, signers)?);
        }
        let state = State { root, targets, delegates, snapshot: 0, timestamp: 0 };
        let mut files = vec![named(1, "root", &state.root.bytes), named(1, "targets", &state.targets.bytes)];
        files.extend(state.delegates.iter().map(|(role, file)| named(1, &role.to_string(), &file.bytes)));
        let (state, last) = state.seal(design, None, lifetimes, now, signers)?;
        files.extend(last);
        Ok((state, files))
    }

    /// Reads a repository's newest metadata.
    pub(super) fn load(folder: &Folder) -> Result<State, PublishError> {
        let root: Document<Root> = read(&folder.metadata(&format!("{}.root.json", folder.newest_root()?)))?;
        let timestamp: Document<Timestamp> = read(&folder.metadata("timestamp.json"))?;
        let missing = |role: &str| PublishError::Damaged {
            path: folder.metadata(role),
            problem: "not named by the metadata that must name it".into(),
        };
        let pinned = timestamp.signed.meta.get("snapshot.json").ok_or_else(|| missing("snapshot.json"))?;
        let snapshot: Document<Snapshot> =
            read(&folder.metadata(&format!("{}.snapshot.json", pinned.version)))?;
        let of = |role: &str| {
            let name = format!("{role}.json");
            let meta = snapshot.signed.meta.get(&name).ok_or_else(|| missing(&name))?;
            read::<Targets>(&folder.metadata(&format!("{}.{name}", meta.version)))
        };
        let targets = of("targets")?;
        let mut delegates = BTreeMap::new();
        for role in targets.signed.delegations.iter().flat_map(|delegations| &delegations.roles) {
            let delegate = role.name.parse().map_err(|()| missing(&role.name))?;
            delegates.insert(delegate, of(&role.name)?);
        }
        Ok(State {
            root,
            targets,
            delegates,
            snapshot: snapshot.signed.version.get(),
            timestamp: timestamp.signed.version.get(),
        })
    }

    pub(super) fn root_bytes(&self) -> &[u8] {
        &self.root.bytes
    }

    pub(super) fn targets(&self) -> Vec<String> {
        let names = self.delegates.values().flat_map(|file| file.signed.targets.keys());
        names.map(|name| name.raw().to_owned()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(super) fn described(&self) -> BTreeMap<String, BTreeMap<String, Value>> {
        let all = self.delegates.values().flat_map(|file| &file.signed.targets);
        all.map(|(name, target)| (name.raw().to_owned(), target.custom.clone().into_iter().collect()))
            .collect()
    }

    pub(super) fn design(&self) -> Result<Design, PublishError> {
        let root = &self.root.signed;
        let of = |role| {
            let keys = root.roles.get(&role).ok_or(PublishError::NotAPublicKey)?;
            holders(&keys.keyids, keys.threshold, &root.keys)
        };
        let mut delegates = BTreeMap::new();
        if let Some(delegations) = &self.targets.signed.delegations {
            for role in &delegations.roles {
                let delegate = role.name.parse().map_err(|()| PublishError::NotAPublicKey)?;
                delegates.insert(delegate, holders(&role.keyids, role.threshold, &delegations.keys)?);
            }
        }
        Ok(Design {
            root: of(RoleType::Root)?,
            targets: of(RoleType::Targets)?,
            snapshot: of(RoleType::Snapshot)?,
            timestamp: of(RoleType::Timestamp)?,
            delegates,
        })
    }

    /// The metadata after a change, and the files in the order of writing.
    pub(super) fn apply(
        &self,
        change: &Change,
        copied: &[Copied],
        lifetimes: &Lifetimes,
        now: OffsetDateTime,
        signers: &[&dyn Signer],
    ) -> Result<(State, Vec<Written>), PublishError> {
        let old = self.design()?;
        let design = change.design.as_ref().unwrap_or(&old);
        check(design)?;
        let date = expires(now, lifetimes.targets)?;
        let mut next = self.clone();
        let mut files = Vec::new();

        // A delegated role is signed anew where its targets, its keys or its date change.
        let mut lists: BTreeMap<Delegate, HashMap<TargetName, Target>> =
            self.delegates.iter().map(|(role, file)| (role.clone(), file.signed.targets.clone())).collect();
        edit(&mut lists, change, copied)?;
        if let Some(role) = lists.keys().find(|role| !design.delegates.contains_key(role)) {
            return Err(PublishError::Design {
                role: role.to_string(),
                problem: "is in the repository and not in the design",
                remedy: "keep the role: boxes refuse a repository that a role has vanished from",
            });
        }
        for (role, holders) in &design.delegates {
            let before = self.delegates.get(role);
            let targets = lists.remove(role).unwrap_or_default();
            let same = before.is_some_and(|before| before.signed.targets == targets)
                && old.delegates.get(role) == Some(holders)
                && !change.renew.contains(&role.to_string());
            if same {
                continue;
            }
            let version = before.map_or(0, |before| before.signed.version.get()) + 1;
            let mut signed = Targets::new(SPEC_VERSION.into(), number(version)?, date);
            signed.targets = targets;
            let file = sign(signed, &role.to_string(), holders, signers)?;
            files.push(named(version, &role.to_string(), &file.bytes));
            next.delegates.insert(role.clone(), file);
        }
        let new_root =
            *design != old && top_level(design) != top_level(&old) || change.renew.contains("root");
        if new_root || design.delegates != old.delegates || change.renew.contains("targets") {
            let version = self.targets.signed.version.get() + 1;
            let both = both(&design.targets, Some(&old.targets));
            next.targets = sign_by(top(design, version, date)?, "targets", &design.targets, &both, signers)?;
            files.push(named(version, "targets", &next.targets.bytes));
        }
        if !new_root {
            let (next, last) = next.seal(design, None, lifetimes, now, signers)?;
            files.extend(last);
            return Ok((next, files));
        }
        let version = self.root.signed.version.get() + 1;
        let date = expires(now, lifetimes.root)?;
        next.root = sign_root(design, Some(&old.root), version, date, signers)?;
        let root = named(version, "root", &next.root.bytes);
        let (next, mut last) = next.seal(design, Some(&old), lifetimes, now, signers)?;
        // Where the old keys of timestamp, snapshot and targets are at hand too, the new timestamp
        // holds under the old root as well: it goes first, and the repository is whole at every
        // instant. Where they are gone, it is not between these two files; the root goes first.
        let under_old = [&old.timestamp, &old.snapshot, &old.targets];
        let holds = under_old.iter().all(|holders| count(holders, signers) >= holders.threshold);
        let at = if holds { last.len() } else { last.len() - 1 };
        last.insert(at, root);
        files.extend(last);
        Ok((next, files))
    }

    /// A new snapshot and timestamp; the timestamp is the last file.
    fn seal(
        mut self,
        design: &Design,
        old: Option<&Design>,
        lifetimes: &Lifetimes,
        now: OffsetDateTime,
        signers: &[&dyn Signer],
    ) -> Result<(State, Vec<Written>), PublishError> {
        self.snapshot += 1;
        self.timestamp += 1;
        let mut snapshot =
            Snapshot::new(SPEC_VERSION.into(), number(self.snapshot)?, expires(now, lifetimes.snapshot)?);
        snapshot.meta.insert("targets.json".into(), pin(&self.targets.bytes, self.targets.signed.version));
        for (role, file) in &self.delegates {
            snapshot.meta.insert(format!("{role}.json"), pin(&file.bytes, file.signed.version));
        }
        let all = both(&design.snapshot, old.map(|old| &old.snapshot));
        let snapshot = sign_by(snapshot, "snapshot", &design.snapshot, &all, signers)?;
        let mut timestamp =
            Timestamp::new(SPEC_VERSION.into(), number(self.timestamp)?, expires(now, lifetimes.timestamp)?);
        timestamp.meta.insert("snapshot.json".into(), pin(&snapshot.bytes, snapshot.signed.version));
        let all = both(&design.timestamp, old.map(|old| &old.timestamp));
        let timestamp = sign_by(timestamp, "timestamp", &design.timestamp, &all, signers)?;
        let files = vec![
            named(self.snapshot, "snapshot", &snapshot.bytes),
            Written { name: "timestamp.json".into(), bytes: timestamp.bytes },
        ];
        Ok((self, files))
    }
}

/// Whether a design has a role; a refusal names those that it has.
pub(super) fn known(role: &Delegate, design: &Design) -> Result<(), PublishError> {
    if design.delegates.contains_key(role) {
        return Ok(());
    }
    let vendors = design.delegates.keys().filter_map(|known| match known {
        Delegate::Vendor(name) => Some(name.clone()),
        _ => None,
    });
    let (what, are): (String, Vec<String>) = match role {
        Delegate::Vendor(name) => (format!("vendor {name}"), vendors.collect()),
        other => (format!("role {other}"), design.delegates.keys().map(ToString::to_string).collect()),
    };
    let are = if are.is_empty() { "is none".to_owned() } else { format!("is: {}", are.join(", ")) };
    Err(PublishError::NoSuchRole { role: role.to_string(), what, are })
}

/// Puts additions in and takes removals out.
fn edit(
    lists: &mut BTreeMap<Delegate, HashMap<TargetName, Target>>,
    change: &Change,
    copied: &[Copied],
) -> Result<(), PublishError> {
    let name = |text: &str| TargetName::new(text).map_err(|_| PublishError::NoSuchTarget(text.to_owned()));
    for removed in &change.remove {
        let target = name(removed)?;
        if lists.values_mut().filter_map(|list| list.remove(&target)).count() == 0 {
            return Err(PublishError::NoSuchTarget(removed.clone()));
        }
    }
    for (addition, copied) in change.add.iter().zip(copied) {
        let target = Target {
            length: copied.length,
            hashes: Hashes { sha256: copied.sha256.to_vec().into(), _extra: HashMap::new() },
            custom: addition.custom.clone().into_iter().collect(),
            _extra: HashMap::new(),
        };
        lists.entry(addition.by.clone()).or_default().insert(name(&addition.name)?, target);
    }
    Ok(())
}

/// What a design must be for a box to take it.
fn check(design: &Design) -> Result<(), PublishError> {
    let roles = top_level(design).map(|(role, holders)| (role.to_string(), holders));
    let delegates = design.delegates.iter().map(|(role, holders)| (role.to_string(), holders));
    for (role, holders) in roles.into_iter().chain(delegates) {
        let distinct: BTreeSet<_> = holders.keys.iter().collect();
        if distinct.len() != holders.keys.len() {
            return Err(PublishError::Design { role, problem: "a key twice", remedy: "give each key once" });
        }
        if holders.threshold == 0 || holders.threshold > distinct.len() as u64 {
            return Err(PublishError::Design {
                role,
                problem: "a threshold that its keys cannot reach",
                remedy: "use a threshold from 1 to the number of keys",
            });
        }
    }
    let Some(regulatory) = design.delegates.get(&Delegate::Regulatory) else { return Ok(()) };
    let top = top_level(design).into_iter().map(|(_, holders)| holders);
    let others = design.delegates.iter().filter(|(role, _)| **role != Delegate::Regulatory);
    let mut others = top.chain(others.map(|(_, holders)| holders)).flat_map(|holders| &holders.keys);
    if others.any(|key| regulatory.keys.contains(key)) {
        return Err(PublishError::Design {
            role: Delegate::Regulatory.to_string(),
            problem: "a key that signs something else too",
            remedy: "give the regulatory role keys of its own: who releases must not be able to allow",
        });
    }
    Ok(())
}

fn top_level(design: &Design) -> [(RoleType, &Holders); 4] {
    [
        (RoleType::Root, &design.root),
        (RoleType::Targets, &design.targets),
        (RoleType::Snapshot, &design.snapshot),
        (RoleType::Timestamp, &design.timestamp),
    ]
}

/// The top-level targets: no targets, only to whom they are delegated.
fn top(design: &Design, version: u64, expires: jiff::Timestamp) -> Result<Targets, PublishError> {
    let mut targets = Targets::new(SPEC_VERSION.into(), number(version)?, expires);
    let mut delegations = Delegations::new();
    for (delegate, holders) in &design.delegates {
        let mut paths = Vec::new();
        for path in delegate.paths() {
            let pattern = PathPattern::new(path).map_err(|error| damaged(&delegate.to_string(), &error))?;
            paths.push(pattern);
        }
        delegations.roles.push(DelegatedRole {
            name: delegate.to_string(),
            keyids: register(holders, &mut delegations.keys)?,
            threshold: number(holders.threshold)?,
            paths: PathSet::Paths(paths),
            // A name is one role's alone, but for recalls, which two may vouch for.
            terminating: false,
            targets: None,
        });
    }
    targets.delegations = Some(delegations);
    Ok(targets)
}

fn sign_root(
    design: &Design,
    old: Option<&Holders>,
    version: u64,
    expires: jiff::Timestamp,
    signers: &[&dyn Signer],
) -> Result<Document<Root>, PublishError> {
    let mut keys = HashMap::new();
    let mut roles = HashMap::new();
    for (role, holders) in top_level(design) {
        let keyids = register(holders, &mut keys)?;
        roles
            .insert(role, RoleKeys { keyids, threshold: number(holders.threshold)?, _extra: HashMap::new() });
    }
    let root = Root {
        spec_version: SPEC_VERSION.into(),
        consistent_snapshot: true,
        version: number(version)?,
        expires,
        keys,
        roles,
        _extra: HashMap::new(),
    };
    if let Some(old) = old {
        enough("root (its keys until now)", old, signers)?;
    }
    sign_by(root, "root", &design.root, &both(&design.root, old), signers)
}

fn sign<T: Role + Serialize>(
    signed: T,
    role: &str,
    holders: &Holders,
    signers: &[&dyn Signer],
) -> Result<Document<T>, PublishError> {
    sign_by(signed, role, holders, &holders.keys, signers)
}

/// Signs with every given key of `all`; at least the threshold of `holders` must be among them.
fn sign_by<T: Role + Serialize>(
    signed: T,
    role: &str,
    holders: &Holders,
    all: &[PublicKey],
    signers: &[&dyn Signer],
) -> Result<Document<T>, PublishError> {
    enough(role, holders, signers)?;
    let message = signed.canonical_form().map_err(|error| damaged(role, &error))?;
    let mut signatures = Vec::new();
    for signer in signers.iter().filter(|signer| all.contains(&signer.public())) {
        let keyid = key(signer.public()).key_id().map_err(|error| damaged(role, &error))?;
        // A key that is given twice signs once: readers refuse a repeated key.
        if signatures.iter().all(|signature: &Signature| signature.keyid != keyid) {
            signatures.push(Signature { keyid, sig: signer.sign(&message)?.to_vec().into() });
        }
    }
    let file = Signed { signed, signatures };
    let bytes = serde_json::to_vec_pretty(&file).map_err(|error| damaged(role, &error))?;
    Ok(Document { signed: file.signed, bytes })
}

fn count(holders: &Holders, signers: &[&dyn Signer]) -> u64 {
    let given: BTreeSet<PublicKey> = signers.iter().map(|signer| signer.public()).collect();
    holders.keys.iter().filter(|key| given.contains(key)).count() as u64
}

fn enough(role: &str, holders: &Holders, signers: &[&dyn Signer]) -> Result<(), PublishError> {
    let (have, need) = (count(holders, signers), holders.threshold);
    if have < need {
        return Err(PublishError::KeysMissing { role: role.to_owned(), have, need });
    }
    Ok(())
}

fn both(new: &Holders, old: Option<&Holders>) -> Vec<PublicKey> {
    new.keys.iter().chain(old.iter().flat_map(|old| &old.keys)).copied().collect()
}

fn key(public: PublicKey) -> Key {
    Key::Ed25519 {
        keyval: Ed25519Key { public: public.0.to_vec().into(), _extra: HashMap::new() },
        scheme: Ed25519Scheme::Ed25519,
        _extra: HashMap::new(),
    }
}

fn register(
    holders: &Holders,
    keys: &mut HashMap<Decoded<Hex>, Key>,
) -> Result<Vec<Decoded<Hex>>, PublishError> {
    let mut ids = Vec::new();
    for public in &holders.keys {
        let key = key(*public);
        let id = key.key_id().map_err(|error| damaged("a key", &error))?;
        keys.insert(id.clone(), key);
        ids.push(id);
    }
    Ok(ids)
}

fn holders(
    ids: &[Decoded<Hex>],
    threshold: NonZeroU64,
    keys: &HashMap<Decoded<Hex>, Key>,
) -> Result<Holders, PublishError> {
    let public = |id| match keys.get(id) {
        Some(Key::Ed25519 { keyval, .. }) => PublicKey::from_hex(&hex(&keyval.public)),
        _ => Err(PublishError::NotAPublicKey),
    };
    Ok(Holders { keys: ids.iter().map(public).collect::<Result<_, _>>()?, threshold: threshold.get() })
}

fn pin(bytes: &[u8], version: NonZeroU64) -> Metafile {
    Metafile {
        length: Some(bytes.len() as u64),
        hashes: Some(Hashes { sha256: Sha256::digest(bytes).to_vec().into(), _extra: HashMap::new() }),
        version,
        _extra: HashMap::new(),
    }
}

fn named(version: u64, role: &str, bytes: &[u8]) -> Written {
    Written { name: format!("{version}.{role}.json"), bytes: bytes.to_owned() }
}

fn number(value: u64) -> Result<NonZeroU64, PublishError> {
    NonZeroU64::new(value).ok_or_else(|| damaged("a version", &"0"))
}

fn expires(now: OffsetDateTime, lifetime: Duration) -> Result<jiff::Timestamp, PublishError> {
    let seconds = now.unix_timestamp().saturating_add(lifetime.whole_seconds());
    jiff::Timestamp::from_second(seconds).map_err(|error| damaged("a date", &error))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Document<T>, PublishError> {
    let bytes = std::fs::read(path).map_err(|source| PublishError::Io {
        path: path.to_owned(),
        what: "read",
        source,
    })?;
    let file: Signed<T> = serde_json::from_slice(&bytes)
        .map_err(|error| PublishError::Damaged { path: path.to_owned(), problem: error.to_string() })?;
    Ok(Document { signed: file.signed, bytes })
}

fn damaged(what: &str, problem: &dyn std::fmt::Display) -> PublishError {
    PublishError::Damaged { path: what.into(), problem: problem.to_string() }
}
