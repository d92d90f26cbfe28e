//! `lightbox plan`: change-control plans, and what a box would say of a candidate.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use lightbox_models::Manifest;
use lightbox_models::plan::{Plan, Scope, explain};
use lightbox_models::publish::{Addition, Change, Publisher};
use lightbox_models::trust::Delegate;
use serde_json::json;

use super::print::{plain, print_json};
use super::repository::Signing;
use crate::clock::{Clock as _, SystemClock};
use crate::vendor::plan::{Question, ask, before_any_run, draft, read_evidence};
use crate::vendor::{case_set, decided, open};

/// What the exit code is where the plan refuses.
const EXIT_REFUSED: u8 = 3;

/// Write and publish change-control plans; ask what a box would say of an update (for vendors of models).
///
/// A plan (PCCP) says what may change of a model without a new submission, how far, on what evidence. Boxes rule by
/// it alone: `plan explain` gives their ruling, clause by clause, before you release anything.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Write a plan to go on with: what the cleared bundle says is filled in, the rest is marked DECIDE.
    ///
    /// --set fills in set_sha256, --decisions what you have decided: then nothing is left to do by hand, and the next
    /// plan is made from the same file. models/README.md shows one.
    ///
    /// Example: lightbox plan new disks-1.lightbox -o plan.toml --decisions plan-decisions.toml --set cases
    New {
        /// The cleared bundle, in a folder or packed.
        bundle: PathBuf,
        /// The file to write.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Your decisions: [plan], [[allowed]], [[criterion]], [site] ... as the plan has them. Tables are merged key by key,
        /// an array of tables replaces that of the draft.
        #[arg(long, value_name = "FILE")]
        decisions: Option<PathBuf>,
        /// The acceptance set's folder (`lightbox acceptance-set`): its digest becomes the set_sha256 of every criterion
        /// that has none.
        #[arg(long, value_name = "FOLDER")]
        set: Option<PathBuf>,
    },
    /// Check a plan: every problem at once, with line, key and remedy.
    ///
    /// Bounds that no result would break are warned of; those that nobody can mean, such as a share above 1, are
    /// problems, and `plan publish` refuses them.
    ///
    /// Example: lightbox plan check plan.toml
    Check {
        /// The plan.
        plan: PathBuf,
    },
    /// Publish a plan as plans/PUBLISHER/MODEL.toml, signed by the regulatory keys, which sign nothing else.
    ///
    /// Where they are several people's: --propose FILE, `repository sign`, `repository complete`.
    ///
    /// Example: lightbox plan publish plan.toml --repository repo --publisher acme --key regulatory.pem --key snapshot.pem --key timestamp.pem
    Publish {
        /// The plan.
        plan: PathBuf,
        /// The vendor's name in the repository.
        #[arg(long, value_name = "NAME")]
        publisher: String,
        #[command(flatten)]
        signing: Signing,
    },
    /// Say what a box would say of a candidate, clause by clause, and why. Exit code 0: allowed, 3: refused.
    ///
    /// Without --evidence: what documents say, before anything has run. With it, a JSON object with what was found: stage
    /// ("admission", "acceptance", "activation"), now, device_udi_di, engine_build, golden, runs, shadow_hours, approvals ...
    ///
    /// Example: lightbox plan explain plan.toml --candidate disks-2.lightbox --installed disks-1.lightbox
    Explain {
        /// The plan.
        plan: PathBuf,
        /// The bundle that is to be installed, in a folder or packed.
        #[arg(long, value_name = "BUNDLE")]
        candidate: PathBuf,
        /// The bundle that is installed; without it: a first installation.
        #[arg(long, value_name = "BUNDLE")]
        installed: Option<PathBuf>,
        /// What is known of the box, JSON.
        #[arg(long, value_name = "FILE")]
        evidence: Option<PathBuf>,
        /// The box's UDI-DI [default: the plan's first].
        #[arg(long, value_name = "UDI-DI")]
        device: Option<String>,
        /// ID=NUMBER: how many updates since the baseline used this modification; may be repeated.
        #[arg(long, value_name = "ID=NUMBER")]
        updates: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    /// Runs the verb.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::New { bundle, output, decisions, set } => {
                if output.exists() {
                    bail!("{}: exists; remedy: give another name", output.display());
                }
                let bundle = open(&bundle, &mut |_| {})?;
                let mut text = draft(&bundle)?;
                if let Some(decisions) = decisions {
                    text = decided::merged(&text, &decisions)?;
                }
                if let Some(folder) = set {
                    text = decided::with_set(&text, &digest_of_set(&folder, &bundle.manifest)?);
                }
                fs::write(&output, &text)
                    .with_context(|| format!("{}: cannot be written", output.display()))?;
                match Plan::problems(&output, &text).len() {
                    0 => println!("{}: written", output.display()),
                    left => println!(
                        "{}: written; {left} things are left to decide: `lightbox plan check {}` lists them",
                        output.display(),
                        output.display()
                    ),
                }
            }
            Verb::Check { plan } => {
                let text = text(&plan)?;
                let problems = Plan::problems(&plan, &text);
                problems.iter().for_each(|problem| eprintln!("{}", plain(&problem.to_string())));
                if !problems.is_empty() {
                    eprintln!("{}: {} problems", plan.display(), problems.len());
                    return Ok(ExitCode::FAILURE);
                }
                let read = Plan::read(&plan, &text)?;
                let doubts = read.doubts(SystemClock.now().unix_timestamp());
                doubts.iter().for_each(|doubt| eprintln!("{}", plain(&doubt.told(&plan, &text))));
                let senseless = doubts.iter().filter(|doubt| doubt.senseless).count();
                if senseless > 0 {
                    eprintln!("{}: {senseless} problems", plan.display());
                    return Ok(ExitCode::FAILURE);
                }
                println!(
                    "{}: {}, plan {} version {} for {}",
                    plan.display(),
                    if doubts.is_empty() { "good" } else { "can be read, but see the warnings" },
                    read.plan.id,
                    read.plan.version,
                    read.plan.model
                );
            }
            Verb::Publish { plan, publisher, signing } => publish(&plan, &publisher, &signing)?,
            Verb::Explain { plan, candidate, installed, evidence, device, updates, json } => {
                let plan = Plan::read(&plan, &text(&plan)?)?;
                let candidate = open(&candidate, &mut |_| {})?;
                let installed = installed.map(|path| open(&path, &mut |_| {})).transpose()?;
                let device = device.or_else(|| plan.plan.device_udi_di.first().cloned()).unwrap_or_default();
                let before = before_any_run(&device, SystemClock.now().unix_timestamp());
                let evidence = match evidence {
                    Some(path) => read_evidence(&path, &before)?,
                    None => before,
                };
                let mut used = BTreeMap::new();
                for given in &updates {
                    let read =
                        given.split_once('=').and_then(|(id, number)| Some((id, number.parse().ok()?)));
                    let (id, number) =
                        read.ok_or_else(|| anyhow!("--updates {given}: remedy: write ID=NUMBER"))?;
                    used.insert(id.to_owned(), number);
                }
                let verdict = ask(&Question {
                    plan: &plan,
                    candidate: &candidate,
                    installed: installed.as_ref(),
                    updates: &used,
                    scope: Scope::Global,
                    evidence: &evidence,
                });
                if json {
                    print_json(&mut std::io::stdout().lock(), &verdict)?;
                } else {
                    // Lines of our own; what comes from files in them must not move the cursor.
                    explain(&verdict).lines().for_each(|line| println!("{}", plain(line)));
                }
                return Ok(if verdict.allows() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_REFUSED) });
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read; remedy: give a plan's TOML file", path.display()))
}

