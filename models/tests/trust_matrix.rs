//! What a repository or a packed bundle must not get past the box: each fixture is named by its flaw
//! and refused with its clause; the sound one is accepted.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod forge;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use forge::{DAY, Forge, NOW};
use lightbox_models::pack::{PackError, check};
use lightbox_models::publish::{Change, FileKey, Holders, Lifetimes, Publisher, Signer};
use lightbox_models::recall::Notice;
use lightbox_models::trust::{
    Clause, Delegate, Folder, Known, Override, Refusal, Target, Verified, examine, is_of_another_publisher,
    verify,
};
use serde_json::{Value, json};
use time::OffsetDateTime;

async fn verify_at(
    forge: &Forge,
    known: &Known,
    at: i64,
    exception: Option<&Override>,
) -> Result<Verified, Refusal> {
    let now = OffsetDateTime::from_unix_timestamp(at).unwrap();
    verify(Arc::new(Folder::new(forge.path())), &forge.trusted_root, known, now, exception).await
}

async fn first(forge: &Forge) -> Result<Verified, Refusal> {
    verify_at(forge, &Known::FirstUse, NOW, None).await
}

/// As a box does: the record is stored as text and read back.
fn remember(verified: &Verified) -> Known {
    Known::read(Some(&verified.seen().to_json()), true).unwrap()
}

async fn clause(forge: &Forge) -> Clause {
    first(forge).await.unwrap_err().clause
}

#[tokio::test]
async fn the_sound_repository_is_accepted() {
    let forge = Forge::new();
    let verified = first(&forge).await.unwrap();
    let names: Vec<_> =
        verified.targets().map(|target| (target.name.as_str(), target.role.clone())).collect();
    assert_eq!(
        names,
        [
            ("plans/plan-1.toml", Delegate::Regulatory),
            ("recalls/acme/notice.toml", Delegate::Safety),
            ("vendors/acme/disks-1.lightbox", Delegate::Vendor("acme".into())),
        ]
    );
    assert_eq!(verified.overridden(), None);
    assert_eq!(verified.read_target("plans/plan-1.toml", 100).await.unwrap(), forge::PLAN);
    assert_eq!(verified.target("plans/plan-1.toml").unwrap().custom["policy"], json!(1));
    let saved = forge.path().join("saved.lightbox");
    let mut heard = 0;
    verified
        .save_target("vendors/acme/disks-1.lightbox", 1 << 20, &saved, &mut |done, _| heard = done)
        .await
        .unwrap();
    assert_eq!(heard, fs::metadata(&saved).unwrap().len());
    let packed = check(&saved, &mut |_| {}).unwrap();
    assert_eq!(packed.manifest.model.id, "lightbox-phantom-detector");
    // And again, with what was seen.
    verify_at(&forge, &remember(&verified), NOW + 1, None).await.unwrap();
    let refusal = verified.read_target("plans/plan-1.toml", 3).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::TooLong);
    assert_eq!(verified.read_target("plans/none", 3).await.unwrap_err().clause, Clause::TargetUnknown);
}

#[tokio::test]
async fn unsigned() {
    for role in ["timestamp", "snapshot", "targets", "vendor-acme", "regulatory"] {
        let forge = Forge::new();
        forge.sign_with(role, &[]);
        forge.repin_but(role);
        assert_eq!(clause(&forge).await, Clause::Unsigned, "{role}");
    }
}

#[tokio::test]
async fn one_key_short_of_threshold() {
    for role in ["targets", "regulatory"] {
        let forge = Forge::new();
        let keys = forge.keys_of(role);
        assert_eq!(keys.len(), 2, "{role}");
        forge.sign_with(role, &keys[..1]);
        forge.repin_but(role);
        assert_eq!(clause(&forge).await, Clause::SignatureThreshold, "{role}");
    }
    // One key that signs twice is one key.
    let forge = Forge::new();
    let key = forge.keys_of("targets")[0].clone();
    forge.sign_with("targets", &[key.clone(), key]);
    forge.repin_but("targets");
    assert_eq!(clause(&forge).await, Clause::Malformed);
}

