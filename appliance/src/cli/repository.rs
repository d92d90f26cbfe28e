//! `lightbox repository`: the signed repository that boxes fetch from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use lightbox_models::acceptance::seal::Recipient;
use lightbox_models::pack::EXTENSION;
use lightbox_models::publish::{
    Change, Design, FileKey, Holders, Lifetimes, Message, Proposal, PublicKey, Publisher, Signer as _,
};
use lightbox_models::trust::Delegate;
use serde_json::Value;

use super::SiteArg;
use super::place::Place;
use super::print::plain;
use super::progress::Bar;
use crate::clock::{Clock as _, SystemClock};
use crate::demo::vendor::{DemoVendor, Duties};
use crate::update::acceptance_secret;
use crate::vendor::keys::{KeyRing, public};

/// Make a signed repository of models, change its keys, keep its dates (for vendors of models).
///
/// A repository (TUF) is a folder of plain files: copy it to a stick, or serve it by any HTTPS server. Its roles:
/// root (who signs what; offline, several people), targets (who publishes what), vendor-NAME (bundles),
/// regulatory (plans, with keys that sign nothing else), safety (recalls), snapshot and timestamp (that it is whole and
/// new; signed at every change).
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a new, empty repository.
    ///
    /// With --make-keys every role gets new keys in that folder: to try things, or to begin with. In earnest each
    /// holder makes a key (`lightbox keys new`) and gives you its public half, for --holder; who makes the repository
    /// needs the private keys of root, targets and all other roles this once.
    ///
    /// Example: lightbox repository new repo --vendor acme --make-keys keys --threshold root=2
    New {
        /// The folder.
        folder: PathBuf,
        /// A vendor that may publish; may be repeated.
        #[arg(long, value_name = "NAME")]
        vendor: Vec<String>,
        /// Make the keys of all roles that have no --holder, as KEYS/ROLE.pem.
        #[arg(long, value_name = "KEYS")]
        make_keys: Option<PathBuf>,
        #[command(flatten)]
        holders: HolderArgs,
        /// A private key: a PEM file, a folder of such, or a pkcs11: URI; may be repeated.
        #[arg(long, value_name = "KEY")]
        key: Vec<String>,
    },
    /// Replace the keys of roles, or add a vendor.
    ///
    /// New keys of root, targets, snapshot or timestamp come by a new root, signed by the old and the new root keys; boxes
    /// follow it by themselves. Who holds the keys of vendor-NAME, regulatory and safety, the targets role says: then
    /// the root stays as it is, and the key of targets signs.
    ///
    /// Give the old keys of targets, snapshot and timestamp too, as far as you have them: then boxes accept the
    /// repository at every instant of the change.
    ///
    /// Example: lightbox repository rotate --repository repo --holder timestamp=new.pem --key keys --key new.pem
    Rotate {
        #[command(flatten)]
        holders: HolderArgs,
        #[command(flatten)]
        signing: Signing,
    },
    /// Sign for a later date, before boxes refuse what is past it. Snapshot and timestamp always; others by --role.
    ///
    /// Example: lightbox repository renew --repository repo --key keys/snapshot.pem --key keys/timestamp.pem
    Renew {
        /// A further role: root, targets, vendor-NAME, regulatory, safety; may be repeated.
        #[arg(long, value_name = "ROLE")]
        role: Vec<String>,
        #[command(flatten)]
        signing: Signing,
    },
    /// Make a demonstration: a vendor with keys, a repository, and for each bundle a plan and an acceptance set
    /// that is sealed to one box.
    ///
    /// It signs only bundles that say of themselves that they are not for clinical use, and keeps every key in
    /// the folder: whoever has the folder can sign. Prints what the site file needs. A bundle that is given
    /// again with another release becomes an update, which the plan of the first one judges.
    ///
    /// Example: lightbox repository demo models --site site.toml models/reference/phantom-detector/bundle
    Demo {
        /// The folder: made if it is missing, else added to; what is published already stays as it is.
        folder: PathBuf,
        /// The site file of the box. Its data folder gets the device's key if the box has never been started.
        #[command(flatten)]
        site: SiteArg,
        /// Folders of bundles.
        #[arg(required = true)]
        bundle: Vec<PathBuf>,
    },
    /// Sign a proposal that another key holder made with --propose.
    ///
    /// Example: lightbox repository sign plan-2.proposal --key regulatory-2.pem
    Sign(SignArgs),
    /// Publish a proposal that has its signatures. The files that it names must lie where they lay when it was made.
    ///
    /// Example: lightbox repository complete plan-2.proposal --repository repo --key snapshot.pem --key timestamp.pem
    Complete {
        /// The proposal.
        proposal: PathBuf,
        /// The repository's folder.
        #[arg(long, value_name = "DIR")]
        repository: PathBuf,
        /// The keys of snapshot and timestamp, and of who has not signed yet; may be repeated.
        #[arg(long, value_name = "KEY")]
        key: Vec<String>,
    },
}

