//! A small sound repository with its keys, and the means to put one flaw into it.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lightbox_models::pack::pack;
use lightbox_models::publish::{
    Addition, Change, Design, FileKey, Holders, Lifetimes, PublicKey, Publisher, Signer,
};
use lightbox_models::trust::Delegate;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

/// The time of every fixture, as Unix time: 22 November 2026.
pub const NOW: i64 = 1_795_305_600;
/// A day in seconds.
pub const DAY: i64 = 86_400;
/// The plan's contents.
pub const PLAN: &[u8] = b"policy = 1\n";

/// A repository whose every key is at hand.
pub struct Forge {
    /// The root that boxes were given.
    pub trusted_root: Vec<u8>,
    folder: tempfile::TempDir,
    keys: PathBuf,
    _keys: Option<tempfile::TempDir>,
}

const ROLES: [(&str, &[&str]); 7] = [
    ("root", &["root-1", "root-2"]),
    ("targets", &["targets-1", "targets-2"]),
    ("snapshot", &["snapshot"]),
    ("timestamp", &["timestamp"]),
    ("vendor-acme", &["acme"]),
    ("regulatory", &["regulatory-1", "regulatory-2"]),
    ("safety", &["safety"]),
];

impl Forge {
    /// A vendor's bundle, a plan and a recall, published in two steps.
    pub fn new() -> Forge {
        let keys = tempfile::tempdir().unwrap();
        let path = keys.path().to_owned();
        Forge::build(path, Some(keys))
    }

    /// Another repository of the same keys.
    pub fn new_with_keys_of(other: &Forge) -> Forge {
        let forge = Forge::build(other.keys.clone(), None);
        Forge { trusted_root: other.trusted_root.clone(), ..forge }
    }

    fn build(keys: PathBuf, held: Option<tempfile::TempDir>) -> Forge {
        let folder = tempfile::tempdir().unwrap();
        let mut forge = Forge { trusted_root: Vec::new(), folder, keys, _keys: held };
        let signers = forge.signers();
        let signers: Vec<&dyn Signer> = signers.iter().map(|key| key as &dyn Signer).collect();
        let design = forge.first_design();
        let publisher =
            Publisher::create(forge.path(), &design, &Lifetimes::default(), now(), &signers).unwrap();
        forge.trusted_root = publisher.root().to_owned();
        drop(publisher);
        let files = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = files.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let custom = BTreeMap::from([("policy".to_owned(), json!(1))]);
        let add = vec![
            Addition {
                name: "vendors/acme/disks-1.lightbox".into(),
                by: Delegate::Vendor("acme".into()),
                file: file("bundle", &packed()),
                custom: BTreeMap::new(),
            },
            Addition {
                name: "plans/plan-1.toml".into(),
                by: Delegate::Regulatory,
                file: file("plan", PLAN),
                custom,
            },
            Addition {
                name: "recalls/acme/notice.toml".into(),
                by: Delegate::Safety,
                file: file("recall", b"schema = 1\nmodel = \"x\"\nreason = \"why\"\n"),
                custom: BTreeMap::new(),
            },
        ];
        forge.publish(&Change { add, ..Change::default() });
        // What the first publishing left and nothing names any more would be altered unseen.
        for stale in ["1.snapshot.json", "1.vendor-acme.json", "1.regulatory.json", "1.safety.json"] {
            fs::remove_file(forge.metadata(stale)).unwrap();
        }
        fs::remove_file(forge.path().join(".lock")).unwrap();
        forge
    }

    /// The same repository for boxes that were given another root.
    pub fn trusting(self, root: Vec<u8>) -> Forge {
        Forge { trusted_root: root, ..self }
    }

