//! `lightbox recall`: a signed word that a model must never run again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use lightbox_models::plain as files;
use lightbox_models::publish::{Addition, Change, Publisher};
use lightbox_models::recall::Notice;
use lightbox_models::trust::{Delegate, is_target_name};
use serde_json::{Value, json};

use super::print::plain;
use super::repository::Signing;
use crate::clock::{Clock as _, SystemClock};
use crate::vendor::open;

/// Recall models: every box that reads the notice takes them out of service for good (for vendors of models).
///
/// A box that has a recalled version stops it at its next look at the repository (`check_minutes`, or `lightbox models
/// check`), lists every study with a result of it (`lightbox models studies`), and never takes it again. Nothing
/// undoes a recall: what is to come back is a new release.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Write a recall notice, sign and publish it; says first what it will stop.
    ///
    /// Name what is recalled by --bundle, --digest, or --every-version. A vendor recalls its own models
    /// (recalls/VENDOR/...), the safety role anybody's (--safety). Needs the keys of that role, of snapshot and
    /// timestamp; where the role needs more signatures: --propose FILE.
    ///
    /// Example: lightbox recall publish --model acme-disks --bundle disks-2.lightbox --reason "misses disks at the edge" --repository repo --vendor acme --key keys
    Publish(Box<PublishArgs>),
}

#[derive(Debug, clap::Args)]
struct PublishArgs {
    /// The model.id of what is recalled.
    #[arg(long, value_name = "ID")]
    model: String,
    /// A bundle that is recalled, in a folder or packed; may be repeated.
    #[arg(long, value_name = "BUNDLE")]
    bundle: Vec<PathBuf>,
    /// The digest of a bundle that is recalled, 64 hex digits as `bundle inspect` shows them; may be repeated.
    #[arg(long, value_name = "DIGEST")]
    digest: Vec<String>,
    /// Recall every version of the model, those that are still to come included.
    #[arg(long, conflicts_with_all = ["bundle", "digest"])]
    every_version: bool,
    /// Why, for the people whose studies wait.
    #[arg(long, value_name = "WHY")]
    reason: String,
    /// The vendor that recalls, by its name in the repository.
    #[arg(long, value_name = "NAME", required_unless_present = "safety")]
    vendor: Option<String>,
    /// Recall in the name of the safety role, whosever the model is.
    #[arg(long, conflicts_with = "vendor")]
    safety: bool,
    /// Recall what this repository does not have: boxes may have it from elsewhere.
    #[arg(long)]
    not_in_repository: bool,
    #[command(flatten)]
    signing: Signing,
}

impl Args {
    /// Runs the verb.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Verb::Publish(args) = self.verb;
        publish(&args)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A version in the repository, as its publisher described it.
struct Version {
    target: String,
    version: String,
    digest: Option<String>,
}

fn publish(args: &PublishArgs) -> anyhow::Result<()> {
    let by = match &args.vendor {
        Some(vendor) => Delegate::Vendor(super::bundle::vendor_name(vendor)?),
        None => Delegate::Safety,
    };
    let mut digests = args.digest.clone();
    for bundle in &args.bundle {
        let found = open(bundle, &mut |_| {})?;
        if found.manifest.model.id != args.model {
            bail!(
                "--bundle {}: a bundle of model {:?}, and --model says {:?}; remedy: give the bundle that is meant",
                bundle.display(),
                found.manifest.model.id,
                args.model
            );
        }
        digests.push(found.digest);
    }
    if digests.is_empty() && !args.every_version {
        bail!(
            "nothing is named; remedy: --bundle or --digest for each version that is recalled, or --every-version"
        );
    }
    digests.sort();
    digests.dedup();
    let notice =
        Notice::new(&args.model, &digests, &args.reason).map_err(|why| anyhow::anyhow!("--{why}"))?;

    let known = versions(&args.signing.repository, &by, &args.model, args.vendor.as_deref())?;
    let of = |digest: &String| known.iter().find(|version| version.digest.as_ref() == Some(digest));
    let absent: Vec<&String> = digests.iter().filter(|digest| of(digest).is_none()).collect();
    if (known.is_empty() || !absent.is_empty()) && !args.not_in_repository {
        let what = match absent.first() {
            Some(digest) if !known.is_empty() => {
                format!("the repository has no bundle of model {:?} with the digest {digest}", args.model)
            }
            _ => format!("the repository has no bundle of model {:?}", args.model),
        };
        bail!(
            "{what}; remedy: compare with `lightbox bundle inspect {}`, or, where boxes have it from elsewhere, --not-in-repository",
            args.signing.repository.display()
        );
    }
    println!("This stops, on every box that reads it, for good:");
    for version in known.iter().filter(|version| {
        args.every_version || version.digest.as_ref().is_some_and(|digest| digests.contains(digest))
    }) {
        println!("  {}", plain(&format!("{} version {} ({})", args.model, version.version, version.target)));
    }
    absent.iter().for_each(|digest| {
        println!("  {} {digest}, which this repository does not have", plain(&args.model))
    });
    if args.every_version {
        println!("  and every version of {} that is still to come", plain(&args.model));
    }

    let text = notice.to_toml()?;
    let at = SystemClock.now();
    let place = args.vendor.as_deref().map_or("recalls".to_owned(), |vendor| format!("recalls/{vendor}"));
    let name = format!("{place}/{}-{}.toml", args.model, at.unix_timestamp());
    if !is_target_name(&name) {
        bail!(
            "--model {}: not an identifier; remedy: write the model.id of the bundle's manifest",
            args.model
        );
    }
    // A proposal names the file: it must lie where it lay when others sign and publish.
    let kept = args.signing.kept_beside(&format!("recall-{}-{}.toml", args.model, at.unix_timestamp()));
    files::write(&kept, text.as_bytes()).with_context(|| format!("{}: cannot be written", kept.display()))?;
    let custom =
        BTreeMap::from([("kind".to_owned(), json!("recall")), ("model".to_owned(), json!(args.model))]);
    let file = kept.canonicalize().with_context(|| format!("{}", kept.display()))?;
    let change = Change { add: vec![Addition { name: name.clone(), by, file, custom }], ..Change::default() };
    let done = args.signing.publish(&change, &name);
    if done.is_err() || !args.signing.is_proposal() {
        // The repository has its own copy, or nothing came of it.
        let _ = fs::remove_file(&kept);
    }
    done
}

/// The model's versions, below the vendor where there is one.
fn versions(
    repository: &Path,
    by: &Delegate,
    model: &str,
    vendor: Option<&str>,
) -> anyhow::Result<Vec<Version>> {
    let publisher = Publisher::open(repository)?;
    publisher.knows(by)?;
    let all = publisher.described();
    let place = vendor.map_or("vendors/".to_owned(), |vendor| format!("vendors/{vendor}/"));
    let text = |custom: &BTreeMap<String, Value>, key: &str| {
        custom.get(key).and_then(Value::as_str).map(str::to_owned)
    };
    let found = all.into_iter().filter(|(name, custom)| {
        name.starts_with(&place)
            && text(custom, "kind").as_deref() == Some("bundle")
            && text(custom, "model").as_deref() == Some(model)
    });
    Ok(found
        .map(|(target, custom)| Version {
            version: text(&custom, "version").unwrap_or_default(),
            digest: text(&custom, "digest"),
            target,
        })
        .collect())
}
