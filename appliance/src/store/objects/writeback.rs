//! Asks the kernel to begin writing to the disk what lies in the page cache, without waiting for it.
//!
//! The kernel writes dirty pages after seconds, or when a sync asks for them. Asked for while the rest of an
//! instance is still on its way, they are on the disk when its sync comes, which then has little left to do. No
//! crate here has a safe call for it.
#![allow(unsafe_code, reason = "sync_file_range(2) is known to libc only")]

use std::fs::File;
use std::os::fd::AsRawFd;

/// Begins to write what is dirty in the file from this byte on. Only a hint: what it comes to is told by the sync
/// that follows, so its own outcome tells nothing.
pub(super) fn begin(file: &File, from: u64) {
    // SAFETY: the call takes no pointer; the descriptor is open for as long as `file` is borrowed. It moves no
    // bytes between the file and this process, and with this flag alone neither waits nor takes errors away from
    // the sync.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), from as i64, 0, libc::SYNC_FILE_RANGE_WRITE);
    }
}