    /// A copy of the folder with the same keys.
    pub fn copy(&self) -> Forge {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(self.path(), folder.path());
        Forge { trusted_root: self.trusted_root.clone(), folder, keys: self.keys.clone(), _keys: None }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn metadata(&self, name: &str) -> PathBuf {
        self.path().join("metadata").join(name)
    }

    /// Every file below `metadata/` and `targets/`, but the root that boxes have already.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![self.path().join("metadata"), self.path().join("targets")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.ends_with("1.root.json") {
                    files.push(path.strip_prefix(self.path()).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        files
    }

    /// A key by its name, made when it is first asked for.
    pub fn key(&self, name: &str) -> std::sync::Arc<FileKey> {
        let path = self.keys.join(name);
        let key = if path.exists() { FileKey::load(&path) } else { FileKey::generate(&path) };
        std::sync::Arc::new(key.unwrap())
    }

    fn signers(&self) -> Vec<SharedKey> {
        let mut names: Vec<&str> = ROLES.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
        names.extend(["new-timestamp", "new-snapshot"]);
        names.into_iter().map(|name| SharedKey(self.key(name))).collect()
    }

    /// The keys that sign a role at first.
    pub fn keys_of(&self, role: &str) -> Vec<std::sync::Arc<FileKey>> {
        let (_, keys) = ROLES.iter().find(|(name, _)| *name == role).unwrap();
        keys.iter().map(|key| self.key(key)).collect()
    }

    fn first_design(&self) -> Design {
        let holders = |role: &str| {
            let keys: Vec<PublicKey> = self.keys_of(role).iter().map(|key| key.public()).collect();
            Holders { threshold: keys.len() as u64, keys }
        };
        let delegates = ["vendor-acme", "regulatory", "safety"];
        Design {
            root: holders("root"),
            targets: holders("targets"),
            snapshot: holders("snapshot"),
            timestamp: holders("timestamp"),
            delegates: delegates.into_iter().map(|role| (role.parse().unwrap(), holders(role))).collect(),
        }
    }

    pub fn design(&self) -> Design {
        Publisher::open(self.path()).unwrap().design().unwrap()
    }

    /// Publishes a change with every key that there is.
    pub fn publish(&self, change: &Change) {
        let signers = self.signers();
        let signers: Vec<&dyn Signer> = signers.iter().map(|key| key as &dyn Signer).collect();
        let mut publisher = Publisher::open(self.path()).unwrap();
        publisher.publish(change, &Lifetimes::default(), now(), &signers, &mut |_, _| {}).unwrap();
    }

    /// The newest file of a role.
    pub fn file_of(&self, role: &str) -> String {
        if role == "timestamp" {
            return "timestamp.json".into();
        }
        let end = format!(".{role}.json");
        let version = |name: &str| name.strip_suffix(&end).and_then(|version| version.parse::<u64>().ok());
        let names = fs::read_dir(self.path().join("metadata")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned());
        names.filter(|name| version(name).is_some()).max_by_key(|name| version(name)).unwrap()
    }

    pub fn read(&self, role: &str) -> Value {
        serde_json::from_slice(&fs::read(self.metadata(&self.file_of(role))).unwrap()).unwrap()
    }

    /// Edits a role's contents; signs it and what pins it rightly again.
    pub fn edit(&self, role: &str, edit: impl FnOnce(&mut Value)) {
        let keys = self.keys_of(role);
        self.edit_file(&self.file_of(role), &keys, edit);
        self.repin_but("");
    }

    /// Signs a role's contents with these keys and no other.
    pub fn sign_with(&self, role: &str, keys: &[std::sync::Arc<FileKey>]) {
        self.edit_file(&self.file_of(role), keys, |_| {});
    }

    /// Edits a file and signs it with these keys; the file's name follows its version.
    pub fn edit_file(&self, name: &str, keys: &[std::sync::Arc<FileKey>], edit: impl FnOnce(&mut Value)) {
        let named: Vec<_> = keys.iter().map(|key| (key.clone(), key_id(&public(key)))).collect();
        self.edit_file_as(name, &named, edit);
    }

    /// The same; each key signs under the identifier that is given.
    pub fn edit_file_as(
        &self,
        name: &str,
        keys: &[(std::sync::Arc<FileKey>, String)],
        edit: impl FnOnce(&mut Value),
    ) {
        let mut document: Value = serde_json::from_slice(&fs::read(self.metadata(name)).unwrap()).unwrap();
        edit(&mut document["signed"]);
        let message = canonical(&document["signed"]);
        let signatures = keys.iter().map(|(key, id)| {
            let sig: String = key.sign(&message).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "keyid": id, "sig": sig })
        });
        document["signatures"] = signatures.collect();
        fs::remove_file(self.metadata(name)).unwrap();
        let renamed = match name.split_once('.') {
            Some((version, rest)) if version.parse::<u64>().is_ok() => {
                format!("{}.{rest}", document["signed"]["version"])
            }
            _ => name.to_owned(),
        };
        fs::write(self.metadata(&renamed), document.to_string()).unwrap();
    }

    /// Makes snapshot and timestamp name the files as they are; `but` keeps its signatures.
    pub fn repin_but(&self, but: &str) {
        let pin = |role: &str| {
            let bytes = fs::read(self.metadata(&self.file_of(role))).unwrap();
            let version = self.read(role)["signed"]["version"].clone();
            json!({ "version": version, "length": bytes.len(), "hashes": { "sha256": sha256_hex(&bytes) } })
        };
        if but != "snapshot" && but != "timestamp" {
            self.edit_file(&self.file_of("snapshot"), &self.keys_of("snapshot"), |signed| {
                for (name, meta) in signed["meta"].as_object_mut().unwrap() {
                    let pinned = pin(name.strip_suffix(".json").unwrap());
                    // A pin that a fixture has taken out stays out.
                    for key in ["version", "length", "hashes"] {
                        if meta.get(key).is_some() {
                            meta[key] = pinned[key].clone();
                        }
                    }
                }
            });
        }
        if but != "timestamp" {
            self.edit_file("timestamp.json", &self.keys_of("timestamp"), |signed| {
                signed["meta"]["snapshot.json"] = pin("snapshot");
            });
        }
    }
}

