//! `lightbox models`: which version of each signed model runs, how it came to, and what people decide of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use lightbox_models::acceptance::seal::Recipient;
use lightbox_models::life_cycle::{Event, State, person};
use lightbox_models::plan;
use lightbox_provisioning::site::Role;
use rusqlite::Connection;
use serde_json::json;

use super::SiteArg;
use super::place::{Place, who};
use super::print::{plain, print_json, print_table};
use crate::clock::utc_text;
use crate::store::models::{self, Actor, SlotRow, VersionRow, word};
use crate::update::{self, Folders, ShadowReport};

/// How long `check` waits for the daemon.
const CHECK_WAIT: Duration = Duration::from_secs(300);

/// Shows the signed models and their versions, and takes what people decide of them.
///
/// A version comes from the signed repository (`[updates]`), is verified, judged by its change-control plan, run on
/// this hardware, approved by as many different people as the plan asks for, and then becomes active between two
/// studies. Each step, its reason and who took it are kept, and go to the audit log.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(flatten)]
    site: SiteArg,
    /// Without a verb: `list`.
    #[command(subcommand)]
    command: Option<Command>,
}

/// A version of a model.
#[derive(Debug, clap::Args)]
struct Which {
    /// The model's name in the site file.
    model: String,
    /// First digits of the bundle's digest, as `list` shows them [default: the version on its way].
    #[arg(long, value_name = "DIGITS")]
    digest: Option<String>,
}

