//! `lightbox queue`: what waits for its destination, what was refused, and sending it again.

use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;
use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};
use serde_json::json;

use super::SiteArg;
use super::place::{Place, who};
use super::print::{print_json, print_table};
use crate::clock::utc_text;
use crate::job::{DeliveryState, State};
use crate::store::queries::{self, DeliveryFilter};
use crate::store::replay::{Outgoing, Wish};

/// Lists what is outgoing, sends dead letters again, and releases what a rule holds.
///
/// A delivery is one result on its way to one destination; a forward is one series on its way as it was
/// received, its number begins with `f`. One that the destination refused for
/// good, or that failed for too long, is a dead letter: it is kept with the destination's own words,
/// and goes out again when a person says so.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(flatten)]
    site: SiteArg,
    /// Without a verb: `list`.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What is queued, being sent, held by a rule, or dead. The destination's words may name a patient.
    #[command(
        after_help = "Examples:\n  lightbox queue list\n  lightbox queue list --state dead --destination ris --json"
    )]
    List {
        /// Only deliveries in this state, delivered ones too.
        #[arg(long, value_parser = PossibleValuesParser::new(DeliveryState::ALL.iter().map(|state| state.as_str())))]
        state: Option<String>,
        /// Only deliveries to this destination of the site file.
        #[arg(long)]
        destination: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Sends dead letters again, at once and with all their tries; the running daemon picks them
    /// up. Goes to the audit log with your account.
    #[command(
        after_help = "Examples:\n  lightbox queue replay 17 18\n  lightbox queue replay --all-dead --destination ris"
    )]
    Replay {
        /// Numbers of deliveries and forwards, as `list` shows them.
        #[arg(required_unless_present = "all_dead")]
        ids: Vec<Outgoing>,
        /// All dead letters.
        #[arg(long, conflicts_with = "ids")]
        all_dead: bool,
        /// With --all-dead: only those to this destination.
        #[arg(long, requires = "all_dead")]
        destination: Option<String>,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Lets go what a rule holds (`hold = true`): at once, or when the rule's hours begin. Goes to the
    /// audit log with your account. What was made in shadow mode stays.
    #[command(
        after_help = "Examples:\n  lightbox queue release f3\n  lightbox queue release --all --destination archive"
    )]
    Release {
        /// Numbers of deliveries and forwards, as `list` shows them.
        #[arg(required_unless_present = "all")]
        ids: Vec<Outgoing>,
        /// All that is held.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        /// With --all: only what goes to this destination.
        #[arg(long, requires = "all")]
        destination: Option<String>,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.write(&mut std::io::stdout().lock())
    }

    pub(super) fn write(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let place = Place::open(&self.site)?;
        let usual = Command::List { state: None, destination: None, limit: 100, json: false };
        let command = self.command.unwrap_or(usual);
        let (Command::List { destination, .. }
        | Command::Replay { destination, .. }
        | Command::Release { destination, .. }) = &command;
        // A name with a slip in it would quietly find nothing.
        if let Some(name) = destination
            && !queries::destinations(&place.reader()?)?.contains_key(name)
            && place.site.destination(name).is_none()
        {
            bail!("there is no destination \"{name}\" in the site file or the ledger");
        }
        match command {
            Command::List { state, destination, limit, json } => {
                let chosen = state.as_deref().and_then(DeliveryState::parse);
                let states = match chosen {
                    Some(state) => vec![state],
                    None => DeliveryState::ALL
                        .iter()
                        .copied()
                        .filter(|state| *state != DeliveryState::Delivered)
                        .collect(),
                };
                let filter = DeliveryFilter { states, destination, limit };
                let reader = place.reader()?;
                let (mut lines, mut forwards) =
                    (queries::deliveries(&reader, &filter)?, queries::forwards(&reader, &filter)?);
                if chosen.is_none() {
                    // What is in shadow mode waits for nothing.
                    lines.retain(|line| line.state != DeliveryState::Held.as_str() || line.can_release());
                    forwards.retain(|line| line.state != DeliveryState::Held.as_str() || line.can_release());
                }
                if json { print_json(out, &both(&lines, &forwards)?)? } else { list(out, &lines, &forwards)? }
            }
            Command::Replay { ids, all_dead, destination, json } => {
                let replayed = act(&place, Wish::Replay, ids, all_dead, destination)?;
                if json {
                    print_json(out, &json!({ "replayed": replayed }))?;
                } else {
                    writeln!(out, "{} queued again", replayed.len())?;
                }
            }
            Command::Release { ids, all, destination, json } => {
                let released = act(&place, Wish::Release, ids, all, destination)?;
                if json {
                    print_json(out, &json!({ "released": released }))?;
                } else {
                    writeln!(out, "{} released", released.len())?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One transaction: either all of them are done, or none.
fn act(
    place: &Place,
    wish: Wish,
    ids: Vec<Outgoing>,
    all: bool,
    destination: Option<String>,
) -> anyhow::Result<Vec<Outgoing>> {
    let by = who();
    Ok(place.ledger()?.write_blocking(move |writer| {
        if all {
            return wish.act_on_all(writer, destination.as_deref(), &by);
        }
        for id in &ids {
            wish.act(writer, *id, &by)?;
        }
        Ok(ids)
    })?)
}

/// Both kinds in one list; a forward's number is a text, as `replay` takes it.
fn both(
    deliveries: &[queries::DeliveryLine],
    forwards: &[queries::ForwardLine],
) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut all = Vec::new();
    for line in deliveries {
        let mut value = serde_json::to_value(line)?;
        value["kind"] = json!("result");
        all.push(value);
    }
    for line in forwards {
        let mut value = serde_json::to_value(line)?;
        value["kind"] = json!("forward");
        value["id"] = json!(Outgoing::Forward(line.id));
        all.push(value);
    }
    Ok(all)
}

fn list(
    out: &mut impl Write,
    lines: &[queries::DeliveryLine],
    forwards: &[queries::ForwardLine],
) -> anyhow::Result<()> {
    if lines.is_empty() && forwards.is_empty() {
        return Ok(writeln!(out, "Nothing waits and nothing is dead.")?);
    }
    if !lines.is_empty() {
        list_deliveries(out, lines)?;
    }
    if !forwards.is_empty() {
        if !lines.is_empty() {
            writeln!(out)?;
        }
        list_forwards(out, forwards)?;
    }
    Ok(())
}

/// When it is tried next; empty where that is not so.
fn next_try(state: &str, next_at: i64) -> String {
    if state == DeliveryState::Queued.as_str() { utc_text(next_at) } else { String::new() }
}

fn list_forwards(out: &mut impl Write, lines: &[queries::ForwardLine]) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            vec![
                Outgoing::Forward(line.id).to_string(),
                line.study.clone(),
                format!("series {}", line.series),
                line.destination.clone(),
                line.state.clone(),
                format!("{}/{}", line.sent, line.total),
                line.attempts.to_string(),
                utc_text(line.queued_at),
                next_try(&line.state, line.next_at),
                line.last_reason.as_ref().map(|reason| reason.expose().clone()).unwrap_or_default(),
            ]
        })
        .collect();
    let headings =
        ["ID", "STUDY", "SENT ON", "DESTINATION", "STATE", "IMAGES", "TRIES", "QUEUED", "NEXT TRY", "WHY"];
    Ok(print_table(out, &headings, &rows)?)
}

fn list_deliveries(out: &mut impl Write, lines: &[queries::DeliveryLine]) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            vec![
                line.id.to_string(),
                line.study.clone(),
                line.model.clone(),
                line.destination.clone(),
                line.state.clone(),
                line.attempts.to_string(),
                utc_text(line.queued_at),
                next_try(&line.state, line.next_at),
                line.last_reason.as_ref().map(|reason| reason.expose().clone()).unwrap_or_default(),
            ]
        })
        .collect();
    let headings = [
        "ID",
        "STUDY",
        "MODEL",
        "DESTINATION",
        "STATE",
        "TRIES",
        "QUEUED",
        "NEXT TRY",
        "WHAT THE DESTINATION SAID",
    ];
    Ok(print_table(out, &headings, &rows)?)
}
