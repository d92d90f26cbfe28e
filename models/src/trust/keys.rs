//! Keys by what they are. An identifier is no identity: TUF makes it from the key's whole text, so that a field
//! more gives the same Ed25519 key another one, under which it could count twice, or sign for another role.

use std::collections::{BTreeSet, HashMap};

use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::Key;
use tough::schema::{Root, Targets};

use super::refusal::{Clause, Refusal};

type Keys = HashMap<Decoded<Hex>, Key>;

/// A key's public bytes; none of a kind that is not Ed25519.
fn public(key: &Key) -> Option<&[u8]> {
    match key {
        Key::Ed25519 { keyval, .. } => Some(keyval.public.as_ref()),
        _ => None,
    }
}

/// The public keys behind a role's identifiers, one for each identifier that has a key.
pub(super) fn of_role<'a>(ids: impl IntoIterator<Item = &'a Decoded<Hex>>, keys: &Keys) -> Vec<Vec<u8>> {
    ids.into_iter().filter_map(|id| Some(public(keys.get(id)?)?.to_owned())).collect()
}

/// The public keys of a root's four roles.
pub(super) fn of_root(root: &Root) -> BTreeSet<Vec<u8>> {
    root.roles.values().flat_map(|role| of_role(&role.keyids, &root.keys)).collect()
}

/// The public keys of every role but `regulatory`.
pub(super) fn of_release(root: &Root, targets: &Targets) -> BTreeSet<Vec<u8>> {
    let delegated = targets.delegations.iter().flat_map(|delegations| {
        let roles = delegations.roles.iter().filter(|role| role.name != "regulatory");
        roles.flat_map(|role| of_role(&role.keyids, &delegations.keys))
    });
    of_root(root).into_iter().chain(delegated).collect()
}

/// Each role of a root has as many different keys as it asks for, each Ed25519 and nothing more.
pub(super) fn check_root(root: &Root) -> Result<(), Refusal> {
    for (role, keys) in &root.roles {
        distinct(&role.to_string(), &keys.keyids, keys.threshold.get(), &root.keys)?;
    }
    plain("root", &root.keys)
}

/// The same of the roles to which the top-level targets delegate.
pub(super) fn check_delegated(targets: &Targets) -> Result<(), Refusal> {
    let Some(delegations) = &targets.delegations else { return Ok(()) };
    for role in &delegations.roles {
        distinct(&role.name, &role.keyids, role.threshold.get(), &delegations.keys)?;
    }
    plain("targets", &delegations.keys)
}

fn distinct(role: &str, ids: &[Decoded<Hex>], threshold: u64, keys: &Keys) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new(Clause::KeyRepeated, role).with(why));
    // Of another kind: that has a clause of its own.
    if ids.iter().any(|id| keys.get(id).is_some_and(|key| public(key).is_none())) {
        return Err(Refusal::new(Clause::KeyType, role));
    }
    let named = of_role(ids, keys);
    let different: BTreeSet<&Vec<u8>> = named.iter().collect();
    if different.len() < named.len() {
        return refuse("one key under two names".into());
    }
    if threshold > different.len() as u64 {
        return refuse(format!("{} keys, threshold {threshold}", different.len()));
    }
    Ok(())
}

fn plain(role: &str, keys: &Keys) -> Result<(), Refusal> {
    for key in keys.values() {
        let Key::Ed25519 { keyval, _extra: beside, .. } = key else {
            return Err(Refusal::new(Clause::KeyType, role));
        };
        if !beside.is_empty() || !keyval._extra.is_empty() || keyval.public.len() != 32 {
            return Err(Refusal::new(Clause::KeyForm, role));
        }
    }
    Ok(())
}