/// The digest of a set that is good for a bundle.
fn digest_of_set(folder: &Path, manifest: &Manifest) -> anyhow::Result<String> {
    let found = case_set::check(folder, Some(manifest), &mut |_, _| {})?;
    match (found.set, found.problems.first()) {
        (Some(set), None) => Ok(set.digest()),
        (_, first) => bail!(
            "--set: {} (`lightbox acceptance-set check {}` lists all)",
            plain(first.map_or("not a set", String::as_str)),
            folder.display()
        ),
    }
}

fn publish(file: &Path, publisher: &str, signing: &Signing) -> anyhow::Result<()> {
    let text = text(file)?;
    let plan = Plan::read(file, &text)?;
    let doubts = plan.doubts(SystemClock.now().unix_timestamp());
    if let Some(senseless) = doubts.iter().find(|doubt| doubt.senseless) {
        bail!("{}", plain(&senseless.told(file, &text)));
    }
    doubts.iter().for_each(|doubt| eprintln!("{}", plain(&doubt.told(file, &text))));
    let name = format!("plans/{publisher}/{}.toml", plan.plan.model);
    // The repository tells the version in the target's custom data; boxes read the plan's own.
    let known = Publisher::open(&signing.repository)?.targets().contains(&name);
    let custom = BTreeMap::from([
        ("kind".to_owned(), json!("plan")),
        ("model".to_owned(), json!(plan.plan.model)),
        ("plan".to_owned(), json!(plan.plan.id)),
        ("version".to_owned(), json!(plan.plan.version)),
    ]);
    let file = file.canonicalize().with_context(|| format!("{}", file.display()))?;
    let add = vec![Addition { name: name.clone(), by: Delegate::Regulatory, file, custom }];
    signing.publish(&Change { add, ..Change::default() }, &name)?;
    if known {
        println!("note: it replaces the plan that was there; boxes take no lower version than they have had");
    }
    Ok(())
}
