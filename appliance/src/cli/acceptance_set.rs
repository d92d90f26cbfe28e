//! `lightbox acceptance-set`: the vendor's images of known truth, sealed to the boxes that are to be measured on them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use lightbox_models::acceptance::seal::{self, Recipient};
use lightbox_models::manifest::{Manifest, is_sha256};
use lightbox_models::plain as files;
use lightbox_models::publish::{Addition, Change};
use lightbox_models::trust::Delegate;
use serde_json::json;

use super::print::plain;
use super::progress::Bar;
use super::repository::Signing;
use crate::vendor::case_set::{self, CaseSet};
use crate::vendor::open;

/// Longest list of recipients.
const RECIPIENTS_BYTES_MAX: u64 = 1 << 20;

/// Make, check, seal and publish acceptance sets: images whose truth you know (for vendors of models).
///
/// A change-control plan names a set in `set_sha256` of each criterion. Every box runs the model on the set, on its own
/// hardware, before the model is used there, and compares what it measures with the plan. The set is sealed
/// to the boxes: nobody on the way, nor the hospital, sees the images or the truth. Take images that the
/// model was never trained on, without names, and from as many sites as you can.
///
/// The way: `new`, `check` (prints set_sha256 for the plan), `seal` (for the recipients that `lightbox models
/// recipient` prints on each box), `publish`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the DICOM images below a folder in FOLDER/set.toml, each with its truth.
    ///
    /// An image below FOLDER/LABEL, where LABEL is a label of the bundle, has that label; one below FOLDER/negative has
    /// none. The truth of all others is marked DECIDE. The patient's sex is taken over as a group, for the plan's
    /// [[subgroup]]; write other groups, and boxes for the metric dice, into set.toml.
    ///
    /// Example: lightbox acceptance-set new cases --bundle disks-1.lightbox
    New {
        /// The folder of the images.
        folder: PathBuf,
        /// The bundle, in a folder or packed: its labels are those of the truth.
        #[arg(long, value_name = "BUNDLE")]
        bundle: PathBuf,
    },
    /// Check a set: everything that is wrong at once; then its cases, counted, and the set_sha256 for the plan.
    ///
    /// Every image is opened as a box would; with --bundle it must be inside the indication, and the truth must
    /// name the bundle's labels.
    ///
    /// Example: lightbox acceptance-set check cases --bundle disks-1.lightbox
    Check {
        /// The folder with set.toml.
        folder: PathBuf,
        /// The bundle, in a folder or packed.
        #[arg(long, value_name = "BUNDLE")]
        bundle: Option<PathBuf>,
    },
    /// Check a set and seal it to boxes: one file that nobody else can read (age format, X25519).
    ///
    /// The same set has the same set_sha256 whomever it is sealed to. For a box that comes later, seal it
    /// again to all of them and publish it again.
    ///
    /// Example: lightbox acceptance-set seal cases --recipient box-1.txt --recipient box-2.txt -o disks-set.age
    Seal {
        /// The folder with set.toml.
        folder: PathBuf,
        /// What `lightbox models recipient` prints on a box (age1...), or a file with such lines; may be repeated.
        #[arg(long, value_name = "RECIPIENT", required = true)]
        recipient: Vec<String>,
        /// The file to write.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Publish a sealed set where the boxes look for it: vendors/VENDOR/MODEL/sets/SET_SHA256.age.
    ///
    /// Needs the keys of the vendor's role, of snapshot and timestamp; --propose as for `bundle publish`. Publishing again
    /// replaces what was there.
    ///
    /// Example: lightbox acceptance-set publish disks-set.age --model acme-disks --repository repo --vendor acme --key keys
    Publish {
        /// The sealed file.
        file: PathBuf,
        /// The model.id of the bundles that it is for; the site file's `target` is vendors/VENDOR/MODEL.
        #[arg(long, value_name = "ID")]
        model: String,
        /// The vendor's name in the repository.
        #[arg(long, value_name = "NAME")]
        vendor: String,
        /// The set's digest, for a file that was sealed by another program; `check` prints it.
        #[arg(long, value_name = "DIGEST")]
        set_sha256: Option<String>,
        /// Publish it for one box only, as SET_SHA256/DEVICE.age: the fingerprint of its key.
        #[arg(long, value_name = "FINGERPRINT")]
        device: Option<String>,
        #[command(flatten)]
        signing: Signing,
    },
}

