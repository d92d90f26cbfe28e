//! A repository whose metadata were verified: what it lists, and the way to a target's bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tough::Repository;
use tough::schema::{Metafile, Role as _, Root, Signed, Targets};

use super::Override;
use super::keys;
use super::refusal::{Clause, Refusal};
use super::roles::{Delegate, target_path};
use super::seen::{Seen, SeenVersions, compare};
use super::source::{Recorder, Source};
use super::tuf::Start;
use crate::bundle::hex;

/// Where recall notices are.
const RECALLS: &str = "recalls/";

/// A target that a role with the right keys vouches for.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its name, e.g. `vendors/acme/detector-2.lightbox`.
    pub name: String,
    /// Who vouches for it.
    pub role: Delegate,
    /// Its bytes' number.
    pub length: u64,
    /// Their SHA-256, in hex.
    pub sha256: String,
    /// What the publisher says about it.
    pub custom: BTreeMap<String, Value>,
}

impl Target {
    /// Where its bytes lie in the repository's folder.
    pub fn path(&self) -> String {
        target_path(&self.name, &self.sha256)
    }
}

/// What an operator's override was used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overridden {
    /// The decision.
    pub by: Override,
    /// What would have been refused.
    pub refusals: Vec<Refusal>,
}

/// A repository whose metadata are signed, of one piece, and not older than what was seen before.
#[derive(Clone, Debug)]
pub struct Verified {
    source: Arc<dyn Source>,
    targets: BTreeMap<String, Target>,
    seen: SeenVersions,
    overridden: Option<Overridden>,
    expires: OffsetDateTime,
}

/// Metadata that are signed, of one piece, and not older than what was seen before, whatever their dates.
#[derive(Clone, Debug)]
pub struct Examined {
    verified: Verified,
    late: Vec<Refusal>,
}

impl Examined {
    /// The recall notices that it lists.
    ///
    /// They are to be obeyed before the dates are judged. A date says that something newer may be
    /// withheld: a reason to install nothing, and none to go on with what the right keys call back.
    /// Who replays expired metadata can stop with them only what was recalled in truth: everything
    /// older than the record of versions seen has been refused already, where a withdrawn notice
    /// would stand. Nor does hearing them weaken that record: it is not written for them.
    pub fn recalls(&self) -> impl Iterator<Item = &Target> {
        self.verified.targets().filter(|target| target.name.starts_with(RECALLS))
    }

    /// A notice's bytes, of at most `limit`, compared with the signed digest.
    pub async fn read_recall(&self, target: &Target, limit: u64) -> Result<Vec<u8>, Refusal> {
        let mut bytes = Vec::new();
        self.verified.copy(target, limit, &mut bytes, &mut |_, _| {}).await?;
        Ok(bytes)
    }

    /// Judges the dates, and takes the repository for verified where they hold or somebody overrides them.
    pub fn accept(mut self, exception: Option<&Override>) -> Result<Verified, Refusal> {
        if exception.is_some_and(|given| !given.is_complete()) {
            return Err(Refusal::new(Clause::OverrideIncomplete, "the repository"));
        }
        self.verified.overridden = match (self.late.first(), exception) {
            (None, _) => None,
            (Some(first), None) => return Err(first.clone()),
            (Some(_), Some(by)) => Some(Overridden { by: by.clone(), refusals: self.late }),
        };
        Ok(self.verified)
    }
}

impl Verified {
    /// The record to store, durably, before anything of the repository is used.
    pub fn seen(&self) -> &SeenVersions {
        &self.seen
    }

    /// What the override was used for; none where everything held without it.
    pub fn overridden(&self) -> Option<&Overridden> {
        self.overridden.as_ref()
    }

    /// When the first of the metadata is past its date.
    pub fn expires(&self) -> OffsetDateTime {
        self.expires
    }

