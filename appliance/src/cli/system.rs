//! `lightbox system`: the firmware image that runs, the one that comes next, and what people decide of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::{Parser, Subcommand};
use lightbox_bootstrap::boot_entry::{self, EntryName};
use lightbox_bootstrap::slot::uki::Uki;
use lightbox_bootstrap::slot::{own_disk, running_root_hash, verity};
use lightbox_models::publish::{Addition, Change, Publisher};
use lightbox_models::trust::Delegate;
use serde_json::json;

use super::SiteArg;
use super::place::{Place as SitePlace, who};
use super::print::{plain, print_json, print_table};
use super::repository::Signing;
use crate::clock::{Clock as _, SystemClock, utc_text};
use crate::store::system::{self, State, Version};
use crate::system::System;
use crate::system::manifest::{self, Ledger, MANIFEST, Manifest, Offered, PUBLISHER};
use crate::system::orders::{Orders, STATE};
use crate::system::slot::Place;

/// How long `check` waits for the daemon.
const CHECK_WAIT: Duration = Duration::from_secs(120);

/// Shows the firmware image that runs, finds newer ones, and has one installed.
///
/// An image comes from a signed repository (`[system]` of the site file: a folder, a stick with the label LIGHTBOX, a
/// mirror in the hospital). It is checked whole before anything is written, fetched, written into the slot that does not run,
/// read back, and started in the window that the site names, when no study is in flight. If it does not pass the health gate,
/// the box comes back by itself, says so, and does not try that image again until somebody asks.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What runs, what was offered, where each image stands, and why.
    Status {
        #[command(flatten)]
        site: SiteArg,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Has the running daemon look at the repository now, and waits for what comes of it. Nothing is installed by it.
    #[command(
        after_help = "Examples:\n  lightbox system check --by \"A. Meyer\"\n  lightbox system check --by \"A. Meyer\" --override-dates \"stick of last year; no network; clock checked by hand\""
    )]
    Check {
        #[command(flatten)]
        site: SiteArg,
        /// Who asks.
        #[arg(long, value_name = "NAME")]
        by: String,
        /// Take metadata past their date, or with the clock behind: say why. Signatures and versions are checked all
        /// the same.
        #[arg(long, value_name = "WHY")]
        override_dates: Option<String>,
    },
    /// Has an offered image installed: the newest, or the one that is named. Also one that the box came back from.
    ///
    /// The box fetches it, writes it into its other slot, and restarts in its window when no study is in flight.
    #[command(
        after_help = "Examples:\n  lightbox system install --by \"A. Meyer\"\n  lightbox system install 1.4.0 --by \"A. Meyer\" --now"
    )]
    Install {
        #[command(flatten)]
        site: SiteArg,
        /// The version [default: the newest that was offered].
        #[arg(id = "image", value_name = "VERSION")]
        version: Option<manifest::Version>,
        /// Who asks.
        #[arg(long, value_name = "NAME")]
        by: String,
        /// Do not wait for the window. Studies in flight still finish first, for `system.drain_minutes` at most.
        #[arg(long)]
        now: bool,
    },
    /// Puts a built image into a signed repository (for publishers of images).
    ///
    /// Version, flavour, rollback number, root hash and the ledger's schema are read from the signed boot entry itself.
    /// The repository is made by `lightbox repository new REPO --vendor lightbox-system`; the image carries its root.
    #[command(
        after_help = "Example:\n  lightbox system publish --root-fs root.erofs --hash-tree root.verity --uki lightbox_1.4.0.efi \\\n      --repository images --key keys/vendor-lightbox-system.pem --key keys/snapshot.pem --key keys/timestamp.pem"
    )]
    Publish {
        /// The root's file system.
        #[arg(long, value_name = "FILE")]
        root_fs: PathBuf,
        /// Its hash tree.
        #[arg(long, value_name = "FILE")]
        hash_tree: PathBuf,
        /// Kernel, initrd and command line, signed for Secure Boot.
        #[arg(long, value_name = "FILE")]
        uki: PathBuf,
        #[command(flatten)]
        signing: Signing,
    },
    /// What this program does to a ledger: its schema, and the oldest one whose release can live with it. The image's
    /// build writes it into the image.
    LedgerSchema,
    /// Carries out the daemon's order: writes the staged image into the slot that does not run. The image's own unit
    /// runs this, as root.
    WriteSlot(WriteSlot),
}