#[tokio::test]
async fn expired() {
    for role in ["root", "snapshot", "targets", "vendor-acme", "regulatory"] {
        let forge = Forge::new();
        forge.edit(role, |signed| signed["expires"] = json!("2026-01-01T00:00:00Z"));
        if role == "root" {
            let root = fs::read(forge.metadata("1.root.json")).unwrap();
            let forge = forge.trusting(root);
            assert_eq!(clause(&forge).await, Clause::MetadataExpired);
            continue;
        }
        assert_eq!(clause(&forge).await, Clause::MetadataExpired, "{role}");
    }
}

#[tokio::test]
async fn frozen_timestamp() {
    let forge = Forge::new();
    let seen = remember(&first(&forge).await.unwrap());
    // The default timestamp is good for 30 days.
    let refusal = verify_at(&forge, &seen, NOW + 30 * DAY, None).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::TimestampFrozen);
    verify_at(&forge, &seen, NOW + 30 * DAY - 1, None).await.unwrap();

    // An operator may override the date, by name and reason, and nothing else.
    let exception = Override { who: "J. Doe".into(), why: "no network since spring".into() };
    let late = verify_at(&forge, &seen, NOW + 30 * DAY, Some(&exception)).await.unwrap();
    let overridden = late.overridden().unwrap();
    assert_eq!(overridden.by, exception);
    assert_eq!(
        overridden.refusals.iter().map(|refusal| refusal.clause).collect::<Vec<_>>(),
        [Clause::TimestampFrozen]
    );
    let nameless = Override { who: " ".into(), why: "x".into() };
    let refusal = verify_at(&forge, &seen, NOW, Some(&nameless)).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::OverrideIncomplete);
    forge.sign_with("timestamp", &[]);
    let refusal = verify_at(&forge, &seen, NOW, Some(&exception)).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::Unsigned);
}

#[tokio::test]
async fn expired_and_still_heard_for_what_it_recalls() {
    let forge = Forge::new();
    let old = forge.copy();
    forge.publish(&Change { renew: ["safety".to_owned()].into(), ..Change::default() });
    let examine_at = async |forge: &Forge, known: &Known, at: i64| {
        let now = OffsetDateTime::from_unix_timestamp(at).unwrap();
        examine(Arc::new(Folder::new(forge.path())), &forge.trusted_root, known, now).await
    };
    let late = examine_at(&forge, &Known::FirstUse, NOW + 4000 * DAY).await.unwrap();
    let notices: Vec<Target> = late.recalls().cloned().collect();
    assert_eq!(
        notices.iter().map(|notice| notice.name.as_str()).collect::<Vec<_>>(),
        ["recalls/acme/notice.toml"]
    );
    let text = late.read_recall(&notices[0], 1 << 20).await.unwrap();
    assert_eq!(Notice::read(Path::new("notice"), &text).unwrap().model, "x");
    assert_eq!(late.accept(None).unwrap_err().clause, Clause::TimestampFrozen, "nothing is installed");
    // Older than what was seen, it is not heard: there a notice would stand that was withdrawn since.
    let seen = remember(&first(&forge).await.unwrap());
    let refusal = examine_at(&old, &seen, NOW + 4000 * DAY).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::VersionRolledBack);
}

#[tokio::test]
async fn clock_set_back() {
    let forge = Forge::new();
    let seen = remember(&first(&forge).await.unwrap());
    let refusal = verify_at(&forge, &seen, NOW - 1, None).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::ClockBehind);
}

#[tokio::test]
async fn replayed_older() {
    let forge = Forge::new();
    let old = forge.copy();
    forge.publish(&Change { renew: ["vendor-acme".to_owned()].into(), ..Change::default() });
    let verified = first(&forge).await.unwrap();
    let seen = remember(&verified);
    let refusal = verify_at(&old, &seen, NOW, None).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::VersionRolledBack);
    // Each role by itself: the others' versions go on, this one's falls.
    for role in ["timestamp", "snapshot", "vendor-acme"] {
        let forge = forge.copy();
        forge.edit(role, |signed| signed["version"] = json!(1));
        let refusal = verify_at(&forge, &seen, NOW, None).await.unwrap_err();
        assert_eq!((refusal.clause, refusal.subject.as_str()), (Clause::VersionRolledBack, role));
    }
}