impl Args {
    /// Runs the verb.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::New { folder, bundle } => {
                let manifest = open(&bundle, &mut |_| {})?.manifest;
                let listed = case_set::new(&folder, &manifest)?;
                println!("{}: {} images are listed", folder.join(case_set::SET_NAME).display(), listed.cases);
                if listed.others > 0 {
                    println!("{} files are no DICOM images and were left out", listed.others);
                }
                if listed.undecided > 0 {
                    println!(
                        "{} are left to decide: `lightbox acceptance-set check {}` lists them",
                        listed.undecided,
                        folder.display()
                    );
                }
            }
            Verb::Check { folder, bundle } => {
                let manifest =
                    bundle.map(|bundle| open(&bundle, &mut |_| {})).transpose()?.map(|found| found.manifest);
                let Some(set) = checked(&folder, manifest.as_ref())? else { return Ok(ExitCode::FAILURE) };
                describe(&folder, &set);
            }
            Verb::Seal { folder, recipient, output } => {
                let to = recipients(&recipient)?;
                let Some(set) = checked(&folder, None)? else { return Ok(ExitCode::FAILURE) };
                sealed(&set, &to, &output)?;
                describe(&folder, &set);
                println!("{}: sealed to {} boxes", output.display(), to.len());
            }
            Verb::Publish { file, model, vendor, set_sha256, device, signing } => {
                publish(&Sealed { file, model, vendor, set_sha256, device }, &signing)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints every problem; the set where there is none.
fn checked(folder: &Path, manifest: Option<&Manifest>) -> anyhow::Result<Option<CaseSet>> {
    let mut bar = Bar::new("checking");
    let found = case_set::check(folder, manifest, &mut |done, total| bar.at(done, total))?;
    bar.finish();
    found.problems.iter().for_each(|problem| eprintln!("{}", plain(problem)));
    found.notes.iter().for_each(|note| eprintln!("note: {}", plain(note)));
    match found.problems.len() {
        0 => {}
        1 => eprintln!("{}: 1 problem", folder.display()),
        count => eprintln!("{}: {count} problems", folder.display()),
    }
    Ok(found.set)
}

fn describe(folder: &Path, set: &CaseSet) {
    println!("{}: good, {} cases", folder.display(), set.cases());
    for (label, positive) in set.labels() {
        println!("label {}: {positive} positive, {} negative", plain(label), set.cases() - positive);
    }
    if set.labels().is_empty() {
        println!("no case has a label: sensitivity cannot be measured on this set");
    }
    for ((key, value), count) in set.groups() {
        println!("group {} = {}: {count}", plain(key), plain(value));
    }
    println!("set_sha256 = \"{}\"", set.digest());
}

/// Recipients as they were given, or in files.
fn recipients(given: &[String]) -> anyhow::Result<Vec<Recipient>> {
    let mut found: Vec<Recipient> = Vec::new();
    for one in given {
        let texts = if one.starts_with("age1") {
            vec![one.clone()]
        } else {
            let text = files::read_text(Path::new(one), RECIPIENTS_BYTES_MAX).with_context(|| {
                format!("--recipient {one}: neither a recipient nor a file that can be read; remedy: give what `lightbox models recipient` prints on the box")
            })?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines.map(str::to_owned).collect()
        };
        if texts.is_empty() {
            bail!(
                "--recipient {one}: no recipient is in this file; remedy: write what `lightbox models recipient` prints on the box"
            );
        }
        for text in texts {
            let recipient = text.parse().with_context(|| format!("--recipient {one}"))?;
            if !found.contains(&recipient) {
                found.push(recipient);
            }
        }
    }
    Ok(found)
}

/// Seals as it reads: memory does not grow with the set. The file has its name only when it is whole and on disk.
fn sealed(set: &CaseSet, to: &[Recipient], output: &Path) -> anyhow::Result<()> {
    let mut part = output.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let failed =
        || format!("{}: cannot be written; remedy: check the path and the disk's room", output.display());
    let done = (|| {
        let mut into = BufWriter::new(File::create(&part).with_context(failed)?);
        let (from, plain) = io::pipe().context("a pipe cannot be made")?;
        let random =
            |bytes: &mut [u8]| getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()));
        let digest = set.digest();
        let mut bar = Bar::new("sealing");
        let written = std::thread::scope(|scope| {
            let sealing =
                scope.spawn(|| seal::seal_set(&digest, BufReader::new(from), &mut into, to, random));
            let written = set.write(plain, &mut |done, total| bar.at(done, total));
            match sealing.join() {
                // Where sealing failed, writing only found that nobody reads any more.
                Ok(sealed) => sealed.with_context(failed).and(written),
                Err(_) => Err(anyhow!("sealing failed in the code that does it")),
            }
        });
        bar.finish();
        written?;
        into.flush().with_context(failed)?;
        into.get_ref().sync_all().with_context(failed)?;
        fs::rename(&part, output).with_context(failed)
    })();
    if done.is_err() {
        // The first error is what matters; a leftover `.part` is overwritten by the next try.
        let _ = fs::remove_file(&part);
    }
    done
}

