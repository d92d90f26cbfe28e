//! The demonstration vendor: keys, a signed repository, plans. Everything that it publishes is not
//! for clinical use by its own manifest; anything else it refuses.

mod plan;
mod sets;
mod versions;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use lightbox_models::acceptance::seal::{Recipient, seal};
use lightbox_models::pack::{self, EXTENSION};
use lightbox_models::plan::Plan;
use lightbox_models::publish::{Addition, Change, Design, FileKey, Holders, Lifetimes, Publisher, Signer};
use lightbox_models::trust::Delegate;
use lightbox_models::{Bundle, Manifest};
use serde_json::json;
use time::OffsetDateTime;

pub use plan::{Duties, plan};
pub use sets::{Set, set};
pub use versions::{label_added, retrained};

/// The vendor's name: its bundles are published below `vendors/lightbox-demo/`.
pub const VENDOR: &str = "lightbox-demo";

const ROLES: [&str; 6] = ["root", "targets", "snapshot", "timestamp", "regulatory", "safety"];

/// What was published of a bundle.
#[derive(Clone, Debug)]
pub struct Published {
    /// The bundle's target.
    pub bundle: String,
    /// Its digest.
    pub digest: String,
    /// Its manifest.
    pub manifest: Manifest,
}

/// A plan that was published, and the acceptance set that it names.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The plan's target.
    pub plan: String,
    /// The target of the set, sealed to the device, where one was named.
    pub sealed_set: Option<String>,
    /// The set, not sealed.
    pub set: Set,
}

/// A bundle that a site can name.
#[derive(Clone, Debug)]
pub struct Added {
    /// The bundle's target.
    pub bundle: String,
    /// What the model's bundles' names begin with: `target` of `[[model]]`.
    pub target: String,
    /// Its plan: `plan` of `[[model]]`.
    pub plan: String,
    /// Its manifest.
    pub manifest: Manifest,
}

/// The demonstration vendor's room: `keys/`, `repository/`, `work/`.
#[derive(Clone, Debug)]
pub struct DemoVendor {
    folder: PathBuf,
}