    /// All targets, by name.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.values()
    }

    /// The same, with targets' bytes read from another source: each is compared with its signed digest anyway.
    #[must_use]
    pub fn from(&self, source: Arc<dyn Source>) -> Verified {
        Verified { source, ..self.clone() }
    }

    /// A target by its name.
    pub fn target(&self, name: &str) -> Result<&Target, Refusal> {
        self.targets.get(name).ok_or_else(|| Refusal::new(Clause::TargetUnknown, name))
    }

    /// A target's bytes, of at most `limit`, compared with the signed digest: for plans and recalls.
    pub async fn read_target(&self, name: &str, limit: u64) -> Result<Vec<u8>, Refusal> {
        let mut bytes = Vec::new();
        self.copy(self.target(name)?, limit, &mut bytes, &mut |_, _| {}).await?;
        Ok(bytes)
    }

    /// Saves a target of at most `limit` bytes under `path`, streamed. The file has its name only
    /// when its bytes were compared with the signed digest and are on disk; `progress` hears of
    /// bytes done and bytes in all.
    pub async fn save_target(
        &self,
        name: &str,
        limit: u64,
        path: &Path,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<(), Refusal> {
        let target = self.target(name)?;
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let failed = |error: io::Error| {
            Refusal::new(Clause::Unreadable, path.display().to_string()).with(format!("writing: {error}"))
        };
        let saved = async {
            let mut file = tokio::fs::File::create(&part).await.map_err(failed)?;
            self.copy(target, limit, &mut file, progress).await?;
            file.sync_all().await.map_err(failed)?;
            tokio::fs::rename(&part, path).await.map_err(failed)?;
            if let Some(folder) = path.parent() {
                let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                tokio::fs::File::open(folder).await.map_err(failed)?.sync_all().await.map_err(failed)?;
            }
            Ok(())
        };
        let saved = saved.await;
        if saved.is_err() {
            // The refusal is what matters; a leftover `.part` is overwritten by the next try.
            let _ = tokio::fs::remove_file(&part).await;
        }
        saved
    }

    async fn copy(
        &self,
        target: &Target,
        limit: u64,
        into: &mut (dyn tokio::io::AsyncWrite + Send + Unpin),
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<(), Refusal> {
        let refuse = |clause| Refusal::new(clause, target.name.as_str());
        if target.length > limit {
            return Err(
                refuse(Clause::TooLong).with(format!("{} bytes, at most {limit} are taken", target.length))
            );
        }
        let reading = self.source.open(&target_path(&target.name, &target.sha256)).await;
        let mut reading = reading
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => refuse(Clause::Missing),
                _ => refuse(Clause::Unreadable).with(error),
            })?
            .take(target.length.saturating_add(1));
        let mut chunk = vec![0; 1 << 18];
        let (mut hasher, mut done) = (Sha256::new(), 0);
        loop {
            let count = reading.read(&mut chunk).await;
            let count = count.map_err(|error| refuse(Clause::Unreadable).with(error))?;
            if count == 0 {
                break;
            }
            done += count as u64;
            if done > target.length {
                return Err(refuse(Clause::TooLong).with("longer than signed"));
            }
            hasher.update(&chunk[..count]);
            let written = into.write_all(&chunk[..count]).await;
            written.map_err(|error| refuse(Clause::Unreadable).with(format!("writing: {error}")))?;
            progress(done, target.length);
        }
        into.flush().await.map_err(|error| refuse(Clause::Unreadable).with(format!("writing: {error}")))?;
        if done != target.length || hex(&hasher.finalize()) != target.sha256 {
            return Err(refuse(Clause::TargetDigest));
        }
        Ok(())
    }
}

