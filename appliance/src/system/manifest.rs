//! What is signed of an image besides its files, and whether a box may install it.

use std::fmt;
use std::str::FromStr;

use lightbox_models::trust::{Refusal, Target, Verified};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::store::schema;

/// Below it the repository has a folder for each machine and flavour, and in it one for each version. The role is that
/// of the publisher of images, which can vouch for nothing else.
pub const PUBLISHER: &str = "lightbox-system";
/// The manifest's name in that folder.
pub const MANIFEST: &str = "system.json";
/// The root's file system.
pub const ROOT: &str = "root.erofs";
/// Its hash tree.
pub const VERITY: &str = "root.verity";
/// Kernel, initrd and command line, signed for Secure Boot.
pub const UKI: &str = "lightbox.efi";
/// Longest manifest.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 10;
/// The one form of manifests.
pub const SCHEMA: u32 = 1;

/// A version of the image: three numbers, compared as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no version; remedy: write three numbers, e.g. 1.2.0");
        let number = |part: Option<&str>| {
            let part = part.filter(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
            part.and_then(|part| part.parse::<u32>().ok().filter(|value| value.to_string() == part))
        };
        let mut parts = text.split('.');
        let found = (number(parts.next()), number(parts.next()), number(parts.next()), parts.next());
        let (Some(major), Some(minor), Some(patch), None) = found else { return Err(wrong()) };
        Ok(Version(major, minor, patch))
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Of which schema an image makes the ledger, and how old a release may be that still works on it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The newest schema version that it knows.
    pub schema: usize,
    /// The oldest one whose release may work on that.
    pub oldest: usize,
}

impl Ledger {
    /// This release's.
    pub fn ours() -> Self {
        Ledger { schema: schema::MIGRATIONS.len(), oldest: schema::oldest() }
    }
}

/// The signed manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always 1.
    pub schema: u32,
    /// The image's version.
    pub version: Version,
    /// The machine that it is for, e.g. `x86_64`.
    pub machine: String,
    /// `production`, `test` or `debug`: a box keeps its flavour.
    pub flavour: String,
    /// The number that a machine's floor must not exceed.
    pub rollback: u64,
    /// The root hash of its signed command line.
    pub root_hash: String,
    /// What it does to the ledger.
    pub ledger: Ledger,
}

/// The box as an image must fit it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// The running image's version.
    pub version: Version,
    /// The machine.
    pub machine: String,
    /// The running image's flavour.
    pub flavour: String,
    /// The machine's floor, where it is known.
    pub floor: Option<u64>,
    /// What the running release knows of the ledger.
    pub ledger: Ledger,
    /// Bytes of the partitions for root and hash tree, where they are known.
    pub room: Option<(u64, u64)>,
}

impl Here {
    /// Where its images are.
    pub fn channel(&self) -> String {
        channel(&self.machine, &self.flavour)
    }
}

/// The folder of a machine and flavour.
pub fn channel(machine: &str, flavour: &str) -> String {
    format!("{machine}-{flavour}")
}

/// Why an image is not for this box. The names of clauses are stable: audit records and tests go by them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("image {version}: {what}; remedy: {remedy} [{clause}]")]
pub struct Unfit {
    /// What is broken.
    pub clause: &'static str,
    version: String,
    what: String,
    remedy: &'static str,
}

impl Unfit {
    /// Whether this is what was said of a version earlier: another box, or this one later, may judge otherwise.
    pub fn is_said_in(said: &str, version: &str) -> bool {
        said.starts_with(&format!("image {version}: ")) && said.ends_with(']')
    }
}

impl Manifest {
    /// Reads a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let hash = manifest.root_hash.len() == 64
            && manifest.root_hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match (manifest.schema, hash) {
            (SCHEMA, true) => Ok(manifest),
            (SCHEMA, false) => Err("root_hash is no SHA-256".into()),
            (other, _) => Err(format!("form {other}, known is {SCHEMA}")),
        }
    }

    /// Judges whether a box may install it. What is asked for, and nothing about who signed it.
    pub fn judge(&self, here: &Here, root_bytes: u64, verity_bytes: u64) -> Result<(), Unfit> {
        let unfit = |clause, what: String, remedy| {
            Err(Unfit { clause, version: self.version.to_string(), what, remedy })
        };
        if self.machine != here.machine {
            let what = format!("is for {}, this machine is {}", self.machine, here.machine);
            return unfit("other-machine", what, "ask the publisher for this machine's image");
        }
        if self.flavour != here.flavour {
            let what = format!("is of flavour {}, this box runs {}", self.flavour, here.flavour);
            return unfit("other-flavour", what, "a box keeps its flavour; install the other one anew");
        }
        if self.version <= here.version {
            let what = format!("is not newer than the running {}", here.version);
            return unfit(
                "not-newer",
                what,
                "nothing needs to be done; a fault is mended by a newer version",
            );
        }
        if let Some(floor) = here.floor.filter(|floor| self.rollback < *floor) {
            let what = format!("has the rollback number {}, this machine's floor is {floor}", self.rollback);
            return unfit(
                "below-floor",
                what,
                "ask the publisher for a newer image; this one would not start",
            );
        }
        if self.ledger.schema < here.ledger.oldest {
            let what = format!("does not know this ledger (it knows schema {})", self.ledger.schema);
            return unfit("ledger-too-new", what, "ask the publisher for a newer image");
        }
        if self.ledger.oldest > here.ledger.schema {
            let what = format!(
                "changes the ledger so that only releases from schema {} on work on it, this one knows {}: there would be no way back",
                self.ledger.oldest, here.ledger.schema
            );
            return unfit("no-way-back", what, "install a version between the two first");
        }
        for (name, bytes, room) in [
            ("root", root_bytes, here.room.map(|room| room.0)),
            ("hash tree", verity_bytes, here.room.map(|room| room.1)),
        ] {
            if let Some(room) = room.filter(|room| bytes > *room) {
                let what = format!("its {name} has {bytes} bytes, the slot's partition {room}");
                return unfit(
                    "too-large",
                    what,
                    "ask the publisher for an image of this box's partition sizes",
                );
            }
        }
        Ok(())
    }
}