/// A person, and why.
#[derive(Debug, clap::Args)]
struct By {
    /// Who decides. Kept beside the account that runs this command.
    #[arg(long, value_name = "NAME")]
    by: String,
    /// Why.
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every version with its state, and what it waits for or why it was refused, clause by clause.
    List {
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// What happened to a model's versions: each step, when, by whom and why.
    History {
        /// The model's name in the site file.
        model: String,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Has the running daemon look at the repository now, and waits for what comes of it.
    #[command(
        after_help = "Examples:\n  lightbox models check --by \"A. Meyer\"\n  lightbox models check --by \"A. Meyer\" --override-dates \"no network; clock checked by hand\""
    )]
    Check {
        /// Who asks.
        #[arg(long, value_name = "NAME")]
        by: String,
        /// Take metadata past their date, or with the clock behind: say why. Signatures and versions are checked all
        /// the same.
        #[arg(long, value_name = "WHY")]
        override_dates: Option<String>,
    },
    /// Approves a version that waits for it: the one on its way, or one that was rolled back and is to come back.
    #[command(after_help = "Example:\n  lightbox models approve detector --by \"A. Meyer\" --acknowledge")]
    Approve {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        by: By,
        /// You have read the instructions for use that the plan names.
        #[arg(long)]
        acknowledge: bool,
    },
    /// The report of a candidate in shadow: beside the active version on live studies, without output.
    ///
    /// For each label: on how many studies both are in the same tier, which flip, how the scores drift, how long both
    /// take. The plan says how many hours and studies it wants before anyone approves.
    #[command(
        after_help = "Examples:\n  lightbox models shadow detector\n  lightbox models shadow detector --out shadow.html"
    )]
    Shadow {
        #[command(flatten)]
        which: Which,
        /// Write the report to this file: .html with plots, or .json for programs.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// The report as it stood when people approved, by the first digits of its digest; the history and the audit log
        /// name it. Needs `--out FILE.html`.
        #[arg(long, value_name = "DIGITS", requires = "out")]
        kept: Option<String>,
    },
    /// Says no to a version on its way, for good.
    Refuse {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        by: By,
    },
    /// Goes back to the version that was active before, at once. Studies under way with the present one begin anew.
    Rollback {
        /// The model's name in the site file.
        model: String,
        #[command(flatten)]
        by: By,
    },
    /// Takes the active version out of service; its studies wait.
    Disable {
        /// The model's name in the site file.
        model: String,
        #[command(flatten)]
        by: By,
    },
    /// Trusts the repository again after the record of the versions seen was lost, with the ledger or in it; or takes
    /// the root of another publisher.
    ///
    /// Until somebody does, nothing is installed: an old repository could not be told from a new one. What is installed
    /// stays. Look at the dates that `lightbox models list` shows afterwards.
    #[command(
        after_help = "Examples:\n  lightbox models begin-anew --by \"A. Meyer\" --reason \"disk replaced\"\n  lightbox models begin-anew --new-root --by \"A. Meyer\" --reason \"new vendor since May\""
    )]
    BeginAnew {
        /// `updates.root` is another publisher's now: what was seen of the one before counts no more, nor do the numbers
        /// of its plans.
        #[arg(long)]
        new_root: bool,
        #[command(flatten)]
        by: By,
    },
    /// Hashes the files of every version that is kept, and checks this device's signature on its acceptance record.
    Verify {
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// What the plan says of a version: every clause of every ruling, and why.
    Explain {
        #[command(flatten)]
        which: Which,
    },
    /// The studies that a version gave a result on.
    Studies {
        #[command(flatten)]
        which: Which,
    },
    /// To whom a vendor seals acceptance sets for this device (age).
    Recipient,
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.write(&mut std::io::stdout().lock())
    }

    pub(super) fn write(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let place = Place::open(&self.site)?;
        match self.command.unwrap_or(Command::List { json: false }) {
            Command::List { json } => list(out, &place.reader()?, json)?,
            Command::History { model, json } => history(out, &place.reader()?, &model, json)?,
            Command::Check { by, override_dates } => return check(out, &place, &by, override_dates),
            Command::Approve { which, by, acknowledge } => approve(out, &place, &which, &by, acknowledge)?,
            Command::Shadow { which, out: file, kept } => {
                shadow(out, &place.reader()?, &which, file.as_deref(), kept.as_deref())?;
            }
            Command::Refuse { which, by } => refuse(out, &place, &which, &by)?,
            Command::Rollback { model, by } => rollback(out, &place, &model, &by)?,
            Command::Disable { model, by } => disable(out, &place, &model, &by)?,
            Command::BeginAnew { new_root, by } => {
                let folders = Folders::of(&place.site.file.appliance.data_dir);
                let root = place.site.file.updates.root.as_deref();
                let root =
                    root.context("updates.root is not set: the site takes no model from a repository")?;
                update::begin_anew(&place.ledger()?, &folders, root, new_root, actor(&place, &by)?)?;
                writeln!(
                    out,
                    "The next look at the repository is taken for the first: lightbox models check"
                )?;
            }
            Command::Verify { json } => return verify(out, &place, json),
            Command::Explain { which } => explain(out, &place.reader()?, &which)?,
            Command::Studies { which } => {
                let reader = place.reader()?;
                let version = chosen(&reader, &which, |_| true)?;
                for key in models::touched(&reader, &version.slot, &version.digest)? {
                    writeln!(out, "{key}")?;
                }
            }
            Command::Recipient => {
                let secret = update::acceptance_secret(&place.identity()?);
                writeln!(out, "{}", Recipient::of(&secret)?)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The name that a person decides under. A site that names people who may act lets no other name in; which of them it
/// is, only a certificate tells, so each record carries the account of the shell as well.
fn known(place: &Place, name: &str) -> anyhow::Result<String> {
    let named = place.site.file.operator.iter().filter(|operator| operator.role == Role::Operator);
    let mut named: Vec<&str> = named.map(|operator| operator.name.as_str()).collect();
    if named.is_empty() {
        return Ok(plain(name));
    }
    if let Some(found) = named.iter().find(|operator| person(operator) == person(name)) {
        return Ok((*found).to_owned());
    }
    named.sort_unstable();
    bail!(
        "--by: {:?} is no [[operator]] with the role \"operator\" in the site file; remedy: one of {}, or name the person there",
        plain(name),
        named.join(", ")
    );
}

fn actor(place: &Place, by: &By) -> anyhow::Result<Actor> {
    if by.by.trim().is_empty() || by.by.len() > 128 {
        bail!("--by: name the person who decides, at most 128 bytes");
    }
    Ok(Actor { name: known(place, by.by.trim())?, account: who().operator, reason: plain(by.reason.trim()) })
}

fn slot(reader: &Connection, name: &str) -> anyhow::Result<SlotRow> {
    let slots = models::slots(reader)?;
    let names: Vec<&str> = slots.iter().map(|slot| slot.slot.as_str()).collect();
    let known = names.join(", ");
    slots
        .iter()
        .find(|slot| slot.slot == name)
        .cloned()
        .with_context(|| format!("the ledger has no signed model \"{name}\"; it has: {known}"))
}

fn is_on_its_way(version: &VersionRow) -> bool {
    !matches!(
        version.state,
        State::Active | State::Retired | State::Refused | State::RolledBack | State::Recalled
    )
}

fn chosen(
    reader: &Connection,
    which: &Which,
    usual: impl Fn(&VersionRow) -> bool,
) -> anyhow::Result<VersionRow> {
    let slot = slot(reader, &which.model)?;
    let versions = models::versions(reader, Some(&slot.slot))?;
    let Some(start) = &which.digest else {
        return versions
            .into_iter()
            .rev()
            .find(usual)
            .with_context(|| format!("model \"{}\" has no such version; name one with --digest", slot.slot));
    };
    let start = start.to_lowercase();
    let mut found = versions.into_iter().filter(|version| version.digest.starts_with(&start));
    match (found.next(), found.next()) {
        (Some(version), None) => Ok(version),
        (None, _) => bail!("model \"{}\" has no version whose digest begins with {start}", slot.slot),
        (Some(_), Some(_)) => bail!("several versions begin with {start}: give more digits"),
    }
}

fn list(out: &mut impl Write, reader: &Connection, json: bool) -> anyhow::Result<()> {
    let (slots, versions) = (models::slots(reader)?, models::versions(reader, None)?);
    let (refused, recalls) = (models::refused_targets(reader)?, models::recalls(reader)?);
    let trust = models::trust(reader)?;
    if json {
        return print_json(
            out,
            &json!({
                "repository": trust, "models": slots, "versions": versions, "refused": refused,
                "recalls": recalls,
            }),
        );
    }
    if slots.is_empty() {
        return Ok(writeln!(
            out,
            "The site file takes no model from a repository ([[model]] with `target`)."
        )?);
    }
    match &trust {
        None => writeln!(out, "The repository has not been looked at yet; see `lightbox models check`.")?,
        Some(trust) => {
            let at = trust.checked_at.map(utc_text).unwrap_or_default();
            match trust.problem.is_empty() {
                true => writeln!(out, "Repository verified at {at}.")?,
                false => writeln!(out, "Repository REFUSED at {at}: {}", plain(&trust.problem))?,
            }
        }
    }
    for slot in slots.iter().filter(|slot| !slot.note.is_empty()) {
        writeln!(out, "Model {}: {}", plain(&slot.slot), plain(&slot.note))?;
    }
    writeln!(out)?;
    let rows: Vec<Vec<String>> = versions
        .iter()
        .map(|version| {
            vec![
                version.slot.clone(),
                version.version.clone(),
                version.digest[..12.min(version.digest.len())].to_owned(),
                version.state.to_string(),
                utc_text(version.since),
                version.plan.as_ref().map(|(id, number)| format!("{id} v{number}")).unwrap_or_default(),
                version.note.clone(),
            ]
        })
        .collect();
    print_table(out, &["MODEL", "VERSION", "DIGEST", "STATE", "SINCE", "PLAN", "WHY"], &rows)?;
    for target in &refused {
        writeln!(
            out,
            "\n{} for model {} is no bundle: {}: {}",
            plain(&target.target),
            plain(&target.slot),
            target.clause,
            plain(&target.why)
        )?;
    }
    for recall in &recalls {
        let obeyed = if recall.clause.is_empty() { "" } else { ", NOT OBEYED" };
        writeln!(
            out,
            "\nRecall {} of {}{obeyed}: {}",
            plain(&recall.target),
            utc_text(recall.at),
            plain(&recall.note)
        )?;
    }
    Ok(())
}

fn history(out: &mut impl Write, reader: &Connection, model: &str, json: bool) -> anyhow::Result<()> {
    let slot = slot(reader, model)?;
    let events = models::events(reader, &slot.slot, None)?;
    if json {
        return print_json(out, &events);
    }
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| {
            vec![
                utc_text(event.at),
                event.digest[..12.min(event.digest.len())].to_owned(),
                event.event.clone(),
                event.after.clone(),
                event.actor.clone(),
                event.reason.clone(),
            ]
        })
        .collect();
    Ok(print_table(out, &["AT", "DIGEST", "EVENT", "STATE", "BY", "WHY"], &rows)?)
}

fn check(
    out: &mut impl Write,
    place: &Place,
    by: &str,
    override_dates: Option<String>,
) -> anyhow::Result<ExitCode> {
    let actor = actor(place, &By { by: by.to_owned(), reason: String::new() })?;
    if override_dates.as_ref().is_some_and(|why| why.trim().is_empty()) {
        bail!("--override-dates: say why metadata past their date are to be taken");
    }
    let ledger = place.ledger()?;
    let id = ledger.write_blocking(move |writer| {
        models::ask_check(writer, &actor.name, &actor.account, override_dates.as_deref())
    })?;
    let begun = std::time::Instant::now();
    let (until, mut told) = (begun + CHECK_WAIT, (begun, String::new()));
    loop {
        if let Some(outcome) = ledger.read_blocking(|reader| models::request_outcome(reader, id))? {
            writeln!(out, "{}", plain(&outcome))?;
            let verified = outcome == "verified";
            ledger.read_blocking(|reader| Ok(list(out, reader, false)))??;
            return Ok(if verified { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if std::time::Instant::now() > until {
            bail!(
                "the daemon has not looked yet: it may be at work on a version, or not run. It will; see `lightbox models list`"
            );
        }
        let waits = ledger.read_blocking(|reader| models::versions(reader, None))?;
        tell_what_it_waits_for(&waits, begun, &mut told);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Says on standard error what the daemon is at: when it changes, and every ten seconds; nothing of a quick answer.
fn tell_what_it_waits_for(
    versions: &[VersionRow],
    begun: std::time::Instant,
    (last, said): &mut (std::time::Instant, String),
) {
    let at_work = versions
        .iter()
        .filter(|version| matches!(version.state, State::Received | State::Verified | State::PlannedIn));
    let at_work: Vec<String> = at_work
        .map(|version| format!("model {} version {} is {}", version.slot, version.version, version.state))
        .collect();
    let text = match at_work.is_empty() {
        true => "the daemon looks at the repository, or has yet to".to_owned(),
        false => format!("the daemon is at work: {}; acceptance runs can take long", at_work.join(", ")),
    };
    let now = std::time::Instant::now();
    let due = if said.is_empty() { Duration::from_secs(1) } else { Duration::from_secs(10) };
    let changed = !said.is_empty() && text != *said;
    if changed || now.duration_since(*last) >= due {
        let (gone, most) = (now.duration_since(begun).as_secs(), CHECK_WAIT.as_secs());
        eprintln!("{gone} s of at most {most} s: {}", plain(&text));
        (*last, *said) = (now, text);
    }
}

fn approve(
    out: &mut impl Write,
    place: &Place,
    which: &Which,
    by: &By,
    acknowledge: bool,
) -> anyhow::Result<()> {
    let (actor, ledger) = (actor(place, by)?, place.ledger()?);
    let waits = |version: &VersionRow| matches!(version.state, State::Accepted | State::Shadow);
    let version = ledger.read_blocking(|reader| Ok(chosen(reader, which, waits)))??;
    let (slot, digest) = (version.slot.clone(), version.digest.clone());
    let done =
        ledger.write_blocking(move |writer| update::approve(writer, &slot, &digest, &actor, acknowledge));
    let update::Approved { people, wanted } =
        done.map_err(|error| anyhow::anyhow!(plain(&error.to_string())))?;
    Ok(writeln!(
        out,
        "Version {} of model {} is approved by {people} of {wanted} people; the daemon makes it active when the plan is met.",
        version.version,
        plain(&version.slot),
    )?)
}

fn change(place: &Place, version: &VersionRow, event: Event, actor: Actor) -> anyhow::Result<()> {
    let (slot, digest) = (version.slot.clone(), version.digest.clone());
    place.ledger()?.write_blocking(move |writer| update::order(writer, &slot, &digest, event, &actor))?;
    Ok(())
}

fn refuse(out: &mut impl Write, place: &Place, which: &Which, by: &By) -> anyhow::Result<()> {
    let version = chosen(&place.reader()?, which, is_on_its_way)?;
    change(place, &version, Event::Refuse, actor(place, by)?)?;
    Ok(writeln!(out, "Version {} of model {} is refused.", version.version, plain(&version.slot))?)
}

fn rollback(out: &mut impl Write, place: &Place, model: &str, by: &By) -> anyhow::Result<()> {
    slot(&place.reader()?, model)?;
    let folders = Folders::of(&place.site.file.appliance.data_dir);
    let (from, to) = update::go_back(&place.ledger()?, &folders, model, actor(place, by)?)?;
    Ok(writeln!(
        out,
        "Model {} runs again with {}; {} is out of service until people approve it anew.",
        plain(model),
        &to[..12.min(to.len())],
        &from[..12.min(from.len())]
    )?)
}

fn disable(out: &mut impl Write, place: &Place, model: &str, by: &By) -> anyhow::Result<()> {
    let which = Which { model: model.to_owned(), digest: None };
    let version = chosen(&place.reader()?, &which, |version| version.state == State::Active)?;
    change(place, &version, Event::Disable, actor(place, by)?)?;
    Ok(writeln!(out, "Model {} is out of service; its studies wait.", plain(model))?)
}

fn verify(out: &mut impl Write, place: &Place, json: bool) -> anyhow::Result<ExitCode> {
    let reader = place.reader()?;
    let key = place.identity()?.public_key();
    let folders = Folders::of(&place.site.file.appliance.data_dir);
    let mut lines = Vec::new();
    for version in models::versions(&reader, None)?.into_iter().filter(|version| version.kept) {
        let files =
            update::verify_kept(&folders, &version.digest).err().map(|error| crate::config::chain(&error));
        let record = match models::acceptance(&reader, &version.slot, &version.digest)? {
            Some(kept) => match kept.signed.verify(&key) {
                Ok(record) if record.model_digest == version.digest => None,
                Ok(_) => Some("the acceptance record is of another version".to_owned()),
                Err(error) => Some(error.to_string()),
            },
            None if matches!(version.state, State::Active | State::Retired | State::Accepted) => {
                Some("there is no acceptance record".to_owned())
            }
            None => None,
        };
        lines.push((version, files, record));
    }
    let sound = lines.iter().all(|(_, files, record)| files.is_none() && record.is_none());
    if json {
        let lines: Vec<_> = lines
            .iter()
            .map(|(version, files, record)| {
                json!({
                    "model": version.slot, "digest": version.digest, "state": word(version.state),
                    "files": files, "record": record, "sound": files.is_none() && record.is_none(),
                })
            })
            .collect();
        print_json(out, &lines)?;
    } else {
        for (version, files, record) in &lines {
            let faults: Vec<&str> = files.iter().chain(record).map(String::as_str).collect();
            let word = if faults.is_empty() { "sound".to_owned() } else { faults.join("; ") };
            writeln!(
                out,
                "{} {} {} ({}): {}",
                plain(&version.slot),
                plain(&version.version),
                &version.digest[..12.min(version.digest.len())],
                version.state,
                plain(&word)
            )?;
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shadow(
    out: &mut impl Write,
    reader: &Connection,
    which: &Which,
    file: Option<&Path>,
    kept: Option<&str>,
) -> anyhow::Result<()> {
    let version = match which.digest {
        Some(_) => chosen(reader, which, |_| true)?,
        None => chosen(reader, which, |version| version.state == State::Shadow)
            .or_else(|_| chosen(reader, which, |version| was_in_shadow(reader, version)))
            .with_context(|| {
                format!("no version of model \"{}\" is in shadow, or was", plain(&which.model))
            })?,
    };
    if let (Some(start), Some(file)) = (kept, file) {
        let start = start.to_lowercase();
        let mut found = models::shadow::kept_reports(reader, &version.slot, &version.digest, &start)?;
        let (Some((sha256, page)), true) = (found.pop(), found.is_empty()) else {
            bail!("not exactly one kept report of version {} begins with {}", version.version, plain(&start));
        };
        write_file(file, page.as_bytes())?;
        return Ok(writeln!(out, "{}: report {sha256}", file.display())?);
    }
    let report = ShadowReport::of(reader, &version.slot, &version.digest)?
        .with_context(|| format!("version {} was not in shadow", version.version))?;
    if let Some(file) = file {
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("html") => write_file(file, report.page.as_bytes())?,
            Some("json") => write_file(file, &serde_json::to_vec_pretty(&report)?)?,
            _ => bail!("--out: name a file that ends in .html or .json"),
        }
        return Ok(writeln!(out, "{}: report {}", file.display(), report.sha256)?);
    }
    write!(out, "{}", report.text())?;
    let standing = &report.standing;
    let of = |asked: Option<String>| asked.map(|asked| format!(" of {asked}")).unwrap_or_default();
    writeln!(
        out,
        "\nSince {}: {:.2}{} hours, {}{} studies, {} failed, {} wait. Report {}.",
        utc_text(standing.began_at),
        standing.hours,
        of(report.asked.map(|asked| asked.hours.to_string())),
        standing.studies,
        of(report.asked.map(|asked| asked.studies.to_string())),
        standing.failed,
        standing.waiting,
        report.sha256
    )?;
    if !standing.fault.is_empty() {
        writeln!(out, "It does not run: {}", plain(&standing.fault))?;
    }
    Ok(())
}

fn was_in_shadow(reader: &Connection, version: &VersionRow) -> bool {
    models::shadow::standing(reader, &version.slot, &version.digest).is_ok_and(|standing| standing.is_some())
}

fn write_file(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(file, bytes).with_context(|| format!("writing {}", file.display()))
}

fn explain(out: &mut impl Write, reader: &Connection, which: &Which) -> anyhow::Result<()> {
    let version = chosen(reader, which, |_| true)?;
    writeln!(out, "Version {} is {}.", plain(&version.version), version.state)?;
    if !version.note.is_empty() {
        writeln!(out, "{}", plain(&version.note))?;
    }
    for event in models::events(reader, &version.slot, Some(&version.digest))? {
        if let Some(verdict) = &event.verdict {
            writeln!(out, "\n{} at {}:", event.event, utc_text(event.at))?;
            write!(out, "{}", plan::explain(verdict))?;
        }
    }
    Ok(())
}
