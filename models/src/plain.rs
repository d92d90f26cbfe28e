//! Opening files that others name: a link, a device or a pipe is told, and never followed, read or waited for.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// What is said of a file that is none.
const NOT_PLAIN: &str = "a link or a special file";

/// Opens a plain file for reading. A link, a pipe, a device or a folder is an error of kind
/// [`io::ErrorKind::InvalidInput`]; opening one does not block, and what was opened is what was judged.
pub fn open(path: &Path) -> io::Result<File> {
    judged(OpenOptions::new().read(true), path)
}

/// A path below a folder, as [`crate::manifest::is_inside`] has it, that no link on the way leads out of.
pub fn below(folder: &Path, path: &str) -> io::Result<PathBuf> {
    let refused = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if !crate::manifest::is_inside(path) {
        return refused("not a path below the folder");
    }
    let whole = folder.join(path);
    let between = whole.ancestors().skip(1).take_while(|part| *part != folder);
    for part in between {
        // What is missing is told by who opens it.
        if std::fs::symlink_metadata(part).is_ok_and(|found| !found.is_dir()) {
            return refused(NOT_PLAIN);
        }
    }
    Ok(whole)
}

/// Reads a plain file of at most `most` bytes; a longer one is an error of kind
/// [`io::ErrorKind::FileTooLarge`].
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("above {most} bytes")));
    }
    Ok(bytes)
}

/// Reads a plain text file: [`read`].
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8 text"))
}

/// Writes a plain file anew, or a new one; never through a link and never into a device.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = judged(OpenOptions::new().write(true).create(true).truncate(false), path)?;
    // Emptied only now that it is known to be a file.
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(bytes)
}

fn judged(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let refused = || io::Error::new(io::ErrorKind::InvalidInput, NOT_PLAIN);
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let file = options.custom_flags(flags.bits()).open(path).map_err(|error| {
        // ELOOP: a link; ENXIO: a pipe without a reader, or a socket.
        match error.raw_os_error() {
            Some(code) if [nix::libc::ELOOP, nix::libc::ENXIO].contains(&code) => refused(),
            _ => error,
        }
    })?;
    if !file.metadata()?.is_file() {
        return Err(refused());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_are_opened_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_text(&at("file"), 4).unwrap(), "text");
        assert_eq!(read(&at("file"), 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        for refused in [at("link"), at("pipe"), folder.path().to_owned(), "/dev/zero".into()] {
            assert_eq!(
                open(&refused).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{}",
                refused.display()
            );
        }
        for refused in [at("link"), at("pipe"), "/dev/null".into()] {
            assert_eq!(
                write(&refused, b"x").unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{}",
                refused.display()
            );
        }
        assert_eq!(read_text(&at("file"), 9).unwrap(), "text", "nothing was written through the link");
        write(&at("file"), b"new").unwrap();
        assert_eq!(read_text(&at("file"), 9).unwrap(), "new");
        std::fs::create_dir(at("real")).unwrap();
        std::fs::write(at("real/x"), "x").unwrap();
        std::os::unix::fs::symlink(at("real"), at("lead")).unwrap();
        assert_eq!(below(folder.path(), "real/x").unwrap(), at("real/x"));
        for out in ["lead/x", "../x", "/etc/hostname", "real/../../x", "", "real//x"] {
            assert_eq!(below(folder.path(), out).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{out}");
        }
        assert_eq!(open(&at("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