/// The targets of one version.
#[derive(Clone, Debug)]
pub struct Offered {
    /// Of the manifest.
    pub manifest: Target,
    /// Of the root.
    pub root: Target,
    /// Of the hash tree.
    pub verity: Target,
    /// Of the boot entry.
    pub uki: Target,
}

impl Offered {
    /// The name of a target; `channel` is machine and flavour.
    pub fn name(channel: &str, version: Version, file: &str) -> String {
        format!("vendors/{PUBLISHER}/{channel}/{version}/{file}")
    }

    /// The targets of a version, all of which must be there.
    pub fn of(verified: &Verified, channel: &str, version: Version) -> Result<Self, Refusal> {
        let target = |file| verified.target(&Self::name(channel, version, file)).cloned();
        Ok(Offered {
            manifest: target(MANIFEST)?,
            root: target(ROOT)?,
            verity: target(VERITY)?,
            uki: target(UKI)?,
        })
    }

    /// All files.
    pub fn all(&self) -> [&Target; 4] {
        [&self.manifest, &self.root, &self.verity, &self.uki]
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.all().iter().fold(0, |sum: u64, target| sum.saturating_add(target.length))
    }

    /// All versions that a repository lists.
    pub fn versions(verified: &Verified, channel: &str) -> Vec<Version> {
        let folder = format!("vendors/{PUBLISHER}/{channel}/");
        let mut found: Vec<Version> = verified
            .targets()
            .filter_map(|target| target.name.strip_prefix(&folder)?.strip_suffix(MANIFEST)?.strip_suffix('/'))
            .filter_map(|version| version.parse().ok())
            .collect();
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            schema: 1,
            version: Version(1, 10, 0),
            machine: "x86_64".into(),
            flavour: "test".into(),
            rollback: 4,
            root_hash: "a".repeat(64),
            ledger: Ledger { schema: 9, oldest: 7 },
        }
    }

    fn here() -> Here {
        Here {
            version: Version(1, 9, 3),
            machine: "x86_64".into(),
            flavour: "test".into(),
            floor: Some(4),
            ledger: Ledger { schema: 8, oldest: 7 },
            room: Some((100, 10)),
        }
    }

    #[test]
    fn versions_are_numbers_and_not_texts() {
        assert!("1.10.0".parse::<Version>() > "1.9.3".parse());
        for wrong in
            ["", "1", "1.2", "1.2.3.4", "1.2.x", "1.2.-3", "1.02.3", "1..3", "1.2.99999999999", "v1.2.3"]
        {
            assert!(wrong.parse::<Version>().is_err(), "{wrong}");
        }
        let text = serde_json::to_string(&manifest()).expect("written");
        assert_eq!(Manifest::parse(text.as_bytes()).expect("read"), manifest());
        assert!(Manifest::parse(text.replace("\"schema\":1", "\"schema\":2").as_bytes()).is_err());
        assert!(Manifest::parse(text.replace("aaaa", "zzzz").as_bytes()).is_err());
        assert!(Manifest::parse(b"{}").is_err());
    }

    #[test]
    fn what_does_not_fit_this_box_is_named() {
        assert_eq!(manifest().judge(&here(), 100, 10), Ok(()));
        assert_eq!(manifest().judge(&Here { floor: None, room: None, ..here() }, 999, 999), Ok(()));
        let clause = |here: Here, root| manifest().judge(&here, root, 10).expect_err("refused").clause;
        assert_eq!(clause(Here { machine: "aarch64".into(), ..here() }, 1), "other-machine");
        assert_eq!(clause(Here { flavour: "production".into(), ..here() }, 1), "other-flavour");
        assert_eq!(clause(Here { version: Version(1, 10, 0), ..here() }, 1), "not-newer");
        assert_eq!(clause(Here { version: Version(2, 0, 0), ..here() }, 1), "not-newer");
        assert_eq!(clause(Here { floor: Some(5), ..here() }, 1), "below-floor");
        assert_eq!(clause(Here { ledger: Ledger { schema: 6, oldest: 1 }, ..here() }, 1), "no-way-back");
        assert_eq!(clause(Here { ledger: Ledger { schema: 12, oldest: 10 }, ..here() }, 1), "ledger-too-new");
        assert_eq!(clause(here(), 101), "too-large");
        let said = manifest().judge(&here(), 101, 10).expect_err("refused").to_string();
        assert!(Unfit::is_said_in(&said, "1.10.0"), "{said}");
        assert!(!Unfit::is_said_in(&said, "1.1.0") && !Unfit::is_said_in("the slot writer: [x]", "1.10.0"));
    }
}