impl DemoVendor {
    /// Makes keys and an empty repository in a folder, which is made where it is missing.
    pub fn make(folder: &Path, now: OffsetDateTime) -> anyhow::Result<DemoVendor> {
        for part in ["keys", "work"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("making {}", folder.join(part).display()))?;
        }
        let mut holders = BTreeMap::new();
        let mut keys = Vec::new();
        let release = format!("vendor-{VENDOR}");
        for role in ROLES.into_iter().chain([release.as_str()]) {
            let key = FileKey::generate(&folder.join("keys").join(format!("{role}.pem")))?;
            holders.insert(role.to_owned(), Holders { keys: vec![key.public()], threshold: 1 });
            keys.push(key);
        }
        let of = |role: &str| holders.get(role).cloned().ok_or_else(|| anyhow!("no key of {role}"));
        let delegates = [Delegate::Regulatory, Delegate::Safety, Delegate::Vendor(VENDOR.into())];
        let design = Design {
            root: of("root")?,
            targets: of("targets")?,
            snapshot: of("snapshot")?,
            timestamp: of("timestamp")?,
            delegates: delegates
                .into_iter()
                .map(|role| Ok((role.clone(), of(&role.to_string())?)))
                .collect::<anyhow::Result<_>>()?,
        };
        let signers: Vec<&dyn Signer> = keys.iter().map(|key| key as &dyn Signer).collect();
        Publisher::create(&folder.join("repository"), &design, &Lifetimes::default(), now, &signers)?;
        Ok(DemoVendor { folder: folder.to_owned() })
    }

    /// One that was made before.
    pub fn open(folder: &Path) -> anyhow::Result<DemoVendor> {
        let vendor = DemoVendor { folder: folder.to_owned() };
        vendor.root()?;
        Ok(vendor)
    }

    /// The repository's folder.
    pub fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    /// The first root: what a box is given as trusted.
    pub fn root(&self) -> anyhow::Result<Vec<u8>> {
        let path = self.root_path();
        fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))
    }

    /// Where the first root lies.
    pub fn root_path(&self) -> PathBuf {
        self.repository().join("metadata/1.root.json")
    }

    /// The one in a folder; where there is none, or its making was interrupted, it is made.
    pub fn open_or_make(folder: &Path, now: OffsetDateTime) -> anyhow::Result<DemoVendor> {
        if folder.join("repository/metadata/timestamp.json").exists() {
            return DemoVendor::open(folder);
        }
        for part in ["keys", "work", "repository"] {
            let part = folder.join(part);
            if part.exists() {
                fs::remove_dir_all(&part).with_context(|| format!("removing {}", part.display()))?;
            }
        }
        DemoVendor::make(folder, now)
    }

    /// Publishes a bundle, and where it is the first of its model also its plan and its acceptance set, sealed
    /// to the device. What is published already stays as it is.
    pub fn add(
        &self,
        folder: &Path,
        duties: &Duties,
        device: &Recipient,
        now: OffsetDateTime,
    ) -> anyhow::Result<Added> {
        let manifest = Bundle::open(folder)?.manifest().clone();
        let id = &manifest.model.id;
        let (bundle, plan) = (bundle_target(&manifest), plan_target(id));
        let target = format!("vendors/{VENDOR}/{id}");
        let there = Publisher::open(&self.repository())?.targets();
        // The set last: with it, all is there.
        if !there.contains(&bundle) {
            self.publish_bundle(folder, now)?;
        }
        if !there.iter().any(|name| name.starts_with(&format!("{target}/sets/"))) {
            self.publish_plan(folder, duties, Some(device), now)?;
        }
        Ok(Added { bundle, target, plan, manifest })
    }

    /// Packs and publishes a bundle; one that claims to be for clinical use is refused.
    pub fn publish_bundle(&self, folder: &Path, now: OffsetDateTime) -> anyhow::Result<Published> {
        let bundle = Bundle::open(folder)?;
        let model = &bundle.manifest().model;
        if !model.not_for_clinical_use {
            bail!(
                "{}: model.not_for_clinical_use is false; remedy: sign it with the vendor's own keys, not with the demonstration's",
                folder.display()
            );
        }
        let file = self.folder.join("work").join(format!("{}-{}.{EXTENSION}", model.id, model.release));
        pack::pack(folder, &file, &mut |_| {})?;
        let target = bundle_target(bundle.manifest());
        let custom = BTreeMap::from([
            ("kind".to_owned(), json!("bundle")),
            ("model".to_owned(), json!(model.id)),
            ("release".to_owned(), json!(model.release)),
            ("version".to_owned(), json!(model.version)),
            ("digest".to_owned(), json!(bundle.digest())),
        ]);
        self.publish(target.clone(), Delegate::Vendor(VENDOR.into()), file, custom, now)?;
        Ok(Published {
            bundle: target,
            digest: bundle.digest().to_owned(),
            manifest: bundle.manifest().clone(),
        })
    }

    /// Publishes the demonstration plan of a bundle, which becomes its baseline; and the plan's
    /// acceptance set sealed to a device, where one is named.
    pub fn publish_plan(
        &self,
        folder: &Path,
        duties: &Duties,
        device: Option<&Recipient>,
        now: OffsetDateTime,
    ) -> anyhow::Result<Planned> {
        let bundle = Bundle::open(folder)?;
        let set = set(&bundle)?;
        let plan = plan(&bundle, &set, duties, now)?;
        let text = toml::to_string(&plan)?;
        let file = self.folder.join("work").join(format!("{}-plan.toml", plan.plan.model));
        fs::write(&file, format!("# A demonstration's plan. Not for clinical use.\n{text}"))
            .with_context(|| format!("writing {}", file.display()))?;
        Plan::read(&file, &fs::read_to_string(&file)?)?;
        let target = plan_target(&plan.plan.model);
        let custom = BTreeMap::from([
            ("kind".to_owned(), json!("plan")),
            ("model".to_owned(), json!(plan.plan.model)),
            ("plan".to_owned(), json!(plan.plan.id)),
            ("version".to_owned(), json!(plan.plan.version)),
        ]);
        self.publish(target.clone(), Delegate::Regulatory, file, custom, now)?;
        let mut sealed_set = None;
        if let Some(device) = device {
            let file = self.folder.join("work").join(format!("{}.set.age", plan.plan.model));
            let out = fs::File::create(&file).with_context(|| format!("writing {}", file.display()))?;
            let random = |bytes: &mut [u8]| {
                getrandom::fill(bytes).map_err(|error| std::io::Error::other(error.to_string()))
            };
            seal(set.bytes.as_slice(), out, std::slice::from_ref(device), random)?;
            let name = format!("vendors/{VENDOR}/{}/sets/{}.age", plan.plan.model, set.digest);
            let custom = BTreeMap::from([
                ("kind".to_owned(), json!("acceptance_set")),
                ("model".to_owned(), json!(plan.plan.model)),
                ("set_sha256".to_owned(), json!(set.digest)),
            ]);
            self.publish(name.clone(), Delegate::Vendor(VENDOR.into()), file, custom, now)?;
            sealed_set = Some(name);
        }
        Ok(Planned { plan: target, sealed_set, set })
    }

    /// Publishes a file; every key is at hand.
    pub fn publish(
        &self,
        name: String,
        by: Delegate,
        file: PathBuf,
        custom: BTreeMap<String, serde_json::Value>,
        now: OffsetDateTime,
    ) -> anyhow::Result<()> {
        let names = ["snapshot".to_owned(), "timestamp".to_owned(), by.to_string()];
        let key = |name: &String| FileKey::load(&self.folder.join("keys").join(format!("{name}.pem")));
        let keys = names.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        let signers: Vec<&dyn Signer> = keys.iter().map(|key| key as &dyn Signer).collect();
        let change = Change { add: vec![Addition { name, by, file, custom }], ..Change::default() };
        let mut publisher = Publisher::open(&self.repository())?;
        publisher.publish(&change, &Lifetimes::default(), now, &signers, &mut |_, _| {})?;
        Ok(())
    }
}

fn bundle_target(manifest: &Manifest) -> String {
    format!("vendors/{VENDOR}/{}-{}.{EXTENSION}", manifest.model.id, manifest.model.release)
}

fn plan_target(model: &str) -> String {
    format!("plans/{VENDOR}/{model}.toml")
}

#[cfg(test)]
mod tests;
