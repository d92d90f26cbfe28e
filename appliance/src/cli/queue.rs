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
use crate::store::replay;

/// Lists deliveries and sends dead letters again.
///
/// A delivery is one result on its way to one destination. One that the destination refused for
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
    /// What is queued, being sent, or dead. The destination's words may name a patient.
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
        /// Numbers of deliveries, as `list` shows them.
        #[arg(required_unless_present = "all_dead")]
        ids: Vec<i64>,
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
        let (Command::List { destination, .. } | Command::Replay { destination, .. }) = &command;
        // A name with a slip in it would quietly find nothing.
        if let Some(name) = destination
            && !queries::destinations(&place.reader()?)?.contains_key(name)
            && place.site.destination(name).is_none()
        {
            bail!("there is no destination \"{name}\" in the site file or the ledger");
        }
        match command {
            Command::List { state, destination, limit, json } => {
                let states = match state.as_deref().and_then(DeliveryState::parse) {
                    Some(state) => vec![state],
                    None => vec![DeliveryState::Queued, DeliveryState::Sending, DeliveryState::Dead],
                };
                let filter = DeliveryFilter { states, destination, limit };
                let lines = queries::deliveries(&place.reader()?, &filter)?;
                if json { print_json(out, &lines)? } else { list(out, &lines)? }
            }
            Command::Replay { ids, all_dead, destination, json } => {
                let by = who();
                // One transaction: either all of them go out again, or none.
                let replayed = place.ledger()?.write_blocking(move |writer| {
                    if all_dead {
                        return replay::replay_all_dead(writer, destination.as_deref(), &by);
                    }
                    for id in &ids {
                        replay::replay_delivery(writer, *id, &by)?;
                    }
                    Ok(ids)
                })?;
                if json {
                    print_json(out, &json!({ "replayed": replayed }))?;
                } else {
                    writeln!(out, "{} queued again", replayed.len())?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(out: &mut impl Write, lines: &[queries::DeliveryLine]) -> anyhow::Result<()> {
    if lines.is_empty() {
        return Ok(writeln!(out, "Nothing waits and nothing is dead.")?);
    }
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
                if line.state == DeliveryState::Queued.as_str() {
                    utc_text(line.next_at)
                } else {
                    String::new()
                },
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
