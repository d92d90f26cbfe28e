//! The `lightbox` command: one binary for the daemon and for everything that is done beside it.

use std::process::ExitCode;

use clap::Parser;
use lightbox::cli::{
    acceptance_set, audit, boot, bundle, commitments, conformance, demo, health, inspect, keys, models,
    orders, peers, phantom, plan, query, queue, quiet, recall, repository, rules, send, serve, site, studies,
    system,
};
use lightbox::config::EXIT_BAD_SITE_FILE;
use lightbox::daemon::StartError;
use lightbox_provisioning::site::SiteError;

/// Imaging-AI appliance: receives studies by DICOM TLS, runs models on them, and sends preliminary
/// results to the PACS (DICOM SR) and the RIS (HL7).
///
/// First steps: `lightbox demo` shows the whole line on this machine. `lightbox site example` prints
/// a site file to start from, `lightbox site check FILE` says what is wrong with it, and `lightbox
/// serve --site FILE` runs the daemon. `lightbox studies` and `lightbox queue` show where each study
/// and each result is, and why; `lightbox peers` who was turned away, and what to do.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Demo(demo::Args),
    Serve(serve::Args),
    Site(site::Args),
    Rules(rules::Args),
    Studies(studies::Args),
    Queue(queue::Args),
    Query(query::Args),
    Commitments(commitments::Args),
    Models(models::Args),
    Orders(orders::Args),
    Peers(peers::Args),
    Audit(audit::Args),
    Health(health::Args),
    Boot(boot::Args),
    System(system::Args),
    Inspect(inspect::Args),
    Send(send::Args),
    Phantom(phantom::Args),
    Bundle(bundle::Args),
    AcceptanceSet(acceptance_set::Args),
    Plan(plan::Args),
    Repository(repository::Args),
    Recall(recall::Args),
    Keys(keys::Args),
    Conformance(conformance::Args),
}

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    // The daemon is nobody's pipe: it goes on.
    if !matches!(verb, Verb::Serve(_)) {
        quiet::end_with_the_reader();
    }
    let result = match verb {
        Verb::Demo(args) => args.run(),
        Verb::Serve(args) => args.run(),
        Verb::Site(args) => args.run(),
        Verb::Rules(args) => args.run(),
        Verb::Studies(args) => args.run(),
        Verb::Queue(args) => args.run(),
        Verb::Query(args) => args.run(),
        Verb::Commitments(args) => args.run(),
        Verb::Models(args) => args.run(),
        Verb::Orders(args) => args.run(),
        Verb::Peers(args) => args.run(),
        Verb::Audit(args) => args.run(),
        Verb::Health(args) => args.run(),
        Verb::Boot(args) => args.run(),
        Verb::System(args) => args.run(),
        Verb::Inspect(args) => args.run(),
        Verb::Send(args) => args.run(),
        Verb::Phantom(args) => args.run(),
        Verb::Bundle(args) => args.run(),
        Verb::AcceptanceSet(args) => args.run(),
        Verb::Plan(args) => args.run(),
        Verb::Repository(args) => args.run(),
        Verb::Recall(args) => args.run(),
        Verb::Keys(args) => args.run(),
        Verb::Conformance(args) => args.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) if quiet::is_the_reader_gone(&error) => ExitCode::from(quiet::EXIT_READER_GONE),
        Err(error) => {
            eprintln!("lightbox: {}", serve::explain(&error));
            let bad_site = error.chain().any(|cause| {
                cause.is::<SiteError>() || matches!(cause.downcast_ref(), Some(StartError::Site(_)))
            });
            if bad_site { ExitCode::from(EXIT_BAD_SITE_FILE) } else { ExitCode::FAILURE }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn every_verb_s_arguments_are_sound() {
        super::Cli::command().debug_assert();
    }
}