#[tokio::test]
async fn version_used_again_for_other_contents() {
    let forge = Forge::new();
    let seen = remember(&first(&forge).await.unwrap());
    for role in ["timestamp", "snapshot", "targets", "regulatory"] {
        let forge = forge.copy();
        forge.edit(role, |signed| signed["expires"] = json!("2027-01-02T00:00:00Z"));
        let refusal = verify_at(&forge, &seen, NOW, None).await.unwrap_err();
        assert_eq!(refusal.clause, Clause::VersionReused, "{role}");
    }
}

#[tokio::test]
async fn fast_forward() {
    for role in ["timestamp", "snapshot", "vendor-acme"] {
        let forge = Forge::new();
        forge.edit(role, |signed| signed["version"] = json!(9_000_000_000_000_000_u64));
        assert_eq!(clause(&forge).await, Clause::VersionFastForward, "{role}");
    }
}

#[tokio::test]
async fn role_removed() {
    let forge = Forge::new();
    let seen = remember(&first(&forge).await.unwrap());
    forge.edit("targets", |signed| {
        signed["version"] = json!(2);
        signed["delegations"]["roles"].as_array_mut().unwrap().retain(|role| role["name"] != "safety");
    });
    forge.edit("snapshot", |signed| {
        signed["version"] = json!(3);
        signed["meta"].as_object_mut().unwrap().remove("safety.json");
    });
    let refusal = verify_at(&forge, &seen, NOW, None).await.unwrap_err();
    assert_eq!((refusal.clause, refusal.subject.as_str()), (Clause::RoleRemoved, "safety"));
    // A delegated role that the snapshot does not list is not passed over either.
    let forge = Forge::new();
    forge.edit("snapshot", |signed| {
        signed["meta"].as_object_mut().unwrap().remove("safety.json");
    });
    assert_eq!(clause(&forge).await, Clause::Missing);
}

#[tokio::test]
async fn mixed_snapshot() {
    // The vendor's file of a later time under the snapshot of an earlier one.
    let forge = Forge::new();
    let old = forge.copy();
    forge.publish(&Change { renew: ["vendor-acme".to_owned()].into(), ..Change::default() });
    let later = forge.file_of("vendor-acme");
    fs::copy(forge.metadata(&later), old.metadata(&old.file_of("vendor-acme"))).unwrap();
    let refusal = first(&old).await.unwrap_err();
    assert!([Clause::SnapshotMixed, Clause::TooLong].contains(&refusal.clause), "{refusal}");
    // A snapshot that the timestamp does not name.
    let (first_snapshot, mixed) = (forge.file_of("snapshot"), forge.copy());
    let text = fs::read_to_string(mixed.metadata(&first_snapshot)).unwrap();
    fs::write(mixed.metadata(&first_snapshot), text.replacen("2027", "2028", 1)).unwrap();
    assert_eq!(clause(&mixed).await, Clause::SnapshotMixed);
    // Without a digest anything of that version would do.
    let unpinned = Forge::new();
    unpinned.edit("snapshot", |signed| {
        signed["meta"]["vendor-acme.json"].as_object_mut().unwrap().remove("hashes");
    });
    assert_eq!(clause(&unpinned).await, Clause::Malformed);
}

#[tokio::test]
async fn altered_byte_in_each_file() {
    let forge = Forge::new();
    let mut tried = 0;
    for file in forge.files() {
        let altered = forge.copy();
        let path = altered.path().join(&file);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let refused = match first(&altered).await {
            Err(refusal) => refusal,
            // Metadata hold: then it is a target.
            Ok(verified) => {
                let mut refusal = None;
                for target in verified.targets() {
                    refusal = refusal.or(verified.read_target(&target.name, 1 << 20).await.err());
                }
                refusal.unwrap_or_else(|| panic!("{file} was altered and taken"))
            }
        };
        if file.starts_with("targets/") {
            assert_eq!(refused.clause, Clause::TargetDigest, "{file}");
        }
        tried += 1;
    }
    // Six metadata files beside the root that boxes have, three targets.
    assert_eq!(tried, 9);
}

