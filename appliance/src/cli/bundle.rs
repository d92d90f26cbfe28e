//! `lightbox bundle`: the vendor's bundles, from a network to a signed repository.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use lightbox_models::manifest::{MANIFEST_NAME, Precision};
use lightbox_models::pack::{self, EXTENSION, Progress};
use lightbox_models::publish::{Addition, Change, Publisher};
use lightbox_models::trust::Delegate;
use lightbox_models::{Bundle, Manifest};
use serde_json::json;
use time::format_description::well_known::Rfc3339;

use super::print::{plain, print_json, print_table};
use super::progress::Bar;
use super::repository::{SignArgs, Signing};
use crate::clock::{Clock as _, SystemClock};
use crate::infer::onnx::OnnxEngine;
use crate::vendor::inspect::{BundleSummary, RepositorySummary};
use crate::vendor::scaffold::{self, Parts};
use crate::vendor::{self, check, refresh};

/// Make, check, pack, publish and inspect model bundles (for vendors of models).
///
/// From a folder with an ONNX file to a signed repository: `bundle new`, `bundle pack`, `repository new`, `bundle
/// publish`. models/README.md has a worked example, "Vendor guide".
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a bundle's folder around an ONNX network: manifest with comments, card, SBOM, golden cases.
    ///
    /// What lies in FOLDER comes in by its name (card.md, LICENSE, sbom.json, *.dcm; all else is a document); what is
    /// missing is written. What nobody but you can say is marked DECIDE, or taken from --decisions: a TOML file
    /// with the manifest's own keys, kept from release to release. The golden cases' expected outputs are those of the
    /// network, run here on their images.
    ///
    /// Example: lightbox bundle new disks --onnx model.onnx --golden disk.dcm --decisions decisions.toml
    New {
        /// The folder; made if it is missing.
        folder: PathBuf,
        /// The network in 32-bit floats.
        #[arg(long, value_name = "FILE")]
        onnx: PathBuf,
        /// The same network in 16-bit floats.
        #[arg(long, value_name = "FILE")]
        onnx_fp16: Option<PathBuf>,
        /// A DICOM image inside the indication, for a golden case; may be repeated.
        #[arg(long, value_name = "FILE")]
        golden: Vec<PathBuf>,
        /// Your decisions: [model], [device], [indication], [[label]] ... as the manifest has them, and [[component]]
        /// (name, version, purl) for the SBOM.
        #[arg(long, value_name = "FILE")]
        decisions: Option<PathBuf>,
        #[command(flatten)]
        engine: EngineArg,
    },
    /// Bring a folder's manifest up to date after files were changed: sizes, SHA-256, the SBOM's digest of the network.
    ///
    /// Comments and everything else stay. With --golden the golden cases' outputs are made anew first.
    ///
    /// Example: lightbox bundle refresh disks --golden
    Refresh {
        /// The bundle's folder.
        folder: PathBuf,
        /// Run the network on the golden cases and write its outputs as the expected ones.
        #[arg(long)]
        golden: bool,
        #[command(flatten)]
        engine: EngineArg,
    },
    /// Check a bundle, in a folder or packed: everything that is wrong at once, with file, line, key and remedy.
    ///
    /// In a folder the network is compared with the manifest too, and the golden cases are run, if ONNX Runtime is here.
    ///
    /// Example: lightbox bundle check disks
    Check {
        /// The folder, or the packed file.
        path: PathBuf,
        #[command(flatten)]
        engine: EngineArg,
    },
    /// Load a bundle's network and end. The daemon has a candidate loaded so, before it loads it itself.
    #[command(hide = true)]
    Load {
        /// The bundle's folder.
        folder: PathBuf,
        /// libonnxruntime.so [default: LIGHTBOX_ONNXRUNTIME, or what ./justw parts fetched].
        #[arg(long, value_name = "FILE")]
        onnxruntime: Option<PathBuf>,
    },
    /// Check a folder and pack it into one file. The same folder always packs to the same bytes.
    ///
    /// Example: lightbox bundle pack disks -o disks-1.lightbox
    Pack {
        /// The bundle's folder.
        folder: PathBuf,
        /// The file to write.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        engine: EngineArg,
    },
    /// Sign a proposal that another key holder made: where a role needs several signatures, they come one after another.
    ///
    /// Example: lightbox bundle sign disks-2.proposal --key acme-2.pem
    Sign(SignArgs),
    /// Publish a packed bundle in a repository, as vendors/VENDOR/MODEL-RELEASE.lightbox. A release is published once.
    ///
    /// Needs the keys of the vendor's role, of snapshot and timestamp. Where the vendor's role needs more signatures
    /// than you have keys: --propose FILE, then `bundle sign` by the others, then `repository complete`.
    ///
    /// Example: lightbox bundle publish disks-1.lightbox --repository repo --vendor acme --key keys
    Publish {
        /// The packed bundle.
        file: PathBuf,
        /// The vendor's name in the repository.
        #[arg(long, value_name = "NAME")]
        vendor: String,
        #[command(flatten)]
        signing: Signing,
    },
    /// Say what is in a bundle or a repository: files and digests; targets, versions, dates, who signs what.
    ///
    /// Example: lightbox bundle inspect repo --root root.json --json
    Inspect {
        /// A packed bundle, a bundle's folder, or a repository's folder.
        path: PathBuf,
        /// The root that you trust; without it the repository's own first one.
        #[arg(long, value_name = "FILE")]
        root: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct EngineArg {
    /// libonnxruntime.so [default: LIGHTBOX_ONNXRUNTIME, or what ./justw parts fetched].
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Do not load the network: it needs memory for all of it, everything else a few MiB.
    #[arg(long)]
    no_run: bool,
}

impl EngineArg {
    /// The engine if its library is here; a library that is named must be.
    fn find(self) -> anyhow::Result<Option<OnnxEngine>> {
        match self.onnxruntime {
            _ if self.no_run => Ok(None),
            Some(library) => vendor::engine(Some(library)).map(Some),
            None => Ok(vendor::engine(None)
                .inspect_err(|error| eprintln!("note: the network is not run: {error:#}"))
                .ok()),
        }
    }
}

impl Args {
    /// Runs the verb.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::New { folder, onnx, onnx_fp16, golden, decisions, engine } => {
                let mut engine = engine.find()?;
                let made = SystemClock.now().replace_nanosecond(0)?.format(&Rfc3339)?;
                let parts = Parts { folder: folder.clone(), onnx, onnx_fp16, golden, decisions };
                let done = scaffold::new(&parts, engine.as_mut(), &made)?;
                done.iter().for_each(|line| println!("{}", plain(line)));
                let left = check::folder(&folder, None, &mut |_| {}).len();
                println!("{}: made", folder.display());
                if left > 0 {
                    println!(
                        "{left} things are left to decide: `lightbox bundle check {}` lists them",
                        folder.display()
                    );
                }
            }
            Verb::Refresh { folder, golden, engine } => {
                let mut engine = if golden { Some(vendor::engine(engine.onnxruntime)?) } else { None };
                let done = refresh::refresh(&folder, engine.as_mut())?;
                done.iter().for_each(|line| println!("{}", plain(line)));
                println!(
                    "{}: {}",
                    folder.display(),
                    if done.is_empty() { "up to date already" } else { "brought up to date" }
                );
            }
            Verb::Check { path, engine } => {
                if !path.is_dir() {
                    let mut bar = Bar::new("checking");
                    let packed = vendor::open(&path, &mut |Progress { done, total }| bar.at(done, total))?;
                    bar.finish();
                    // A packed manifest's lines are not at hand.
                    doubts(&packed.manifest, &path, "");
                    println!("{}: good, digest {}", path.display(), packed.digest);
                } else if !checked(&path, engine)? {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Verb::Load { folder, onnxruntime } => {
                let (bundle, engine) = (Bundle::open(&folder)?, vendor::engine(onnxruntime)?);
                for precision in [Precision::Fp32, Precision::Fp16] {
                    if bundle.manifest().network(precision).is_some() {
                        engine.outlets(&bundle.read_precision(precision)?)?;
                    }
                }
            }
            Verb::Pack { folder, output, engine } => {
                if !checked(&folder, engine)? {
                    return Ok(ExitCode::FAILURE);
                }
                let mut bar = Bar::new("packing");
                let packed =
                    pack::pack(&folder, &output, &mut |Progress { done, total }| bar.at(done, total))?;
                bar.finish();
                println!("{}: digest {}", output.display(), packed.digest);
            }
            Verb::Sign(args) => return args.run(),
            Verb::Publish { file, vendor, signing } => publish(&file, &vendor, &signing)?,
            Verb::Inspect { path, root, json } => inspect(&path, root.as_deref(), json)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints what a manifest says and hardly means.
fn doubts(manifest: &Manifest, path: &Path, text: &str) {
    manifest.doubts().iter().for_each(|doubt| eprintln!("{}", plain(&doubt.told(path, text))));
}

/// Prints every problem; whether there is none.
fn checked(folder: &Path, engine: EngineArg) -> anyhow::Result<bool> {
    let mut engine = engine.find()?;
    let mut bar = Bar::new("checking");
    let problems =
        check::folder(folder, engine.as_mut(), &mut |Progress { done, total }| bar.at(done, total));
    bar.finish();
    problems.iter().for_each(|problem| eprintln!("{}", plain(problem)));
    if let Ok((text, manifest)) = vendor::rough(folder) {
        doubts(&manifest, &folder.join(MANIFEST_NAME), &text);
    }
    match problems.len() {
        0 => println!("{}: good", folder.display()),
        1 => eprintln!("{}: 1 problem", folder.display()),
        count => eprintln!("{}: {count} problems", folder.display()),
    }
    Ok(problems.is_empty())
}

/// A vendor's name as a role has it.
pub(super) fn vendor_name(vendor: &str) -> anyhow::Result<String> {
    match format!("vendor-{vendor}").parse() {
        Ok(Delegate::Vendor(name)) => Ok(name),
        _ => bail!(
            "--vendor {vendor}: not a vendor's name; remedy: use lower-case letters, digits and hyphens"
        ),
    }
}

fn publish(file: &Path, vendor: &str, signing: &Signing) -> anyhow::Result<()> {
    let by = Delegate::Vendor(vendor_name(vendor)?);
    if file.is_dir() {
        bail!(
            "{}: a folder; remedy: pack it first, by `lightbox bundle pack {} -o NAME.{EXTENSION}`, and publish that file",
            file.display(),
            file.display()
        );
    }
    Publisher::open(&signing.repository)?.knows(&by)?;
    let packed = vendor::open(file, &mut |_| {})?;
    let model = &packed.manifest.model;
    let name = format!("vendors/{vendor}/{}-{}.{EXTENSION}", model.id, model.release);
    if Publisher::open(&signing.repository)?.targets().contains(&name) {
        bail!(
            "{name}: published already; remedy: give the bundle the next model.release: boxes take a number once"
        );
    }
    let custom = BTreeMap::from([
        ("kind".to_owned(), json!("bundle")),
        ("model".to_owned(), json!(model.id)),
        ("release".to_owned(), json!(model.release)),
        ("version".to_owned(), json!(model.version)),
        ("digest".to_owned(), json!(packed.digest)),
    ]);
    let file = file.canonicalize().with_context(|| format!("{}", file.display()))?;
    let change = Change { add: vec![Addition { name: name.clone(), by, file, custom }], ..Change::default() };
    signing.publish(&change, &name)
}

fn inspect(path: &Path, root: Option<&Path>, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if path.join("metadata").is_dir() && !path.join(MANIFEST_NAME).exists() {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let found = runtime.block_on(RepositorySummary::of(path, root, SystemClock.now()))?;
        if json {
            return print_json(&mut out, &found);
        }
        for (headings, rows) in found.tables() {
            print_table(&mut out, &headings, &rows)?;
            println!();
        }
        found.notes().iter().for_each(|note| println!("{}", plain(note)));
        return Ok(());
    }
    let found = BundleSummary::of(vendor::open(path, &mut |_| {})?);
    if json {
        return print_json(&mut out, &found);
    }
    for (heading, text) in found.lines() {
        println!("{heading:22} {}", plain(&text));
    }
    Ok(())
}
