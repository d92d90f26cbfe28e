//! A change that two people sign, one after the other.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use lightbox_models::publish::{
    Addition, Change, Design, FileKey, Holders, Lifetimes, Proposal, PublishError, Publisher, Signer,
};
use lightbox_models::trust::{Delegate, Folder, Known, verify};
use time::{Duration, OffsetDateTime};

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_795_305_600).unwrap()
}

struct Keys {
    all: BTreeMap<&'static str, FileKey>,
}

impl Keys {
    fn new(folder: &Path) -> Keys {
        let names = ["root", "other-root", "targets", "online", "first", "second", "regulatory"];
        Keys {
            all: names.iter().map(|name| (*name, FileKey::generate(&folder.join(name)).unwrap())).collect(),
        }
    }

    fn signers(&self, names: &[&str]) -> Vec<&dyn Signer> {
        names.iter().map(|name| &self.all[*name] as &dyn Signer).collect()
    }

    fn holders(&self, names: &[&str]) -> Holders {
        Holders {
            keys: names.iter().map(|name| self.all[*name].public()).collect(),
            threshold: names.len() as u64,
        }
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    keys: Keys,
    root: Vec<u8>,
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::new(folder.path());
        let design = Design {
            root: keys.holders(&["root"]),
            targets: keys.holders(&["targets"]),
            snapshot: keys.holders(&["online"]),
            timestamp: keys.holders(&["online"]),
            delegates: BTreeMap::from([
                (Delegate::Vendor("acme".into()), keys.holders(&["first", "second"])),
                (Delegate::Regulatory, keys.holders(&["regulatory"])),
            ]),
        };
        let all = keys.signers(&["root", "targets", "online", "first", "second", "regulatory"]);
        let made =
            Publisher::create(&folder.path().join("repo"), &design, &Lifetimes::default(), now(), &all)
                .unwrap();
        let root = made.root().to_owned();
        fs::write(folder.path().join("bundle"), b"a bundle").unwrap();
        Fixture { folder, keys, root }
    }

    fn publisher(&self) -> Publisher {
        Publisher::open(&self.folder.path().join("repo")).unwrap()
    }

    fn addition(&self) -> Change {
        Change {
            add: vec![Addition {
                name: "vendors/acme/x-1.lightbox".into(),
                by: Delegate::Vendor("acme".into()),
                file: self.folder.path().join("bundle"),
                custom: BTreeMap::new(),
            }],
            ..Change::default()
        }
    }

    fn propose(&self, change: &Change, by: &[&str]) -> Proposal {
        let signers = self.keys.signers(by);
        let proposal = Proposal::rehearse(&self.publisher(), change, &Lifetimes::default(), now(), &signers);
        // As it goes from one to the other.
        Proposal::read(proposal.unwrap().to_json().unwrap().as_bytes()).unwrap()
    }

    fn complete(&self, proposal: &Proposal, by: &[&str]) -> Result<(), PublishError> {
        let signers = self.keys.signers(by);
        proposal.complete(&mut self.publisher(), &Lifetimes::default(), &signers, &mut |_, _| {})
    }

    async fn targets(&self) -> Vec<String> {
        let source = Arc::new(Folder::new(self.folder.path().join("repo")));
        let verified =
            verify(source, &self.root, &Known::FirstUse, now() + Duration::days(1), None).await.unwrap();
        verified.targets().map(|target| target.name.clone()).collect()
    }
}

#[tokio::test]
async fn two_people_sign_one_after_the_other_and_a_box_accepts_it() {
    let fixture = Fixture::new();
    let mut proposal = fixture.propose(&fixture.addition(), &["first"]);
    assert_eq!(fixture.targets().await, Vec::<String>::new(), "a proposal changes nothing that a box reads");
    let [message] = proposal.messages() else { panic!("one role is to be signed") };
    assert_eq!((message.keys.len(), message.signatures.len()), (2, 1));
    assert_eq!(message.role, "vendor-acme", "the text itself names no role");
    assert!(message.text.contains("vendors/acme/x-1.lightbox"));

    let early = fixture.complete(&proposal, &["online"]).unwrap_err();
    assert!(matches!(early, PublishError::KeysMissing { have: 1, need: 2, .. }), "{early}");
    assert_eq!(proposal.sign(&fixture.keys.signers(&["regulatory"])).unwrap(), 0, "not asked for");
    assert_eq!(proposal.sign(&fixture.keys.signers(&["second"])).unwrap(), 1);
    assert_eq!(proposal.sign(&fixture.keys.signers(&["second"])).unwrap(), 0, "signed already");
    fixture.complete(&proposal, &["online"]).unwrap();
    assert_eq!(fixture.targets().await, ["vendors/acme/x-1.lightbox"]);
}

#[tokio::test]
async fn signatures_hold_for_what_was_shown_and_nothing_else() {
    let fixture = Fixture::new();
    let proposal = fixture.propose(&fixture.addition(), &["first", "second"]);
    fs::write(fixture.folder.path().join("bundle"), b"another").unwrap();
    let refused = fixture.complete(&proposal, &["online"]).unwrap_err();
    assert!(matches!(refused, PublishError::ProposalStale(_)), "{refused}");
    assert_eq!(fixture.targets().await, Vec::<String>::new());

    // The repository went on: the same signatures are of an older version.
    fs::write(fixture.folder.path().join("bundle"), b"a bundle").unwrap();
    let renew = BTreeSet::from(["vendor-acme".to_owned()]);
    let change = Change { renew, ..Change::default() };
    let signers = fixture.keys.signers(&["first", "second", "online"]);
    fixture.publisher().publish(&change, &Lifetimes::default(), now(), &signers, &mut |_, _| {}).unwrap();
    let refused = fixture.complete(&proposal, &["online"]).unwrap_err();
    assert!(matches!(refused, PublishError::ProposalStale(_)), "{refused}");
    assert!(Proposal::read(b"{}").is_err());
}

#[tokio::test]
async fn a_new_root_is_signed_by_its_holders_in_turn() {
    let fixture = Fixture::new();
    let old = fixture.publisher().design().unwrap();
    let design = Design { root: fixture.keys.holders(&["root", "other-root"]), ..old };
    let change = Change { design: Some(design.clone()), ..Change::default() };
    let mut proposal = fixture.propose(&change, &["root"]);
    assert_eq!(proposal.sign(&fixture.keys.signers(&["other-root"])).unwrap(), 1);
    fixture.complete(&proposal, &["targets", "online"]).unwrap();
    assert_eq!(fixture.publisher().design().unwrap(), design);
    assert_eq!(fixture.targets().await, Vec::<String>::new(), "the box follows from the old root");
}