struct Sealed {
    file: PathBuf,
    model: String,
    vendor: String,
    set_sha256: Option<String>,
    device: Option<String>,
}

fn publish(sealed: &Sealed, signing: &Signing) -> anyhow::Result<()> {
    let Sealed { file, model, vendor, set_sha256, device } = sealed;
    let by = Delegate::Vendor(super::bundle::vendor_name(vendor)?);
    let source = files::open(file).with_context(|| {
        format!("{}: cannot be read; remedy: give the file that `acceptance-set seal` wrote", file.display())
    })?;
    let borne = seal::set_digest(BufReader::new(source)).with_context(|| format!("{}", file.display()))?;
    let digest = match (borne, set_sha256) {
        (Some(borne), Some(given)) if borne != *given => {
            bail!(
                "--set-sha256: the file is of the set {borne}; remedy: leave it out, or give that set's file"
            )
        }
        (Some(borne), _) => borne,
        (None, Some(given)) => given.clone(),
        (None, None) => bail!(
            "{}: does not say which set it is, being sealed by another program; remedy: --set-sha256 with what `acceptance-set check` prints",
            file.display()
        ),
    };
    if !is_sha256(&digest) {
        bail!(
            "--set-sha256 {digest}: not a SHA-256; remedy: write the 64 lower-case hex digits that `acceptance-set check` prints"
        );
    }
    let plain_id = !model.is_empty()
        && model.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !plain_id {
        bail!("--model {model}: not an identifier; remedy: write the model.id of the bundle's manifest");
    }
    let name = match device {
        None => format!("vendors/{vendor}/{model}/sets/{digest}.age"),
        Some(device) => format!("vendors/{vendor}/{model}/sets/{digest}/{device}.age"),
    };
    let custom = BTreeMap::from([
        ("kind".to_owned(), json!("acceptance_set")),
        ("model".to_owned(), json!(model)),
        ("set_sha256".to_owned(), json!(digest)),
    ]);
    let file = file.canonicalize().with_context(|| format!("{}", file.display()))?;
    signing.publish(
        &Change { add: vec![Addition { name: name.clone(), by, file, custom }], ..Change::default() },
        &name,
    )
}
