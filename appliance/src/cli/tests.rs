//! The verbs, on a ledger that a daemon holds open.

use std::process::ExitCode;

use clap::Parser;
use rusqlite::Connection;

use super::*;
use crate::store::fixture::Fixture;

fn arguments(fixture: &Fixture, words: &[&str]) -> Vec<String> {
    let site = fixture.folder.path().join("site.toml").display().to_string();
    ["lightbox".to_owned()]
        .into_iter()
        .chain(words.iter().map(|word| (*word).to_owned()))
        .chain(["--site".to_owned(), site])
        .collect()
}

fn ended(code: anyhow::Result<ExitCode>, text: Vec<u8>) -> (String, String) {
    let code = match code {
        Ok(code) => format!("{code:?}"),
        Err(error) => format!("{error:#}"),
    };
    (code, String::from_utf8(text).expect("UTF-8"))
}

fn studies(fixture: &Fixture, words: &[&str]) -> (String, String) {
    let mut out = Vec::new();
    let args = studies::Args::try_parse_from(arguments(fixture, words)).expect("parsed");
    ended(args.write(&mut out), out)
}

fn queue(fixture: &Fixture, words: &[&str]) -> (String, String) {
    let mut out = Vec::new();
    let args = queue::Args::try_parse_from(arguments(fixture, words)).expect("parsed");
    ended(args.write(&mut out), out)
}

fn audit(fixture: &Fixture, words: &[&str]) -> (String, String) {
    let mut out = Vec::new();
    let args = audit::Args::try_parse_from(arguments(fixture, words)).expect("parsed");
    ended(args.write(&mut out), out)
}

fn ok() -> String {
    format!("{:?}", ExitCode::SUCCESS)
}

fn broken() -> String {
    format!("{:?}", ExitCode::from(audit::EXIT_BROKEN))
}