#[derive(Debug)]
struct SharedKey(std::sync::Arc<FileKey>);

impl Signer for SharedKey {
    fn public(&self) -> PublicKey {
        self.0.public()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], lightbox_models::publish::PublishError> {
        self.0.sign(message)
    }
}

/// A key as metadata name it.
pub fn public(key: &FileKey) -> Value {
    json!({ "keytype": "ed25519", "scheme": "ed25519", "keyval": { "public": key.public().to_string() } })
}

/// A key's identifier.
pub fn key_id(key: &Value) -> String {
    sha256_hex(&canonical(key))
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(NOW).unwrap()
}

pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// OLPC canonical JSON, for the ASCII that these fixtures have.
pub fn canonical(value: &Value) -> Vec<u8> {
    let text = match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            let members = sorted.into_iter().map(|(key, value)| {
                format!("{}:{}", Value::from(key.as_str()), String::from_utf8(canonical(value)).unwrap())
            });
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| String::from_utf8(canonical(item)).unwrap());
            format!("[{}]", items.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    };
    text.into_bytes()
}

/// The phantom detector's bundle.
pub fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/phantom-detector/bundle")
}

/// The phantom detector's bundle, packed.
pub fn packed() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.lightbox");
    pack(&reference(), &path, &mut |_| {}).unwrap();
    fs::read(&path).unwrap()
}

/// Where each entry of a packed bundle lies, header and filling included.
pub fn entries(packed: &[u8]) -> Vec<Range<usize>> {
    let mut entries = Vec::new();
    let mut at = 0;
    while packed[at] != 0 {
        let size = std::str::from_utf8(&packed[at + 124..at + 135]).unwrap();
        let size = usize::from_str_radix(size, 8).unwrap().next_multiple_of(512);
        entries.push(at..at + 512 + size);
        at += 512 + size;
    }
    entries
}

/// The packed bundle with one entry's header edited, its sum right again.
pub fn with_entry(index: usize, edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = packed();
    let start = entries(&bytes)[index].start;
    let header = &mut bytes[start..start + 512];
    edit(header);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

pub fn rename(header: &mut [u8], name: &str) {
    header[..100].fill(0);
    header[..name.len()].copy_from_slice(name.as_bytes());
}

pub fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
