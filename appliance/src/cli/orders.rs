//! `lightbox orders`: what the RIS ordered, and the messages by which it did.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;

use super::SiteArg;
use super::place::{Place, who};
use super::print::{plain, print_json, print_table};
use crate::audit::{Event, EventKind};
use crate::clock::utc_text;
use crate::hl7::er7::Message;
use crate::ingest::orders::inbox::{self, Taken};
use crate::store::orders::{self, Order};

/// Lists orders from the RIS and the HL7 messages that made them.
///
/// An order belongs to a study by its Study Instance UID, else by its accession number. It may put the
/// study before others (STAT), say how many series to expect, and give the messages of results their
/// placer order number and procedure. Output names patients; each view goes to the audit log.
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
    /// The orders, the one that changed last first.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// One order, and the message that changed it last.
    Show {
        /// Its number, from `list`.
        id: i64,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// The HL7 messages that came, the last first, with what was done with each. Names no patient.
    #[command(after_help = "Examples:\n  lightbox orders messages --refused")]
    Messages {
        /// Only those that were refused.
        #[arg(long)]
        refused: bool,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Applies a kept message again, as the site file reads it now. Goes to the audit log with your
    /// account.
    Replay {
        /// Its number, from `messages`.
        id: i64,
    },
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.write(&mut std::io::stdout().lock())
    }

    pub(super) fn write(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let place = Place::open(&self.site)?;
        match self.command.unwrap_or(Command::List { limit: 50, json: false }) {
            Command::List { limit, json } => {
                let found = orders::list(&place.reader()?, limit)?;
                audit_view(&place, None)?;
                if json { print_json(out, &found)? } else { list(out, &found)? }
            }
            Command::Show { id, json } => {
                let reader = place.reader()?;
                let order = orders::one(&reader, id)?;
                let message = inbox::raw(&reader, order.message_id)?;
                audit_view(&place, Some(id))?;
                if json { print_json(out, &order)? } else { show(out, &order, message.expose())? }
            }
            Command::Messages { refused, limit, json } => {
                let found = inbox::list(&place.reader()?, refused, limit)?;
                if json {
                    print_json(out, &found)?;
                } else {
                    let rows: Vec<Vec<String>> = found
                        .iter()
                        .map(|message| {
                            vec![
                                message.id.to_string(),
                                utc_text(message.received_at),
                                message.source.clone(),
                                message.kind.clone(),
                                message.state.clone(),
                                message.orders.to_string(),
                                message.note.clone(),
                            ]
                        })
                        .collect();
                    print_table(
                        out,
                        &["ID", "RECEIVED", "SOURCE", "TYPE", "STATE", "ORDERS", "NOTE"],
                        &rows,
                    )?;
                }
            }
            Command::Replay { id } => {
                let (settings, by) = (place.site.file.orders.clone(), who());
                let taken = place
                    .ledger()?
                    .write_blocking(move |writer| inbox::replay(writer, id, &settings, &by))?;
                match taken {
                    Taken::Applied => writeln!(out, "applied")?,
                    Taken::Refused(refusal) => anyhow::bail!("refused again: {}", refusal.explain().2),
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Puts the view on record, as for studies.
fn audit_view(place: &Place, order: Option<i64>) -> anyhow::Result<()> {
    let by = who();
    let detail = json!({ "action": "viewed", "through": by.through, "orders": true, "order": order });
    let event = Event::new(EventKind::OperatorAction, by.operator, detail);
    match place.ledger()?.write_blocking(move |writer| writer.audit(&event)) {
        Err(error) if error.is_full() => {
            eprintln!("warning: the disk is full, this view is not on the audit log");
            Ok(())
        }
        other => Ok(other?),
    }
}

fn list(out: &mut impl Write, found: &[Order]) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|order| {
            vec![
                order.id.to_string(),
                order.status.clone(),
                if order.stat { "STAT".into() } else { String::new() },
                order.accession.expose().clone(),
                order.patient_id.expose().clone(),
                order.modality.clone(),
                order.procedure.as_ref().map(|code| code.meaning.clone()).unwrap_or_default(),
                order.source.clone(),
                utc_text(order.updated_at),
            ]
        })
        .collect();
    let headings =
        ["ID", "STATUS", "", "ACCESSION", "PATIENT", "MODALITY", "PROCEDURE", "SOURCE", "LAST MESSAGE"];
    Ok(print_table(out, &headings, &rows)?)
}

fn show(out: &mut impl Write, order: &Order, message: &[u8]) -> anyhow::Result<()> {
    let number = |value: Option<u32>| value.map_or("not told".to_owned(), |value| value.to_string());
    let stat = if order.stat { ", STAT" } else { "" };
    writeln!(out, "Order {} of {}: {}{stat}", order.id, plain(&order.source), order.status)?;
    for (name, value) in [
        ("Placer order number", order.placer.expose().clone()),
        ("Filler order number", order.filler.expose().clone()),
        ("Accession number", order.accession.expose().clone()),
        ("Study Instance UID", order.study_uid.expose().clone()),
        ("Patient", format!("{} {}", order.patient_id.expose(), order.patient_issuer.expose())),
        ("Modality", order.modality.clone()),
        ("Station", order.station_ae.clone()),
        ("Procedure", order.procedure.as_ref().map(|code| code.meaning.clone()).unwrap_or_default()),
        ("Scheduled", order.scheduled.expose().clone()),
        ("Expected series", number(order.expected_series)),
        ("Expected instances", number(order.expected_instances)),
    ] {
        writeln!(out, "  {name}: {}", plain(&value))?;
    }
    writeln!(out, "\nMessage {}:", order.message_id)?;
    if let Ok(message) = Message::parse(message) {
        for segment in message.text().expose().split(['\r', '\n']).filter(|segment| !segment.is_empty()) {
            writeln!(out, "  {}", plain(segment))?;
        }
    }
    Ok(())
}