#[tokio::test]
async fn plan_signed_by_release_key() {
    // By the keys of another role.
    for other in ["targets", "vendor-acme", "timestamp"] {
        let forge = Forge::new();
        forge.sign_with("regulatory", &forge.keys_of(other));
        forge.repin_but("regulatory");
        assert_eq!(clause(&forge).await, Clause::PlanSignedByReleaseKey, "{other}");
    }
    // By somebody unknown.
    let forge = Forge::new();
    forge.sign_with("regulatory", &[forge.key("stranger")]);
    forge.repin_but("regulatory");
    assert_eq!(clause(&forge).await, Clause::SignedByOtherKey);
    // Listed by the top-level role, or by a vendor.
    for (role, expected) in
        [("targets", Clause::PlanSignedByReleaseKey), ("vendor-acme", Clause::TargetOutsideDelegation)]
    {
        let forge = Forge::new();
        let plan = forge.read("regulatory")["signed"]["targets"]["plans/plan-1.toml"].clone();
        forge.edit(role, |signed| signed["targets"]["plans/plan-2.toml"] = plan.clone());
        assert_eq!(clause(&forge).await, expected, "{role}");
    }
    // The regulatory role shares a key with another one.
    let forge = Forge::new();
    let mut delegations = Value::Null;
    forge.edit("targets", |signed| {
        let roles = signed["delegations"]["roles"].as_array_mut().unwrap();
        let vendor = roles.iter().find(|role| role["name"] == "vendor-acme").unwrap()["keyids"][0].clone();
        let regulatory = roles.iter_mut().find(|role| role["name"] == "regulatory").unwrap();
        regulatory["keyids"].as_array_mut().unwrap().push(vendor);
        delegations = regulatory.clone();
    });
    assert_eq!(clause(&forge).await, Clause::PlanSignedByReleaseKey);
    // And the publisher does not make such a design.
    let mut design = forge.design();
    let vendor = design.delegates[&Delegate::Vendor("acme".into())].clone();
    design.delegates.insert(Delegate::Regulatory, vendor);
    let folder = tempfile::tempdir().unwrap();
    let error =
        Publisher::create(folder.path(), &design, &Lifetimes::default(), OffsetDateTime::UNIX_EPOCH, &[]);
    assert!(error.unwrap_err().to_string().contains("regulatory: a key that signs something else too"));
}

#[tokio::test]
async fn vendor_in_anothers_name() {
    let forge = Forge::new();
    forge.edit("vendor-acme", |signed| {
        let bundle = signed["targets"]["vendors/acme/disks-1.lightbox"].clone();
        signed["targets"]["vendors/other/disks-1.lightbox"] = bundle;
    });
    assert_eq!(clause(&forge).await, Clause::TargetOutsideDelegation);
    // Nor where somebody has widened the delegation's pattern.
    forge.edit("targets", |signed| {
        for role in signed["delegations"]["roles"].as_array_mut().unwrap() {
            role["paths"] = json!(["*"]);
        }
    });
    assert_eq!(clause(&forge).await, Clause::TargetOutsideDelegation);
}

#[tokio::test]
async fn path_traversal_in_a_targets_name() {
    for name in ["vendors/acme/../../x", "vendors/acme//x", "vendors/acme/a b"] {
        let forge = Forge::new();
        forge.edit("vendor-acme", |signed| {
            signed["targets"][name] = signed["targets"]["vendors/acme/disks-1.lightbox"].clone();
        });
        let clause = clause(&forge).await;
        assert!([Clause::TargetOutsideDelegation, Clause::Malformed].contains(&clause), "{name}: {clause}");
    }
}

#[tokio::test]
async fn endless_data() {
    // A metadata file without end, as long as the reader goes on.
    for file in ["timestamp.json", "2.root.json"] {
        let forge = Forge::new();
        let endless = fs::File::create(forge.metadata(file)).unwrap();
        endless.set_len(1 << 40).unwrap();
        assert_eq!(clause(&forge).await, Clause::TooLong, "{file}");
    }
    // Longer than the snapshot says, and a target longer than signed.
    let forge = Forge::new();
    let path = forge.metadata(&forge.file_of("vendor-acme"));
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(&[b' '; 4096]);
    fs::write(&path, bytes).unwrap();
    assert_eq!(clause(&forge).await, Clause::TooLong);
    let forge = Forge::new();
    let verified = first(&forge).await.unwrap();
    let plan = forge.files().into_iter().find(|file| file.ends_with("plan-1.toml")).unwrap();
    fs::File::options().write(true).open(forge.path().join(plan)).unwrap().set_len(1 << 40).unwrap();
    let refusal = verified.read_target("plans/plan-1.toml", 1 << 20).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::TooLong);
    // A pipe that never says anything is not opened.
    let forge = Forge::new();
    fs::remove_file(forge.metadata("timestamp.json")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(forge.metadata("timestamp.json")).status().unwrap();
    assert!(made.success());
    assert_eq!(clause(&forge).await, Clause::Unreadable);
}

