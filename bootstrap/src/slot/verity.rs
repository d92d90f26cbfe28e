//! Does a hash tree belong to a root, and both to a root hash? (dm-verity, format 1, as `veritysetup format` makes it.)
//!
//! For the publisher: a signature over three files that do not fit each other would send every box into kernel panics
//! and back to its other slot.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::image::{hex, open};
use super::{SlotError, failed};

/// Bytes of a data block and of a hash block: the page size, the only one that every kernel takes.
const BLOCK: usize = 4096;
/// Digests in a hash block.
const FAN: u64 = (BLOCK / 32) as u64;

/// What the superblock at the tree's beginning says.
struct Superblock {
    data_blocks: u64,
    salt: Vec<u8>,
}

impl Superblock {
    fn read(bytes: &[u8; 512]) -> Result<Self, String> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if &bytes[..8] != b"verity\0\0" {
            return Err("it does not begin as a hash tree".into());
        }
        if (number(8), number(12)) != (1, 1) {
            return Err("its format is not version 1, type 1".into());
        }
        let algorithm = bytes[32..64].split(|byte| *byte == 0).next().unwrap_or_default();
        if algorithm != b"sha256" {
            return Err("its algorithm is not SHA-256".into());
        }
        if (number(64), number(68)) != (BLOCK as u32, BLOCK as u32) {
            return Err(format!("its blocks are not of {BLOCK} bytes"));
        }
        let data_blocks = u64::from(number(72)) | u64::from(number(76)) << 32;
        let salt = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
        let salt = bytes[88..344].get(..salt).ok_or("its salt is too long")?;
        Ok(Superblock { data_blocks, salt: salt.to_vec() })
    }

    fn digest(&self, block: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(&self.salt).chain_update(block).finalize().into()
    }
}

/// Where the levels of hash blocks begin and how many blocks each has, the one over the data first. The top one, of one
/// block, lies first in the file, behind the superblock.
fn levels(data_blocks: u64) -> Vec<(u64, u64)> {
    let mut sizes = Vec::new();
    let mut blocks = data_blocks;
    while blocks > 1 || sizes.is_empty() {
        blocks = blocks.div_ceil(FAN);
        sizes.push(blocks);
    }
    let mut at = 1;
    let mut found: Vec<(u64, u64)> = sizes
        .into_iter()
        .rev()
        .map(|blocks| {
            let start = at;
            at += blocks;
            (start, blocks)
        })
        .collect();
    found.reverse();
    found
}

/// Reads both files whole and computes every digest; an error names what does not fit.
pub fn check(root: &Path, tree: &Path, root_hash: &str) -> Result<(), SlotError> {
    let unfit = |problem: String| SlotError::Tree { path: tree.to_owned(), problem };
    let (data, hashes) = (open(root)?, open(tree)?);
    let size = |file: &File, path: &Path| {
        let found = file.metadata().map_err(failed(path.display(), "reading"))?.len();
        Ok::<u64, SlotError>(found)
    };
    let (data_bytes, hash_bytes) = (size(&data, root)?, size(&hashes, tree)?);
    let mut head = [0; 512];
    hashes
        .read_exact_at(&mut head, 0)
        .map_err(|_| unfit("it is shorter than a hash tree's beginning".into()))?;
    let superblock = Superblock::read(&head).map_err(unfit)?;
    let block = BLOCK as u64;
    if data_bytes == 0 || superblock.data_blocks.checked_mul(block) != Some(data_bytes) {
        return Err(unfit(format!(
            "it is over {} blocks of {BLOCK} bytes, {} has {data_bytes} bytes",
            superblock.data_blocks,
            root.display()
        )));
    }
    let levels = levels(superblock.data_blocks);
    let blocks: u64 = 1 + levels.iter().map(|(_, blocks)| blocks).sum::<u64>();
    if hash_bytes < blocks * block {
        return Err(unfit(format!("it has {hash_bytes} bytes, a tree over this root {}", blocks * block)));
    }
    let (mut below, mut below_blocks, mut below_at) = (&data, superblock.data_blocks, 0);
    let mut top = [0; 32];
    for (level, (start, count)) in levels.iter().enumerate() {
        for index in 0..*count {
            let mut said = vec![0; BLOCK];
            read(&hashes, tree, &mut said, (start + index) * block)?;
            let mut computed = Vec::with_capacity(BLOCK);
            for child in index * FAN..((index + 1) * FAN).min(below_blocks) {
                let mut bytes = [0; BLOCK];
                read(below, if level == 0 { root } else { tree }, &mut bytes, (below_at + child) * block)?;
                computed.extend(superblock.digest(&bytes));
            }
            if said[..computed.len()] != computed[..] {
                return Err(unfit(format!("it is not the tree of {}", root.display())));
            }
            top = superblock.digest(&said);
        }
        (below, below_blocks, below_at) = (&hashes, *count, *start);
    }
    match hex(&top) == root_hash {
        true => Ok(()),
        false => Err(unfit(format!("its root hash is {}, not {root_hash}", hex(&top)))),
    }
}