/// Everything that tough does not judge, or not as we want it.
pub(super) fn judge(
    source: Arc<dyn Source>,
    repository: Repository,
    recorder: &Recorder,
    start: Start,
    now: OffsetDateTime,
) -> Result<Examined, Refusal> {
    let root = &repository.root().signed;
    let malformed = |subject: &str, why: &str| Err(Refusal::new(Clause::Malformed, subject).with(why));
    if !root.consistent_snapshot {
        return malformed("root", "without consistent snapshots");
    }
    pinned(&repository)?;
    regulatory_keys_are_its_own(&repository)?;
    // Every root on the way was trusted to name the next one's keys.
    keys::check_root(&start.root)?;
    for version in start.root.version.get()..=root.version.get() {
        if let Some(fetched) = recorder.fetched(&format!("{version}.root.json"))
            && let Ok(followed) = serde_json::from_slice::<Signed<Root>>(&fetched.bytes)
        {
            keys::check_root(&followed.signed)?;
        }
    }
    keys::check_root(root)?;
    keys::check_delegated(&repository.targets().signed)?;
    let targets = collect(&repository)?;
    let roles = versions(&repository, recorder)?;
    compare(start.seen.as_ref().map(|(seen, root)| (seen, root)), root, &roles)?;

    let mut late = Vec::new();
    if let Some((seen, _)) = &start.seen
        && now.unix_timestamp() < seen.checked_at()
    {
        late.push(Refusal::new(Clause::ClockBehind, "the repository"));
    }
    let dates = dates(&repository);
    for (role, expires) in &dates {
        if *expires <= now.unix_timestamp() {
            let clause = if role == "timestamp" { Clause::TimestampFrozen } else { Clause::MetadataExpired };
            late.push(Refusal::new(clause, role.as_str()));
        }
    }
    let first = dates.iter().map(|(_, expires)| *expires).min().unwrap_or_default();
    let expires = OffsetDateTime::from_unix_timestamp(first).unwrap_or(OffsetDateTime::UNIX_EPOCH);

    let newest = recorder.fetched(&format!("{}.root.json", root.version));
    let root_bytes = newest.map_or(start.bytes, |fetched| fetched.bytes);
    let root_text =
        String::from_utf8(root_bytes).map_err(|error| Refusal::new(Clause::Malformed, "root").with(error))?;
    let seen = SeenVersions::new(root_text, roles, now.unix_timestamp());
    let verified = Verified { source, targets, seen, overridden: None, expires };
    Ok(Examined { verified, late })
}

/// Without length and digest, a role could be replaced by another one of the same version.
fn pinned(repository: &Repository) -> Result<(), Refusal> {
    let whole = |meta: &Metafile| meta.length.is_some() && meta.hashes.is_some();
    let timestamp = &repository.timestamp().signed.meta;
    let snapshot = &repository.snapshot().signed.meta;
    for (name, meta) in timestamp.iter().chain(snapshot) {
        if !whole(meta) {
            return Err(
                Refusal::new(Clause::Malformed, name.as_str()).with("pinned without length or digest")
            );
        }
    }
    Ok(())
}

/// The delegated roles with their targets, each judged by what it may vouch for.
fn collect(repository: &Repository) -> Result<BTreeMap<String, Target>, Refusal> {
    let top = &repository.targets().signed;
    let outside = |name: &str, role: &str| {
        let clause = match name.starts_with("plans/") {
            true => Clause::PlanSignedByReleaseKey,
            false => Clause::TargetOutsideDelegation,
        };
        Err(Refusal::new(clause, name).with(format!("listed by the role {role}")))
    };
    if let Some(name) = top.targets.keys().map(|name| name.raw()).min() {
        return outside(name, "targets");
    }
    let Some(delegations) = &top.delegations else { return Ok(BTreeMap::new()) };
    let mut found = BTreeMap::new();
    let mut names = BTreeSet::new();
    for delegated in &delegations.roles {
        let Ok(role) = delegated.name.parse::<Delegate>() else {
            return Err(Refusal::new(Clause::Malformed, "targets").with("a role of an unknown name"));
        };
        if !names.insert(role.clone()) {
            return Err(Refusal::new(Clause::Malformed, delegated.name.as_str()).with("delegated to twice"));
        }
        // tough goes on without a role that the snapshot does not list; here it must be there.
        let Some(signed) = &delegated.targets else {
            return Err(Refusal::new(Clause::Missing, format!("{}.json", delegated.name)));
        };
        if signed.signed.delegations.as_ref().is_some_and(|further| !further.roles.is_empty()) {
            return Err(Refusal::new(Clause::Malformed, delegated.name.as_str()).with("delegates further"));
        }
        for (name, target) in targets_of(&signed.signed) {
            if !role.may(&name) {
                return outside(&name, &delegated.name);
            }
            let target = Target { name: name.clone(), role: role.clone(), ..target };
            if found.insert(name.clone(), target).is_some() {
                return Err(Refusal::new(Clause::Malformed, name).with("listed by two roles"));
            }
        }
    }
    Ok(found)
}