type Keys = BTreeMap<String, Vec<PublicKey>>;
type Thresholds = BTreeMap<String, u64>;

/// Who holds a role's keys.
#[derive(Clone, Debug, clap::Args)]
struct HolderArgs {
    /// ROLE=KEY[,KEY...]: the role's keys, each as 64 hex digits, a PEM file or a pkcs11: URI; may be repeated.
    #[arg(long, value_name = "ROLE=KEYS")]
    holder: Vec<String>,
    /// ROLE=NUMBER: how many of its keys must sign [default: 1]; may be repeated.
    #[arg(long, value_name = "ROLE=NUMBER")]
    threshold: Vec<String>,
}

impl HolderArgs {
    fn read(&self) -> anyhow::Result<(Keys, Thresholds)> {
        let mut holders = BTreeMap::new();
        for given in &self.holder {
            let (role, keys) = pair("--holder", given)?;
            let keys = keys.split(',').map(public).collect::<Result<Vec<_>, _>>();
            holders.insert(role, keys.with_context(|| format!("--holder {given}"))?);
        }
        let mut thresholds = BTreeMap::new();
        for given in &self.threshold {
            let (role, number) = pair("--threshold", given)?;
            let number = number.parse().map_err(|_| anyhow!("--threshold {given}: not a number"))?;
            thresholds.insert(role, number);
        }
        Ok((holders, thresholds))
    }
}

fn pair<'a>(option: &str, given: &'a str) -> anyhow::Result<(String, &'a str)> {
    let (role, value) =
        given.split_once('=').ok_or_else(|| anyhow!("{option} {given}: remedy: write ROLE=..."))?;
    let known =
        ["root", "targets", "snapshot", "timestamp"].contains(&role) || role.parse::<Delegate>().is_ok();
    if !known {
        bail!(
            "{option} {given}: no such role; remedy: root, targets, snapshot, timestamp, vendor-NAME, regulatory or safety"
        );
    }
    Ok((role.to_owned(), value))
}

/// Where to publish, and by whose signatures.
#[derive(Clone, Debug, clap::Args)]
pub struct Signing {
    /// The repository's folder.
    #[arg(long, value_name = "DIR")]
    pub repository: PathBuf,
    /// A private key: a PEM file, a folder of such, or a pkcs11: URI; may be repeated.
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Change nothing: write what is to be signed to FILE, signed with the given keys, for the other holders.
    #[arg(long, value_name = "FILE")]
    propose: Option<PathBuf>,
}

impl Signing {
    /// Where a file lies that is made for this change: beside the proposal, which names it, or for the while in the
    /// repository's folder.
    pub fn kept_beside(&self, name: &str) -> PathBuf {
        match &self.propose {
            Some(proposal) => proposal.with_file_name(name),
            None => self.repository.join(format!(".{name}")),
        }
    }

    /// Whether the change is proposed only.
    pub fn is_proposal(&self) -> bool {
        self.propose.is_some()
    }

    /// Publishes a change, or proposes it.
    pub fn publish(&self, change: &Change, what: &str) -> anyhow::Result<()> {
        let ring = KeyRing::open(&self.key)?;
        let mut publisher = Publisher::open(&self.repository)?;
        let (lifetimes, now) = (Lifetimes::default(), SystemClock.now());
        if let Some(path) = &self.propose {
            let proposal = Proposal::rehearse(&publisher, change, &lifetimes, now, &ring.signers())?;
            save(path, &proposal)?;
            describe(&proposal)?;
            println!(
                "{}: proposed, not published; next: the other holders sign by `lightbox {} sign {} --key KEY`, then whoever has snapshot and timestamp runs `lightbox repository complete {} --repository {}`",
                path.display(),
                if change.add.iter().any(|added| added.name.ends_with(EXTENSION)) {
                    "bundle"
                } else {
                    "repository"
                },
                path.display(),
                path.display(),
                self.repository.display()
            );
            return Ok(());
        }
        let mut bar = Bar::new("publishing");
        publisher
            .publish(change, &lifetimes, now, &ring.signers(), &mut |done, total| bar.at(done, total))?;
        bar.finish();
        println!("{}: published {what}", self.repository.display());
        Ok(())
    }
}