fn read(file: &File, path: &Path, bytes: &mut [u8], at: u64) -> Result<(), SlotError> {
    let read: io::Result<()> = file.read_exact_at(bytes, at);
    read.map_err(failed(path.display(), "reading"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree as `veritysetup format` makes it, and its root hash.
    fn tree(data: &[u8], salt: &[u8]) -> (Vec<u8>, String) {
        let mut head = vec![0; BLOCK];
        head[..8].copy_from_slice(b"verity\0\0");
        for (at, value) in [(8, 1), (12, 1), (64, 4096), (68, 4096), (72, (data.len() / BLOCK) as u32)] {
            head[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        }
        head[32..38].copy_from_slice(b"sha256");
        head[80] = salt.len() as u8;
        head[88..88 + salt.len()].copy_from_slice(salt);
        let digest = |block: &[u8]| Sha256::new().chain_update(salt).chain_update(block).finalize();
        let mut levels: Vec<Vec<u8>> = Vec::new();
        let mut below = data.to_vec();
        while levels.is_empty() || below.len() > BLOCK {
            let mut level: Vec<u8> = below.chunks(BLOCK).flat_map(digest).collect();
            level.resize(level.len().next_multiple_of(BLOCK), 0);
            levels.push(level.clone());
            below = level;
        }
        let hash = hex(&digest(&below));
        head.extend(levels.into_iter().rev().flatten());
        (head, hash)
    }

    fn said(data: &[u8], tree: &[u8], hash: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let (root, hashes) = (folder.path().join("root"), folder.path().join("tree"));
        std::fs::write(&root, data).unwrap();
        std::fs::write(&hashes, tree).unwrap();
        check(&root, &hashes, hash).map_or_else(|error| error.to_string(), |()| "fits".into())
    }

    #[test]
    fn a_tree_fits_its_root_and_its_root_hash_only() {
        // One block, one level; the last block of a level; two levels; three are 16385 blocks and more.
        for blocks in [1, 128, 129, 300, 16_385] {
            let data: Vec<u8> = (0..blocks * BLOCK).map(|at| (at / 7) as u8).collect();
            let (tree, hash) = tree(&data, b"salt");
            assert_eq!(said(&data, &tree, &hash), "fits", "{blocks} blocks");
            assert!(said(&data, &tree, &"0".repeat(64)).contains("its root hash is"), "{blocks} blocks");
            let mut other = data.clone();
            *other.last_mut().unwrap() ^= 1;
            assert!(said(&other, &tree, &hash).contains("is not the tree of"), "{blocks} blocks");
            let mut flipped = tree.clone();
            let at = flipped.len() - BLOCK;
            flipped[at] ^= 1;
            assert!(said(&data, &flipped, &hash).contains("is not the tree of"), "{blocks} blocks");
        }
    }

    #[test]
    fn what_is_no_tree_is_named() {
        let data = vec![1; 2 * BLOCK];
        let (tree, hash) = tree(&data, b"");
        assert!(said(&data, b"verity", &hash).contains("shorter"));
        assert!(said(&data, &vec![0; 8192], &hash).contains("does not begin"));
        assert!(said(&data[..BLOCK], &tree, &hash).contains("over 2 blocks"));
        assert!(said(&data, &tree[..BLOCK + 100], &hash).contains("a tree over this root"));
        for (at, told) in
            [(8, "version 1"), (33, "SHA-256"), (64, "blocks are not"), (81, "salt is too long")]
        {
            let mut other = tree.clone();
            other[at] ^= 2;
            assert!(said(&data, &other, &hash).contains(told), "{told}");
        }
    }
}