#[tokio::test]
async fn wrong_key_after_rotation() {
    let forge = Forge::new();
    let old = forge.copy();
    let seen = remember(&first(&forge).await.unwrap());
    let mut design = forge.design();
    design.timestamp = Holders { keys: vec![forge.key("new-timestamp").public()], threshold: 1 };
    forge.publish(&Change { design: Some(design), ..Change::default() });
    // The sound rotation is followed, from the root that the box has.
    let rotated = verify_at(&forge, &seen, NOW, None).await.unwrap();
    let root: Value = serde_json::from_str(rotated.seen().root()).unwrap();
    assert_eq!(root["signed"]["version"], json!(2));
    // The old key does not count any more.
    let forged = forge.copy();
    forged.sign_with("timestamp", &[forged.key("timestamp")]);
    let refusal = verify_at(&forged, &remember(&rotated), NOW, None).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::SignedByOtherKey);
    // The repository from before the rotation does not pass for the newest.
    let refusal = verify_at(&old, &remember(&rotated), NOW, None).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::SignedByOtherKey);
    // A new root that only the new root keys signed is none.
    let usurped = forge.copy();
    let stranger = usurped.key("stranger");
    usurped.edit_file("2.root.json", &[stranger], |_| {});
    let refusal = verify_at(&usurped, &seen, NOW, None).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::SignedByOtherKey);
}

#[tokio::test]
async fn fast_forward_is_recovered_from_by_new_keys() {
    let forge = Forge::new();
    // Whoever has the timestamp and snapshot keys counts as far up as they may.
    for role in ["snapshot", "timestamp"] {
        forge.edit(role, |signed| signed["version"] = json!(1_000_000));
    }
    let seen = remember(&first(&forge).await.unwrap());
    let sound = Forge::new_with_keys_of(&forge);
    let refusal = verify_at(&sound, &seen, NOW, None).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::VersionRolledBack);
    let mut design = sound.design();
    for (role, name) in [(&mut design.timestamp, "new-timestamp"), (&mut design.snapshot, "new-snapshot")] {
        *role = Holders { keys: vec![forge.key(name).public()], threshold: 1 };
    }
    sound.publish(&Change { design: Some(design), ..Change::default() });
    verify_at(&sound, &seen, NOW, None).await.unwrap();
}

#[tokio::test]
async fn key_of_another_kind() {
    let forge = Forge::new();
    forge.edit_file("1.root.json", &forge.keys_of("root"), |signed| {
        let key = json!({
            "keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256",
            "keyval": { "public": "04".to_owned() + &"ab".repeat(64) },
        });
        let id = forge::sha256_hex(&forge::canonical(&key));
        signed["keys"][id] = key;
    });
    let root = fs::read(forge.metadata("1.root.json")).unwrap();
    let forge = forge.trusting(root);
    assert_eq!(clause(&forge).await, Clause::KeyType);
}

/// The same key with a field more, and so under another identifier.
fn disguised(key: &FileKey, inside: bool) -> Value {
    let mut named = forge::public(key);
    let at = if inside { &mut named["keyval"] } else { &mut named };
    at["x"] = json!("1");
    named
}