/// What is signed, and by which keys.
#[derive(Clone, Debug, clap::Args)]
pub struct SignArgs {
    /// The proposal; it gets the signatures.
    proposal: PathBuf,
    /// A private key: a PEM file, a folder of such, or a pkcs11: URI; may be repeated.
    #[arg(long, value_name = "KEY", required = true)]
    key: Vec<String>,
}

impl SignArgs {
    /// Shows what is to be signed, and signs it.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let mut proposal = read(&self.proposal)?;
        let ring = KeyRing::open(&self.key)?;
        let added = proposal.sign(&ring.signers())?;
        describe(&proposal)?;
        if added == 0 {
            bail!(
                "{}: these keys are not asked for, or have signed already; remedy: give another holder's key",
                self.proposal.display()
            );
        }
        save(&self.proposal, &proposal)?;
        println!("{}: {added} signatures added", self.proposal.display());
        Ok(ExitCode::SUCCESS)
    }
}

fn read(path: &Path) -> anyhow::Result<Proposal> {
    let bytes = fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Proposal::read(&bytes).with_context(|| format!("{}", path.display()))
}

fn save(path: &Path, proposal: &Proposal) -> anyhow::Result<()> {
    fs::write(path, proposal.to_json()?).with_context(|| format!("{}: cannot be written", path.display()))
}

/// Says what is signed: a holder must not sign what is not shown.
fn describe(proposal: &Proposal) -> anyhow::Result<()> {
    for message in proposal.messages() {
        let Message { role, text, keys, signatures } = message;
        let content: Value =
            serde_json::from_str(text).context("a text of the proposal is not JSON: do not sign it")?;
        let (version, expires) = (&content["version"], &content["expires"]);
        let kind = if role.is_empty() { content["_type"].as_str().unwrap_or_default() } else { role };
        println!(
            "{}",
            plain(&format!(
                "{kind} version {version}, expires {expires}: {} of the {} keys that may sign have",
                signatures.len(),
                keys.len()
            ))
        );
        for (name, target) in content["targets"].as_object().into_iter().flatten() {
            println!(
                "{}",
                plain(&format!(
                    "  {name}, {} bytes, SHA-256 {}",
                    target["length"], target["hashes"]["sha256"]
                ))
            );
        }
        for (role, keys) in content["roles"].as_object().into_iter().flatten() {
            println!(
                "{}",
                plain(&format!(
                    "  {role}: {} of {} keys",
                    keys["threshold"],
                    keys["keyids"].as_array().map_or(0, Vec::len)
                ))
            );
        }
        for role in content["delegations"]["roles"].as_array().into_iter().flatten() {
            println!(
                "{}",
                plain(&format!(
                    "  {}: {} of {} keys",
                    role["name"],
                    role["threshold"],
                    role["keyids"].as_array().map_or(0, Vec::len)
                ))
            );
        }
    }
    Ok(())
}

