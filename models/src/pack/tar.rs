//! The one form of tar header that a packed bundle has (POSIX.1-1988 ustar).
//!
//! Reading is comparing: name and size are taken out, the header that they would be written with is
//! made again, and every byte must be the same. So no field that we do not use can mean anything.

use super::error::PackError;

/// Bytes of a header, and what each file is filled up to.
pub(super) const BLOCK: usize = 512;
/// Bytes of the name field: paths of manifests are bounded by it.
const NAME: usize = 100;

/// A header's name and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) size: u64,
}

impl Entry {
    /// Zeros that follow the file's bytes.
    pub(super) fn padding(&self) -> usize {
        let over = (self.size % BLOCK as u64) as usize;
        if over == 0 { 0 } else { BLOCK - over }
    }

    /// The header. Names are ASCII of at most 100 bytes and sizes below 8 GiB, as the manifest's
    /// check makes sure; what is longer is cut and refused by the comparison on reading.
    pub(super) fn header(&self) -> [u8; BLOCK] {
        let mut header = [0; BLOCK];
        let name = &self.name.as_bytes()[..self.name.len().min(NAME)];
        header[..name.len()].copy_from_slice(name);
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..135].copy_from_slice(format!("{:011o}", self.size % (1 << 33)).as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[148..156].fill(b' ');
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[329..337].copy_from_slice(b"0000000\0");
        header[337..345].copy_from_slice(b"0000000\0");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    /// Reads a header; `index` is what a refusal names.
    pub(super) fn read(header: &[u8; BLOCK], index: usize) -> Result<Entry, PackError> {
        if header[257..262] != *b"ustar" {
            return Err(if index == 0 {
                PackError::NotPacked
            } else {
                PackError::Header { index, field: "the magic number" }
            });
        }
        if let Some(kind) = kind(header[156]) {
            return Err(PackError::EntryKind { index, kind });
        }
        let text = &header[..NAME];
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(NAME);
        let name =
            str::from_utf8(&text[..end]).map_err(|_| PackError::Header { index, field: "the name" })?;
        if name.starts_with('/') || name.split(['/', '\\']).any(|part| part == "..") {
            return Err(PackError::PathTraversal { index });
        }
        let digits = &header[124..135];
        if !digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
            return Err(PackError::Header { index, field: "the size" });
        }
        let size = digits.iter().fold(0, |size, digit| size * 8 + u64::from(digit - b'0'));
        let entry = Entry { name: name.to_owned(), size };
        if entry.header() != *header {
            return Err(PackError::Header { index, field: "a field" });
        }
        Ok(entry)
    }
}

/// What a type flag says where it is not a plain file.
fn kind(flag: u8) -> Option<&'static str> {
    Some(match flag {
        b'0' => return None,
        b'1' => "a hard link",
        b'2' => "a symbolic link",
        b'3' | b'4' => "a device",
        b'5' => "a folder",
        b'6' => "a named pipe",
        b'S' => "a sparse file",
        b'x' | b'g' => "a pax header",
        b'L' | b'K' => "a GNU long name",
        _ => "of an unknown kind",
    })
}

/// How a file is compressed, by its first bytes.
pub(super) fn compression(start: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 8] = [
        (&[0x1f, 0x8b], "gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (b"PK\x03\x04", "zip"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
        (b"BZh", "bzip2"),
        (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (&[0x1f, 0x9d], "compress"),
    ];
    known.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_any_changed_byte_is_refused() {
        let entry = Entry { name: "golden/case.dcm".into(), size: 513 };
        let header = entry.header();
        assert_eq!(Entry::read(&header, 0).unwrap(), entry);
        assert_eq!(entry.padding(), 511);
        for at in 0..BLOCK {
            let mut changed = header;
            changed[at] ^= 1;
            assert!(Entry::read(&changed, 0).is_err(), "byte {at}");
        }
        let longest = Entry { name: "n".repeat(100), size: 4 << 30 };
        assert_eq!(Entry::read(&longest.header(), 0).unwrap(), longest);
    }
}