#[tokio::test]
async fn release_key_under_another_name() {
    for inside in [false, true] {
        let forge = Forge::new();
        let release = forge.keys_of("vendor-acme")[0].clone();
        let named = disguised(&release, inside);
        let id = forge::key_id(&named);
        assert_ne!(id, forge::key_id(&forge::public(&release)));
        forge.edit_file(&forge.file_of("targets"), &forge.keys_of("targets"), |signed| {
            signed["delegations"]["keys"][&id] = named.clone();
            let roles = signed["delegations"]["roles"].as_array_mut().unwrap();
            let regulatory = roles.iter_mut().find(|role| role["name"] == "regulatory").unwrap();
            regulatory["keyids"] = json!([id]);
            regulatory["threshold"] = json!(1);
        });
        forge.edit_file_as(&forge.file_of("regulatory"), &[(release, id.clone())], |_| {});
        forge.repin_but("");
        assert_eq!(clause(&forge).await, Clause::PlanSignedByReleaseKey);
        // Nor does the other name hide who signed, where the role has another key.
        forge.edit_file(&forge.file_of("targets"), &forge.keys_of("targets"), |signed| {
            let stranger = forge::public(&forge.key("stranger"));
            let id = forge::key_id(&stranger);
            signed["delegations"]["keys"][&id] = stranger;
            let roles = signed["delegations"]["roles"].as_array_mut().unwrap();
            roles.iter_mut().find(|role| role["name"] == "regulatory").unwrap()["keyids"] = json!([id]);
        });
        forge.repin_but("");
        assert_eq!(clause(&forge).await, Clause::PlanSignedByReleaseKey);
    }
}

#[tokio::test]
async fn one_key_as_two() {
    // Of a delegated role.
    let forge = Forge::new();
    let key = forge.keys_of("safety")[0].clone();
    let (own, named) = (forge::key_id(&forge::public(&key)), disguised(&key, false));
    let id = forge::key_id(&named);
    forge.edit_file(&forge.file_of("targets"), &forge.keys_of("targets"), |signed| {
        signed["delegations"]["keys"][&id] = named.clone();
        let roles = signed["delegations"]["roles"].as_array_mut().unwrap();
        let safety = roles.iter_mut().find(|role| role["name"] == "safety").unwrap();
        (safety["keyids"], safety["threshold"]) = (json!([own, id]), json!(2));
    });
    let both = [(key.clone(), own), (key, id)];
    forge.edit_file_as(&forge.file_of("safety"), &both, |_| {});
    forge.repin_but("");
    assert_eq!(clause(&forge).await, Clause::KeyRepeated);
    // Of the root's own roles.
    let forge = Forge::new();
    let key = forge.keys_of("timestamp")[0].clone();
    let (own, named) = (forge::key_id(&forge::public(&key)), disguised(&key, true));
    let id = forge::key_id(&named);
    forge.edit_file("1.root.json", &forge.keys_of("root"), |signed| {
        signed["keys"][&id] = named.clone();
        signed["roles"]["timestamp"] = json!({ "keyids": [own, id], "threshold": 2 });
    });
    forge.edit_file_as("timestamp.json", &[(key.clone(), own), (key, id)], |_| {});
    let root = fs::read(forge.metadata("1.root.json")).unwrap();
    assert_eq!(clause(&forge.trusting(root)).await, Clause::KeyRepeated);
}

#[tokio::test]
async fn key_with_more_than_its_value() {
    for inside in [false, true] {
        let forge = Forge::new();
        forge.edit_file("1.root.json", &forge.keys_of("root"), |signed| {
            let named = disguised(&forge.key("stranger"), inside);
            let id = forge::key_id(&named);
            signed["keys"][id] = named;
        });
        let root = fs::read(forge.metadata("1.root.json")).unwrap();
        assert_eq!(clause(&forge.trusting(root)).await, Clause::KeyForm);
    }
}

#[tokio::test]
async fn timestamp_written_otherwise_under_the_same_signatures() {
    let forge = Forge::new();
    let recoded = forge.copy();
    let path = recoded.metadata("timestamp.json");
    let mut document: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let id = document["signatures"][0]["keyid"].as_str().unwrap().to_uppercase();
    document["signatures"][0]["keyid"] = json!(id);
    fs::write(&path, document.to_string()).unwrap();
    let (sound, other) = (first(&forge).await.unwrap(), first(&recoded).await.unwrap());
    verify_at(&forge, &remember(&other), NOW, None).await.unwrap();
    verify_at(&recoded, &remember(&sound), NOW, None).await.unwrap();

    // A record of before: by the bytes of whichever file was seen. No false alarm, and no open door.
    for seen in [&forge, &recoded] {
        let mut old: Value = serde_json::from_str(&sound.seen().to_json()).unwrap();
        old["schema"] = json!(1);
        let bytes = fs::read(seen.metadata("timestamp.json")).unwrap();
        old["roles"]["timestamp"]["sha256"] = json!(forge::sha256_hex(&bytes));
        let known = Known::read(Some(&old.to_string()), true).unwrap();
        for shown in [&forge, &recoded] {
            let verified = verify_at(shown, &known, NOW, None).await.unwrap();
            assert_eq!(verified.seen(), sound.seen(), "it is kept as records are now");
        }
        let reused = forge.copy();
        reused.edit("regulatory", |signed| signed["expires"] = json!("2027-01-02T00:00:00Z"));
        let refusal = verify_at(&reused, &known, NOW, None).await.unwrap_err();
        assert_eq!(refusal.clause, Clause::VersionReused);
    }
}