impl Args {
    /// Runs the verb.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::New { folder, vendor, make_keys, holders, key } => {
                new(&folder, &vendor, make_keys.as_deref(), &holders, &key)?;
            }
            Verb::Rotate { holders, signing } => {
                let (holders, thresholds) = holders.read()?;
                let old = Publisher::open(&signing.repository)?.design()?;
                let design = changed(old, holders, &thresholds)?;
                signing.publish(&Change { design: Some(design), ..Change::default() }, "new keys")?;
            }
            Verb::Renew { role, signing } => {
                for role in &role {
                    pair("--role", &format!("{role}="))?;
                }
                let renew: BTreeSet<String> = role.into_iter().collect();
                signing.publish(&Change { renew, ..Change::default() }, "new dates")?;
            }
            Verb::Demo { folder, site, bundle } => demonstrate(&folder, &site, &bundle)?,
            Verb::Sign(args) => return args.run(),
            Verb::Complete { proposal, repository, key } => {
                let (given, ring) = (read(&proposal)?, KeyRing::open(&key)?);
                let mut publisher = Publisher::open(&repository)?;
                let mut bar = Bar::new("publishing");
                given.complete(
                    &mut publisher,
                    &Lifetimes::default(),
                    &ring.signers(),
                    &mut |done, total| bar.at(done, total),
                )?;
                bar.finish();
                println!("{}: published what {} says", repository.display(), proposal.display());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn demonstrate(folder: &Path, site: &SiteArg, bundles: &[PathBuf]) -> anyhow::Result<()> {
    let place = Place::open(site)?;
    let recipient = Recipient::of(&acceptance_secret(&place.identity_before_the_first_start()?))?;
    let now = SystemClock.now();
    let vendor = DemoVendor::open_or_make(folder, now)?;
    let mut udi_di = std::collections::BTreeSet::new();
    let mut models = String::new();
    for bundle in bundles {
        let added = vendor.add(bundle, &Duties::default(), &recipient, now)?;
        println!("{}: published as {}", bundle.display(), added.bundle);
        udi_di.extend(added.manifest.device.udi_di.iter().cloned());
        models += &format!(
            "\n[[model]]\nname = {:?}\ntarget = {:?}\nplan = {:?}\n",
            added.manifest.model.id, added.target, added.plan
        );
    }
    let udi_di: Vec<String> = udi_di.into_iter().collect();
    println!(
        "\nThe site file needs (names of models are yours to choose):\n\n[appliance]\nudi_di = {:?}\n\n[updates]\nroot = {:?}\nrepository = {:?}\ncheck_minutes = 60\n{models}",
        udi_di.join(" or "),
        vendor.root_path(),
        vendor.repository(),
    );
    Ok(())
}

fn new(
    folder: &Path,
    vendors: &[String],
    make_keys: Option<&Path>,
    holders: &HolderArgs,
    keys: &[String],
) -> anyhow::Result<()> {
    if folder.join("metadata/timestamp.json").exists() {
        bail!(
            "{}: exists; remedy: give another folder, or change this one with `repository rotate`",
            folder.display()
        );
    }
    let (mut holders, thresholds) = holders.read()?;
    let mut ring = KeyRing::open(keys)?;
    let mut roles: Vec<String> =
        ["root", "targets", "snapshot", "timestamp", "regulatory", "safety"].map(str::to_owned).into();
    for vendor in vendors {
        let role = format!("vendor-{vendor}");
        pair("--vendor", &format!("{role}="))?;
        roles.push(role);
    }
    roles.extend(holders.keys().filter(|role| !roles.contains(role)).cloned().collect::<Vec<_>>());
    if let Some(into) = make_keys {
        fs::create_dir_all(into).with_context(|| format!("--make-keys {}", into.display()))?;
        for role in &roles {
            if holders.contains_key(role) {
                continue;
            }
            let count = thresholds.get(role).copied().unwrap_or(1).clamp(1, 16);
            let mut made = Vec::new();
            for number in 1..=count {
                let name = if count == 1 { format!("{role}.pem") } else { format!("{role}-{number}.pem") };
                let path = into.join(name);
                made.push(FileKey::generate(&path)?.public());
                ring.add(&path.to_string_lossy())?;
                println!("{}: new key of {role}", path.display());
            }
            holders.insert(role.clone(), made);
        }
    }
    let of = |role: &str| {
        let keys = holders.get(role).cloned().ok_or_else(|| {
            anyhow!(
                "{role} has no keys; remedy: --holder {role}=KEY, or --make-keys KEYS for all that have none"
            )
        })?;
        Ok::<_, anyhow::Error>(Holders { keys, threshold: thresholds.get(role).copied().unwrap_or(1) })
    };
    let delegates = roles.iter().filter_map(|role| Some((role, role.parse::<Delegate>().ok()?)));
    let design = Design {
        root: of("root")?,
        targets: of("targets")?,
        snapshot: of("snapshot")?,
        timestamp: of("timestamp")?,
        delegates: delegates
            .map(|(role, delegate)| Ok((delegate, of(role)?)))
            .collect::<anyhow::Result<_>>()?,
    };
    Publisher::create(folder, &design, &Lifetimes::default(), SystemClock.now(), &ring.signers())?;
    println!(
        "{}: made; give each box {} as the root to trust, by another way than the repository's",
        folder.display(),
        folder.join("metadata/1.root.json").display()
    );
    Ok(())
}

fn changed(
    mut design: Design,
    mut holders: BTreeMap<String, Vec<PublicKey>>,
    thresholds: &BTreeMap<String, u64>,
) -> anyhow::Result<Design> {
    let mut change = |role: &str, known: &mut Holders| {
        if let Some(keys) = holders.remove(role) {
            known.keys = keys;
            known.threshold = 1;
        }
        if let Some(threshold) = thresholds.get(role) {
            known.threshold = *threshold;
        }
    };
    change("root", &mut design.root);
    change("targets", &mut design.targets);
    change("snapshot", &mut design.snapshot);
    change("timestamp", &mut design.timestamp);
    for (role, known) in &mut design.delegates {
        change(&role.to_string(), known);
    }
    for (role, keys) in holders {
        let delegate = role.parse().map_err(|()| anyhow!("--holder {role}: no such role"))?;
        let threshold = thresholds.get(&role).copied().unwrap_or(1);
        design.delegates.insert(delegate, Holders { keys, threshold });
    }
    Ok(design)
}