#[derive(Debug, clap::Args)]
struct WriteSlot {
    /// The daemon's folder of orders.
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/lightbox/system")]
    folder: PathBuf,
    /// Where to answer, and to keep the record of versions seen.
    #[arg(long, value_name = "FOLDER", default_value = STATE)]
    state: PathBuf,
    /// The root of trust in images.
    #[arg(long, value_name = "FILE", default_value = "/usr/share/lightbox/system-root.json")]
    root: PathBuf,
    /// Where the EFI system partition is mounted.
    #[arg(long, value_name = "FOLDER", default_value = "/efi")]
    esp: PathBuf,
    /// The disk [default: the one that the running root lies on].
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// The running boot entry [default: as the boot loader says].
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// The running root hash [default: as the kernel was told].
    #[arg(long, value_name = "HASH")]
    running: Option<String>,
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let out = &mut std::io::stdout().lock();
        match self.command {
            Command::Status { site, json } => status(out, &SitePlace::open(&site)?, json)?,
            Command::Check { site, by, override_dates } => {
                return check(out, &SitePlace::open(&site)?, &by, override_dates);
            }
            Command::Install { site, version, by, now } => {
                install(out, &SitePlace::open(&site)?, version, &by, now)?;
            }
            Command::Publish { root_fs, hash_tree, uki, signing } => {
                publish(&root_fs, &hash_tree, &uki, &signing)?;
            }
            Command::LedgerSchema => {
                let ours = Ledger::ours();
                writeln!(out, "{}/{}", ours.schema, ours.oldest)?;
            }
            Command::WriteSlot(args) => writeln!(out, "written: {}", args.run()?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl WriteSlot {
    fn run(self) -> anyhow::Result<String> {
        let here = System::running().and_then(|system| system.here());
        let here = here.context("this system is no image of ours; remedy: run it on a box")?;
        let entry = match &self.entry {
            Some(name) => {
                EntryName::parse(&format!("{name}.efi")).ok_or_else(|| anyhow!("--entry {name}: no entry"))?
            }
            None => boot_entry::booted(Path::new("/sys/firmware/efi/efivars"))?,
        };
        let running = match self.running {
            Some(hash) => hash,
            None => running_root_hash()?,
        };
        let disk = match self.disk {
            Some(disk) => disk,
            None => Path::new("/dev").join(own_disk::own_disk(Path::new("/sys"))?),
        };
        let place = Place { disk, esp: self.esp, running, entry, root: self.root, here };
        let orders = Orders::new(&self.folder, &self.state);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(place.carry_out(&orders, SystemClock.now()))
    }
}

fn person(by: &str) -> anyhow::Result<String> {
    if by.trim().is_empty() || by.len() > 128 {
        bail!("--by: name the person who decides, at most 128 bytes");
    }
    Ok(plain(by.trim()))
}

fn status(out: &mut impl Write, place: &SitePlace, json: bool) -> anyhow::Result<()> {
    let running = System::running();
    let reader = place.reader()?;
    let (trust, versions) = (system::trust(&reader)?, system::versions(&reader)?);
    let here = running.as_ref().and_then(System::here);
    if json {
        let running = here.as_ref().map(|here| {
            json!({
                "version": here.version, "flavour": here.flavour, "machine": here.machine, "floor": here.floor,
                "ledger": here.ledger,
            })
        });
        return print_json(out, &json!({ "running": running, "repository": trust, "images": versions }));
    }
    match &here {
        None => {
            writeln!(out, "This machine was not started from a firmware image: it takes no updates of one.")?
        }
        Some(here) => {
            let name = running.map(|system| system.pretty_name).unwrap_or_default();
            let floor = here.floor.map_or("not known".to_owned(), |floor| floor.to_string());
            writeln!(out, "Running {}, rollback floor {floor}.", plain(&name))?;
        }
    }
    let system = &place.site.file.system;
    match &trust {
        None if system.repository.is_none() && system.mirror.is_none() => {
            writeln!(out, "The site file names no repository of images ([system]).")?;
        }
        None => writeln!(out, "The repository has not been looked at yet; see `lightbox system check`.")?,
        Some(trust) => {
            let at = trust.checked_at.map(utc_text).unwrap_or_default();
            match trust.problem.is_empty() {
                true => writeln!(out, "Repository verified at {at}.")?,
                false => writeln!(out, "Repository REFUSED at {at}: {}", plain(&trust.problem))?,
            }
        }
    }
    let rows: Vec<Vec<String>> = versions
        .iter()
        .map(|one| {
            vec![
                one.version.clone(),
                one.state.as_str().to_owned(),
                utc_text(one.since),
                one.asked_by.clone(),
                one.note.clone(),
            ]
        })
        .collect();
    print_table(out, &["IMAGE", "STATE", "SINCE", "ASKED BY", "WHY"], &rows)?;
    Ok(())
}

fn check(
    out: &mut impl Write,
    place: &SitePlace,
    by: &str,
    override_dates: Option<String>,
) -> anyhow::Result<ExitCode> {
    let (person, account) = (person(by)?, who().operator);
    if override_dates.as_ref().is_some_and(|why| why.trim().is_empty()) {
        bail!("--override-dates: say why metadata past their date are to be taken");
    }
    let ledger = place.ledger()?;
    let id = ledger.write_blocking(move |writer| {
        system::ask_check(writer, &person, &account, override_dates.as_deref())
    })?;
    let until = Instant::now() + CHECK_WAIT;
    loop {
        if let Some(outcome) = ledger.read_blocking(|reader| system::request_outcome(reader, id))? {
            writeln!(out, "{}", plain(&outcome))?;
            status(out, place, false)?;
            return Ok(if outcome == "verified" { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if Instant::now() > until {
            bail!(
                "the daemon has not looked yet: it does not run, is fetching an image, or was not started from a firmware image; see `lightbox system status`"
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn install(
    out: &mut impl Write,
    place: &SitePlace,
    version: Option<manifest::Version>,
    by: &str,
    now: bool,
) -> anyhow::Result<()> {
    let (person, account) = (person(by)?, who().operator);
    let ledger = place.ledger()?;
    let versions = ledger.read_blocking(system::versions)?;
    let found = match version {
        Some(version) => versions.iter().rfind(|one| one.manifest.version == version),
        None => versions
            .iter()
            .filter(|one| matches!(one.state, State::Offered) || one.state.is_under_way())
            .max_by_key(|one| one.manifest.version),
    };
    let found: &Version = found.ok_or_else(|| {
        let known: Vec<&str> = versions.iter().map(|one| one.version.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        anyhow!("no such image is offered (seen: {known}); remedy: `lightbox system check --by NAME` looks for one")
    })?;
    let version = found.version.clone();
    let asked = version.clone();
    ledger.write_blocking(move |writer| system::ask_install(writer, &asked, &person, &account, now))?;
    writeln!(
        out,
        "Image {version} will be installed; `lightbox system status` and the administration page show how far it is."
    )?;
    Ok(())
}

fn publish(root_fs: &Path, hash_tree: &Path, uki: &Path, signing: &Signing) -> anyhow::Result<()> {
    for (option, path) in [("--root-fs", root_fs), ("--hash-tree", hash_tree), ("--uki", uki)] {
        if !path.is_file() {
            bail!("{option} {}: there is no such file; remedy: `just image` makes it", path.display());
        }
    }
    let said = Uki::read(uki)?;
    verity::check(root_fs, hash_tree, &said.root_hash)?;
    let name = |key: &str| {
        said.names
            .get(key)
            .cloned()
            .with_context(|| format!("{}: its os-release has no {key}", uki.display()))
    };
    let ledger = name("LIGHTBOX_LEDGER")?;
    let ledger = ledger.split_once('/').and_then(|(schema, oldest)| {
        Some(Ledger { schema: schema.parse().ok()?, oldest: oldest.parse().ok()? })
    });
    let version: manifest::Version = said.version().parse().map_err(|why: String| anyhow!(why))?;
    let manifest = Manifest {
        schema: manifest::SCHEMA,
        version,
        machine: name("LIGHTBOX_MACHINE")?,
        flavour: name("VARIANT_ID")?,
        rollback: said.rollback(),
        root_hash: said.root_hash.clone(),
        ledger: ledger.context("LIGHTBOX_LEDGER of its os-release is not SCHEMA/OLDEST")?,
    };
    // Before anything is left in its folder.
    drop(Publisher::open(&signing.repository)?);
    let scratch = signing.repository.join(format!(".system-{version}.json"));
    std::fs::write(&scratch, serde_json::to_vec_pretty(&manifest)?)
        .with_context(|| scratch.display().to_string())?;
    let by = Delegate::Vendor(PUBLISHER.to_owned());
    let files = [
        (MANIFEST, scratch.as_path()),
        (manifest::ROOT, root_fs),
        (manifest::VERITY, hash_tree),
        (manifest::UKI, uki),
    ];
    let add = files.map(|(name, file)| Addition {
        name: Offered::name(&manifest::channel(&manifest.machine, &manifest.flavour), version, name),
        by: by.clone(),
        file: file.to_owned(),
        custom: BTreeMap::new(),
    });
    let done = signing.publish(&Change { add: add.into(), ..Change::default() }, &format!("image {version}"));
    // A proposal names the file, which must lie there when it is completed.
    if !signing.is_proposal() {
        std::fs::remove_file(&scratch).with_context(|| scratch.display().to_string())?;
    }
    done
}