#[tokio::test]
async fn root_of_another_publisher() {
    let forge = Forge::new();
    let verified = first(&forge).await.unwrap();
    let other = Forge::new();
    let refusal = verify_at(&other, &remember(&verified), NOW, None).await.unwrap_err();
    assert_eq!(refusal.clause, Clause::RootReplaced);
    assert!(is_of_another_publisher(&other.trusted_root, verified.seen()).unwrap());
    assert!(!is_of_another_publisher(&forge.trusted_root, verified.seen()).unwrap());
    // The same root written otherwise is the same.
    let spaced = [&forge.trusted_root[..], b"\n"].concat();
    verify_at(&forge.trusting(spaced), &remember(&verified), NOW, None).await.unwrap();
}

#[tokio::test]
async fn missing_and_unreadable_records_of_versions() {
    assert_eq!(Known::read(None, true).unwrap_err().clause, Clause::SeenVersionsMissing);
    assert_eq!(Known::read(Some("{\"schema\":1"), true).unwrap_err().clause, Clause::SeenVersionsUnreadable);
}

/// A packed bundle's clause.
fn packed_clause(bytes: &[u8]) -> &'static str {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.lightbox");
    fs::write(&path, bytes).unwrap();
    let checked = check(&path, &mut |_| {}).map_err(|error| error.clause()).unwrap_err();
    // Unpacking refuses with the same clause, and leaves nothing.
    let unpacked: Result<_, PackError> =
        lightbox_models::pack::unpack(&path, &folder.path().join("bundle"), &mut |_| {});
    assert_eq!(unpacked.unwrap_err().clause(), checked);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    checked
}

#[test]
fn altered_byte_in_each_file_of_a_packed_bundle() {
    let sound = forge::packed();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.lightbox");
    fs::write(&path, &sound).unwrap();
    let digest = check(&path, &mut |_| {}).unwrap().digest;
    let manifest = forge::entries(&sound)[0].clone();
    // A byte in each file, in each header, in each filling, and in the end.
    for at in (0..sound.len()).step_by(61) {
        let mut altered = sound.clone();
        altered[at] ^= 1;
        fs::write(&path, &altered).unwrap();
        match check(&path, &mut |_| {}) {
            Err(_) => {}
            // The manifest's own words are vouched for by who signed the packed file; the digest that
            // results name is another one.
            Ok(packed) => {
                assert!(manifest.contains(&at), "byte {at}");
                assert_ne!(packed.digest, digest);
            }
        }
    }
    for entry in &forge::entries(&sound)[1..] {
        let mut altered = sound.clone();
        altered[entry.start + 512 + 100] ^= 1;
        assert_eq!(packed_clause(&altered), "bundle-digest");
    }
}

#[test]
fn zip_bomb() {
    use std::io::Write;

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&forge::packed()).unwrap();
    gzip.write_all(&vec![0; 10 << 20]).unwrap();
    let bomb = gzip.finish().unwrap();
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    assert_eq!(packed_clause(&bomb), "bundle-compressed");
    for magic in [&b"PK\x03\x04"[..], b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh9"] {
        assert_eq!(packed_clause(&[magic, &[0; 600]].concat()), "bundle-compressed");
    }
}

#[test]
fn path_traversal() {
    for name in ["../../etc/passwd", "/etc/passwd", "a/../../b"] {
        let bytes = forge::with_entry(0, |header| forge::rename(header, name));
        assert_eq!(packed_clause(&bytes), "bundle-path-traversal", "{name}");
        let bytes = forge::with_entry(1, |header| forge::rename(header, name));
        assert_eq!(packed_clause(&bytes), "bundle-path-traversal", "{name}");
    }
}

