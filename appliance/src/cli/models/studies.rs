//! `lightbox models studies`: on which studies a version gave a result.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::Context as _;
use lightbox_models::life_cycle::State;
use rusqlite::Connection;

use super::super::print::plain;
use super::{Which, chosen, slot, there};
use crate::store::models::{self, VersionRow};

/// The versions whose studies somebody asks for. After a recall those of what was recalled: whoever asks then must not
/// be shown those of another version, of which there may be none.
fn whose_studies(reader: &Connection, which: &Which) -> anyhow::Result<Vec<VersionRow>> {
    if which.digest.is_some() {
        return Ok(vec![chosen(reader, which, |_| true)?]);
    }
    let versions = models::versions(reader, Some(&slot(reader, &which.model)?.slot))?;
    let recalled: Vec<VersionRow> =
        versions.iter().filter(|version| version.state == State::Recalled).cloned().collect();
    if !recalled.is_empty() {
        return Ok(recalled);
    }
    let there = there(&versions);
    let ran = versions.into_iter().filter(|version| version.last_active > 0);
    let last = ran.max_by_key(|version| (version.state == State::Active, version.last_active));
    let none = || format!("no version of model \"{}\" was ever active: {there}", plain(&which.model));
    Ok(vec![last.with_context(none)?])
}

pub(super) fn write(out: &mut impl Write, reader: &Connection, which: &Which) -> anyhow::Result<()> {
    let mut keys = BTreeSet::new();
    for version in whose_studies(reader, which)? {
        let touched = models::touched(reader, &version.slot, &version.digest)?;
        eprintln!(
            "Version {} ({}) of model {}, {}: studies with its results: {}",
            plain(&version.version),
            version.digest.get(..12).unwrap_or(&version.digest),
            plain(&version.slot),
            version.state,
            touched.len()
        );
        keys.extend(touched);
    }
    for key in keys {
        writeln!(out, "{key}")?;
    }
    Ok(())
}
