//! Publishing that is interrupted, refused, or done by two at a time.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod forge;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use forge::{Forge, NOW};
use lightbox_models::publish::{Addition, Change, Holders, Lifetimes, PublishError, Publisher, Signer};
use lightbox_models::trust::{Delegate, Folder, Known, Refusal, Verified, verify};
use time::OffsetDateTime;

async fn verified(forge: &Forge, known: &Known) -> Result<Verified, Refusal> {
    let now = OffsetDateTime::from_unix_timestamp(NOW).unwrap();
    verify(Arc::new(Folder::new(forge.path())), &forge.trusted_root, known, now, None).await
}

fn remember(verified: &Verified) -> Known {
    Known::read(Some(&verified.seen().to_json()), true).unwrap()
}

fn renew(role: &str) -> Change {
    Change { renew: [role.to_owned()].into(), ..Change::default() }
}

/// The repository as it is when the power goes just before these files get their names.
fn without(forge: &Forge, before: &Forge, files: &[&str]) {
    for file in files {
        match fs::read(before.metadata(file)) {
            Ok(bytes) => fs::write(forge.metadata(file), bytes).unwrap(),
            Err(_) => fs::remove_file(forge.metadata(file)).unwrap(),
        }
    }
}

#[tokio::test]
async fn an_interrupted_publishing_leaves_the_old_repository() {
    let forge = Forge::new();
    let before = forge.copy();
    let old = verified(&forge, &Known::FirstUse).await.unwrap();
    forge.publish(&renew("vendor-acme"));
    let published = verified(&forge, &remember(&old)).await.unwrap();
    assert!(published.seen().roles()["vendor-acme"].version > old.seen().roles()["vendor-acme"].version);

    for last in [&["timestamp.json"][..], &["timestamp.json", "3.snapshot.json"]] {
        let interrupted = forge.copy();
        without(&interrupted, &before, last);
        let found = verified(&interrupted, &remember(&old)).await.unwrap();
        assert_eq!(found.seen().roles(), old.seen().roles());
        // And the next try goes through.
        interrupted.publish(&renew("vendor-acme"));
        verified(&interrupted, &remember(&old)).await.unwrap();
    }
}

#[tokio::test]
async fn a_rotation_is_whole_at_every_instant() {
    let forge = Forge::new();
    let old = verified(&forge, &Known::FirstUse).await.unwrap();
    let before = forge.copy();
    let mut design = forge.design();
    design.timestamp = Holders { keys: vec![forge.key("new-timestamp").public()], threshold: 1 };
    design.snapshot = Holders { keys: vec![forge.key("new-snapshot").public()], threshold: 1 };
    forge.publish(&Change { design: Some(design.clone()), ..Change::default() });
    assert_eq!(forge.design(), design);
    verified(&forge, &remember(&old)).await.unwrap();
    // The new timestamp came first, and holds under the old root as well.
    let interrupted = forge.copy();
    without(&interrupted, &before, &["2.root.json"]);
    verified(&interrupted, &remember(&old)).await.unwrap();
    let interrupted = forge.copy();
    without(&interrupted, &before, &["2.root.json", "timestamp.json"]);
    verified(&interrupted, &remember(&old)).await.unwrap();
}

#[tokio::test]
async fn a_delegated_roles_keys_are_replaced() {
    let forge = Forge::new();
    let old = verified(&forge, &Known::FirstUse).await.unwrap();
    let acme = Delegate::Vendor("acme".into());
    let mut design = forge.design();
    let new = Holders { keys: vec![forge.key("new-snapshot").public()], threshold: 1 };
    design.delegates.insert(acme, new);
    forge.publish(&Change { design: Some(design), ..Change::default() });
    let rotated = verified(&forge, &remember(&old)).await.unwrap();
    assert!(rotated.target("vendors/acme/disks-1.lightbox").is_ok());
    forge.sign_with("vendor-acme", &forge.keys_of("vendor-acme"));
    forge.repin_but("vendor-acme");
    let refusal = verified(&forge, &remember(&old)).await.unwrap_err();
    assert_eq!(refusal.clause.name(), "signed-by-other-key");
}

#[test]
fn what_cannot_be_published_says_why() {
    let forge = Forge::new();
    let now = OffsetDateTime::from_unix_timestamp(NOW).unwrap();
    let mut publisher = Publisher::open(forge.path()).unwrap();
    assert!(matches!(Publisher::open(forge.path()), Err(PublishError::Io { .. })), "two at a time");
    let timestamp = forge.key("timestamp");
    let lifetimes = Lifetimes::default();
    let mut publish = |change: &Change, signers: &[&dyn Signer]| {
        publisher.publish(change, &lifetimes, now, signers, &mut |_, _| {}).unwrap_err().to_string()
    };
    let refused = publish(&renew("safety"), &[timestamp.as_ref()]);
    assert!(refused.starts_with("safety needs 1 of its keys, 0 are given"), "{refused}");
    let addition = |name: &str, by| Addition {
        name: name.to_owned(),
        by,
        file: forge::reference().join("card.md"),
        custom: BTreeMap::new(),
    };
    for (name, by) in [
        ("plans/x", Delegate::Vendor("acme".into())),
        ("vendors/other/x", Delegate::Vendor("acme".into())),
        ("vendors/acme/../x", Delegate::Vendor("acme".into())),
        ("vendors/acme/x", Delegate::Regulatory),
    ] {
        let refused = publish(&Change { add: vec![addition(name, by)], ..Change::default() }, &[]);
        assert!(refused.contains("not a name that the role"), "{refused}");
    }
    let refused = publish(&Change { remove: vec!["plans/none".into()], ..Change::default() }, &[]);
    assert!(refused.starts_with("plans/none: not in the repository"), "{refused}");
    drop(publisher);
    // Nothing of it has changed the repository.
    assert_eq!(
        Publisher::open(forge.path()).unwrap().targets(),
        ["plans/plan-1.toml", "recalls/acme/notice.toml", "vendors/acme/disks-1.lightbox"]
    );
    let mut design = forge.design();
    design.root.threshold = 3;
    let folder = tempfile::tempdir().unwrap();
    let refused = Publisher::create(folder.path(), &design, &lifetimes, now, &[]).unwrap_err();
    assert!(refused.to_string().contains("a threshold that its keys cannot reach"), "{refused}");
}
