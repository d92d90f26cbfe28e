//! Moves objects out of the segments into files of their own, one folder for each study, so that the
//! segments can be used again.
//!
//! It is lazy: while instances are arriving it leaves the disk to them, unless the segments run out.
//! An object's file is durable under its final name before the object leaves its segments.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use super::direct::DirectFile;
use super::log::Located;
use super::{Inner, ObjectError, ObjectId, Reader, io_error};
use crate::store::folder;

/// How often the exporter looks for work.
const EVERY: Duration = Duration::from_millis(250);
/// Looks without a new instance after which ingest counts as quiet.
const QUIET_LOOKS: u32 = 8;
/// Objects moved between two looks at whether ingest is quiet still.
const AT_ONCE: usize = 64;

/// Moves objects out until the store is closed. Runs on a thread of its own.
pub(super) fn run(inner: &Inner) {
    let (mut seen, mut quiet) = (usize::MAX, 0);
    loop {
        if inner.closing.wait(EVERY) {
            return;
        }
        let syncs = inner.log.syncs();
        quiet = if syncs == seen { quiet + 1 } else { 0 };
        seen = syncs;
        while quiet >= QUIET_LOOKS || inner.pool.is_pressed() {
            match some(inner) {
                Ok(0) => break,
                Ok(moved) => metrics::counter!("lightbox_objects_exported_total").increment(moved as u64),
                Err(error) => {
                    // With a full disk it waits for room; the objects stay where they are.
                    tracing::warn!(reason = %error, "objects cannot be moved out of their segments yet");
                    break;
                }
            }
            if inner.closing.is_set() {
                return;
            }
            if inner.log.syncs() != seen && !inner.pool.is_pressed() {
                break;
            }
        }
    }
}

/// Moves some objects of the oldest segment that has any; yields how many.
fn some(inner: &Inner) -> Result<usize, ObjectError> {
    let chosen = choose(inner);
    let mut folders: BTreeMap<String, Vec<ObjectId>> = BTreeMap::new();
    let mut parts = Vec::new();
    for (id, located) in &chosen {
        parts.extend(write_file(inner, id, located)?);
        folders.entry(id.study_key().to_owned()).or_default().push(id.clone());
    }
    // All are written before the first is synced: that sync commits the file system's journal for all of them,
    // and each of the others costs a flush only.
    for part in parts {
        part.finish()?;
    }
    for (study, moved) in &folders {
        folder::sync(&inner.studies.join(study)).map_err(io_error("syncing a study's folder"))?;
        let mut live = inner.live.lock();
        for id in moved {
            live.remove(id);
        }
    }
    let moved = chosen.len();
    drop(chosen);
    inner.pool.look_again();
    Ok(moved)
}

/// Some objects that have bytes in the oldest segment that any object has.
fn choose(inner: &Inner) -> Vec<(ObjectId, Located)> {
    let live = inner.live.lock();
    let oldest_of = |located: &Located| {
        let pieces = located.pieces.iter().chain([&located.record]);
        pieces.map(|piece| piece.segment.header.number).min()
    };
    let Some(oldest) = live.values().filter_map(oldest_of).min() else { return Vec::new() };
    live.iter()
        .filter(|(_, located)| oldest_of(located) == Some(oldest))
        .take(AT_ONCE)
        .map(|(id, located)| (id.clone(), located.clone()))
        .collect()
}

/// A file that is written and neither synced nor named yet; removed if it comes to neither.
struct Part {
    file: File,
    part: PathBuf,
    path: PathBuf,
}

impl Part {
    /// Syncs and names it: durable under its name once its folder is synced.
    fn finish(self) -> Result<(), ObjectError> {
        self.file.sync_data().map_err(io_error("syncing an object's file"))?;
        fs::rename(&self.part, &self.path).map_err(io_error("naming an object's file"))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Not there any more where it was named.
        drop(fs::remove_file(&self.part));
    }
}

/// Writes an object's file; none where it is there already.
fn write_file(inner: &Inner, id: &ObjectId, located: &Located) -> Result<Option<Part>, ObjectError> {
    let path = inner.path(id);
    if path.exists() {
        // A copy that came again after the first was moved: the same bytes.
        return Ok(None);
    }
    if inner.free_bytes()? < inner.reserve_bytes.saturating_add(located.length()) {
        return Err(ObjectError::Full);
    }
    folder::make(&inner.studies.join(id.study_key())).map_err(io_error("making a study's folder"))?;
    let entry = located.entry()?;
    let part = path.with_extension("part");
    let write = || -> Result<File, ObjectError> {
        let mut out = DirectFile::create(&part).map_err(io_error("making an object's file"))?;
        let head = entry.receipt.part_ten_head()?;
        let mut data_set = Reader::of_pieces(&located.pieces);
        let appended = out.append(&mut &head[..]).and_then(|()| out.append(&mut data_set));
        appended.and_then(|()| out.finish()).map_err(io_error("writing an object's file"))
    };
    match write() {
        Ok(file) => Ok(Some(Part { file, part, path })),
        Err(error) => {
            drop(fs::remove_file(&part));
            Err(error)
        }
    }
}