fn targets_of(targets: &Targets) -> impl Iterator<Item = (String, Target)> {
    targets.targets.iter().map(|(name, target)| {
        let name = name.raw().to_owned();
        let described = Target {
            name: name.clone(),
            role: Delegate::Safety,
            length: target.length,
            sha256: hex(&target.hashes.sha256),
            custom: target.custom.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        };
        (name, described)
    })
}

/// The regulatory keys sign plans and nothing else: who may release must not be able to allow.
fn regulatory_keys_are_its_own(repository: &Repository) -> Result<(), Refusal> {
    let targets = &repository.targets().signed;
    let others = keys::of_release(&repository.root().signed, targets);
    let regulatory = targets.delegations.iter().flat_map(|delegations| {
        let roles = delegations.roles.iter().filter(|role| role.name == "regulatory");
        roles.flat_map(|role| keys::of_role(&role.keyids, &delegations.keys))
    });
    if regulatory.into_iter().any(|key| others.contains(&key)) {
        return Err(Refusal::new(Clause::PlanSignedByReleaseKey, "regulatory").with("the role shares a key"));
    }
    Ok(())
}

/// Each role's version and the digest of what was verified: of a file's bytes where the file above pins them. Of the
/// timestamp, which nothing pins, that of its signed part in canonical form: the same signatures hold for other
/// bytes, such as an identifier in upper case.
fn versions(repository: &Repository, recorder: &Recorder) -> Result<BTreeMap<String, Seen>, Refusal> {
    let mut files = vec![
        ("timestamp".to_owned(), repository.timestamp().signed.version.get(), "timestamp.json".to_owned()),
        {
            let version = repository.snapshot().signed.version.get();
            ("snapshot".to_owned(), version, format!("{version}.snapshot.json"))
        },
    ];
    for (name, meta) in &repository.snapshot().signed.meta {
        let role = name.strip_suffix(".json").unwrap_or(name);
        files.push((role.to_owned(), meta.version.get(), format!("{}.{name}", meta.version)));
    }
    let mut found = BTreeMap::new();
    for (role, version, file) in files {
        // The snapshot may list a role that nothing delegates to any more: then it was not read.
        let sha256 = match recorder.fetched(&file) {
            Some(_) if role == "timestamp" => {
                let signed = repository.timestamp().signed.canonical_form();
                let signed =
                    signed.map_err(|error| Refusal::new(Clause::Malformed, "timestamp").with(error))?;
                hex(&Sha256::digest(&signed))
            }
            Some(fetched) => fetched.sha256,
            None => {
                let meta = repository.snapshot().signed.meta.get(&format!("{role}.json"));
                let pinned = meta.and_then(|meta| meta.hashes.as_ref());
                hex(&pinned.ok_or_else(|| Refusal::new(Clause::Missing, file))?.sha256)
            }
        };
        found.insert(role, Seen { version, sha256 });
    }
    Ok(found)
}

/// Each role's date, as Unix time in seconds.
fn dates(repository: &Repository) -> Vec<(String, i64)> {
    let mut dates = vec![
        ("timestamp".to_owned(), repository.timestamp().signed.expires.as_second()),
        ("snapshot".to_owned(), repository.snapshot().signed.expires.as_second()),
        ("targets".to_owned(), repository.targets().signed.expires.as_second()),
        ("root".to_owned(), repository.root().signed.expires().as_second()),
    ];
    let delegated = repository.targets().signed.delegations.iter().flat_map(|delegations| &delegations.roles);
    for role in delegated {
        if let Some(targets) = &role.targets {
            dates.push((role.name.clone(), targets.signed.expires.as_second()));
        }
    }
    dates
}
