//! `lightbox commitments`: storage commitment, asked of us and asked by us.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::SiteArg;
use super::place::{Place, who};
use super::print::{print_json, print_table};
use crate::clock::utc_text;
use crate::store::commitments;

/// Lists storage commitment in both directions, and tries again what was given up.
///
/// `asked of us`: a peer asked whether instances are safe here, and is told. `asked by us`: a
/// destination with `commit = true` was asked to commit to a result that it has taken.
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
    /// What was asked, and how far it is.
    List {
        /// At most so many of each direction.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Write JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Tries again: reports to the peer, or asks the destination, once more. Goes to the audit log with
    /// your account.
    #[command(
        after_help = "Examples:\n  lightbox commitments replay 3\n  lightbox commitments replay --delivery 17"
    )]
    Replay {
        /// Number of a request that was asked of us and whose report was given up.
        #[arg(required_unless_present = "delivery")]
        id: Option<i64>,
        /// Number of a delivery to which the destination did not commit.
        #[arg(long, conflicts_with = "id")]
        delivery: Option<i64>,
    },
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let out = &mut std::io::stdout().lock();
        let place = Place::open(&self.site)?;
        match self.command.unwrap_or(Command::List { limit: 100, json: false }) {
            Command::List { limit, json } => {
                let lines = commitments::list(&place.reader()?, limit)?;
                if json { print_json(out, &lines)? } else { list(out, &lines)? }
            }
            Command::Replay { id, delivery } => {
                let by = who();
                let whom = place.ledger()?.write_blocking(move |writer| match (id, delivery) {
                    (Some(id), _) => commitments::replay(writer, id, &by),
                    (None, delivery) => commitments::ask_again(writer, delivery.unwrap_or_default(), &by),
                })?;
                writeln!(out, "{whom} hears of it again")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(out: &mut impl Write, lines: &[commitments::Line]) -> anyhow::Result<()> {
    if lines.is_empty() {
        return Ok(writeln!(out, "Nobody has asked for storage commitment.")?);
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            vec![
                line.id.to_string(),
                if line.ours { "asked by us" } else { "asked of us" }.to_owned(),
                line.whom.clone(),
                line.state.clone(),
                line.attempts.to_string(),
                utc_text(line.asked_at),
                line.reason.clone(),
            ]
        })
        .collect();
    let headings = ["ID", "DIRECTION", "PEER OR DESTINATION", "STATE", "TRIES", "SINCE", "WHY"];
    Ok(print_table(out, &headings, &rows)?)
}