#[test]
fn link_and_other_kinds_of_entries() {
    for flag in *b"1234567SxgLKDMV\0" {
        let bytes = forge::with_entry(1, |header| header[156] = flag);
        assert_eq!(packed_clause(&bytes), "bundle-entry-kind", "{flag}");
    }
    // A link's target in an otherwise plain entry.
    let bytes = forge::with_entry(1, |header| header[157..168].copy_from_slice(b"/etc/passwd"));
    assert_eq!(packed_clause(&bytes), "bundle-header");
    // Sparse by the old GNU way; a size in base 256; a name that goes on in the prefix.
    let bytes = forge::with_entry(1, |header| header[482] = 1);
    assert_eq!(packed_clause(&bytes), "bundle-header");
    let bytes = forge::with_entry(1, |header| header[124] = 0x80);
    assert_eq!(packed_clause(&bytes), "bundle-header");
    let bytes = forge::with_entry(1, |header| header[345] = b'a');
    assert_eq!(packed_clause(&bytes), "bundle-header");
}

#[test]
fn more_less_or_other_than_the_manifest_lists() {
    let sound = forge::packed();
    let entries = forge::entries(&sound);
    let assemble = |order: &[usize]| {
        let mut bytes: Vec<u8> = order.iter().flat_map(|at| sound[entries[*at].clone()].to_vec()).collect();
        bytes.extend_from_slice(&[0; 1024]);
        bytes
    };
    let all: Vec<usize> = (0..entries.len()).collect();
    assert_eq!(assemble(&all), sound, "the control");
    assert_eq!(packed_clause(&assemble(&[0, 1, 1, 2])), "bundle-duplicate");
    assert_eq!(packed_clause(&assemble(&[0, 2])), "bundle-missing");
    assert_eq!(packed_clause(&assemble(&all[..all.len() - 1])), "bundle-missing");
    assert_eq!(packed_clause(&assemble(&[1, 2])), "bundle-missing");
    assert_eq!(packed_clause(&assemble(&[&all[..], &[1]].concat())), "bundle-duplicate");
    let unlisted = forge::with_entry(1, |header| forge::rename(header, "other.onnx"));
    assert_eq!(packed_clause(&unlisted), "bundle-unlisted");
    let longer = forge::with_entry(1, |header| header[124..135].copy_from_slice(b"77777777777"));
    assert_eq!(packed_clause(&longer), "bundle-size");
    assert_eq!(packed_clause(&[&sound[..], b"x"].concat()), "bundle-trailing");
    assert_eq!(packed_clause(&[&sound[..], &[0; 512]].concat()), "bundle-trailing");
    for cut in [1, 511, 512, 1024, 1025, sound.len() - 600] {
        assert_eq!(packed_clause(&sound[..sound.len() - cut]), "bundle-truncated");
    }
    assert_eq!(packed_clause(b""), "bundle-not-packed");
    assert_eq!(packed_clause(&[0; 4096]), "bundle-not-packed");
}

#[test]
fn missing_sbom() {
    let folder = tempfile::tempdir().unwrap();
    forge::copy_folder(&forge::reference(), folder.path());
    let path = folder.path().join("manifest.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("role = \"sbom\"", "role = \"document\"", 1)).unwrap();
    let refusal = lightbox_models::pack::pack(folder.path(), Path::new("/nowhere/x"), &mut |_| {});
    assert_eq!(refusal.unwrap_err().clause(), "sbom-missing");
    // And an SBOM of another network.
    let sbom = folder.path().join("sbom.json");
    let other = fs::read_to_string(&sbom).unwrap().replace("4635067969fa", "000000000000");
    fs::write(&sbom, &other).unwrap();
    let sha256 = forge::sha256_hex(other.as_bytes());
    let listed = forge::sha256_hex(&fs::read(forge::reference().join("sbom.json")).unwrap());
    fs::write(&path, text.replace(&listed, &sha256)).unwrap();
    let refusal = lightbox_models::Bundle::open(folder.path()).unwrap_err();
    assert_eq!(refusal.clause(), "bundle-contents", "{refusal}");
}