#[test]
fn studies_are_listed_and_one_says_why_it_went_where() {
    let fixture = Fixture::complete();
    let (code, list) = studies(&fixture, &["list", "--problems"]);
    assert_eq!(code, ok());
    assert!(list.contains(&fixture.key()) && list.contains("1 dead, 1 delivered"));
    let (_, shown) = studies(&fixture, &["show", &fixture.key()]);
    for told in
        ["no new instance for 60 s", "MATCHED  phantoms", "thin chest", "suppressed", "NOT FOR CLINICAL"]
    {
        assert!(shown.contains(told), "{told} in\n{shown}");
    }
    assert!(!shown.contains("JANE"));
    let (_, json) = studies(&fixture, &["show", &fixture.key(), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["revisions"][0]["jobs"][0]["outcome"]["tiers"]["flagged"], 1);
    assert_eq!(studies(&fixture, &["show", "nobody"]).0, "ledger: no such study");
    let (_, log) = audit(&fixture, &["export"]);
    assert_eq!(log.matches("viewed").count(), 2, "both views are on record");
}

#[test]
fn dead_letters_are_replayed_beside_the_daemon_and_the_chain_stays_whole() {
    let fixture = Fixture::complete();
    fixture.sql("UPDATE deliveries SET last_reason = 'AE' || char(27) || '[2J' WHERE id = 2");
    let (_, list) = queue(&fixture, &["list"]);
    assert!(list.contains("dead") && !list.contains('\u{1b}') && !list.contains("delivered"));
    assert!(queue(&fixture, &["replay", "1", "2"]).0.contains("only a dead letter"));
    let (_, still) = queue(&fixture, &["list", "--state", "dead", "--json"]);
    assert!(still.contains("\"id\": 2"), "one that cannot be replayed leaves the others as they are");
    assert!(queue(&fixture, &["replay", "--all-dead", "--destination", "rsi"]).0.contains("no destination"));
    assert_eq!(queue(&fixture, &["replay", "2"]), (ok(), "1 queued again\n".into()));
    let (code, said) = audit(&fixture, &["verify"]);
    assert_eq!(code, ok());
    assert!(said.starts_with("whole: 5 records"), "{said}");
    fixture.sql("UPDATE deliveries SET state = 'dead'");
    assert_eq!(queue(&fixture, &["replay", "--all-dead"]).1, "2 queued again\n");
}

#[test]
fn a_ledger_of_another_release_and_a_missing_key_are_left_alone() {
    let fixture = Fixture::complete();
    std::fs::remove_file(fixture.data_dir().join("device.key")).expect("removed");
    assert!(queue(&fixture, &["replay", "2"]).0.contains("device key"));
    assert!(!fixture.data_dir().join("device.key").exists(), "no new one is made");
    // A newer release's, which lets no older one work on it.
    fixture.sql("PRAGMA user_version = 77");
    fixture.sql("UPDATE ledger_reach SET oldest = 77");
    assert!(queue(&fixture, &["replay", "2"]).0.contains("schema version 77"));
}

/// Changes the log behind the ledger's back, as somebody with the disk could.
fn tamper(fixture: &Fixture, sql: &str) {
    let connection = Connection::open(fixture.data_dir().join("ledger.db")).expect("opened");
    connection
        .execute_batch(&format!(
            "DROP TRIGGER IF EXISTS audit_is_append_only_1; DROP TRIGGER IF EXISTS audit_is_append_only_2; {sql}"
        ))
        .expect("changed");
}

#[test]
fn a_changed_log_is_found_at_its_place_in_the_ledger() {
    for (sql, said) in [
        ("UPDATE audit SET subject = 'x' WHERE seq = 3", "record 3: its content does not match"),
        ("UPDATE audit SET at = at + 1 WHERE seq = 2", "record 2: its content does not match"),
        ("DELETE FROM audit WHERE seq = 2", "record 2: missing or out of order (found 3"),
        (
            "UPDATE audit SET seq = -1 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3;
             UPDATE audit SET seq = 3 WHERE seq = -1",
            "record 2: its content does not match",
        ),
        ("DELETE FROM audit WHERE seq = 4", "ends at record 3, but the signed head says 4"),
        (
            "DELETE FROM audit WHERE seq = 4; UPDATE audit_head SET seq = 3,
                hash = (SELECT hash FROM audit WHERE seq = 3)",
            "the signature at record 3 is not this device's",
        ),
        ("DELETE FROM audit_head", "no signed head"),
    ] {
        let fixture = Fixture::complete();
        tamper(&fixture, sql);
        let (code, found) = audit(&fixture, &["verify"]);
        assert_eq!(code, broken());
        assert!(found.contains(said), "{sql}: {found}");
    }
}

#[test]
fn a_changed_export_is_found_at_its_place_with_the_public_key_alone() {
    let fixture = Fixture::complete();
    let file = |name: &str| fixture.folder.path().join(name).display().to_string();
    let (_, key) = audit(&fixture, &["public-key"]);
    std::fs::write(file("device.pub"), key).expect("written");
    assert_eq!(audit(&fixture, &["export", &file("whole")]).0, ok());
    let whole = std::fs::read_to_string(file("whole")).expect("read");
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 5, "a head and four records");
    let check = |text: &str| {
        std::fs::write(file("export"), text).expect("written");
        let words = ["verify-file", &file("export"), "--public-key", &file("device.pub")];
        audit(&fixture, &words)
    };
    assert_eq!(check(&whole).0, ok());
    let without = |skipped: usize| {
        let kept: Vec<&str> =
            lines.iter().enumerate().filter(|(index, _)| *index != skipped).map(|(_, line)| *line).collect();
        kept.join("\n")
    };
    let swapped = [lines[0], lines[1], lines[3], lines[2], lines[4]].join("\n");
    for (text, said) in [
        (whole.replacen("ct-1", "ct-2", 1), "record 1: its content"),
        (without(2), "record 2: missing or out of order (found 3"),
        (swapped, "record 2: missing or out of order (found 3"),
        (without(4), "ends at record 3, but the signed head says 4"),
        (without(0), "no signed head"),
        (whole[..whole.len() - 20].to_owned(), "line 5 of the export"),
    ] {
        let (code, found) = check(&text);
        assert_eq!(code, broken());
        assert!(found.contains(said), "{said}: {found}");
    }
}
