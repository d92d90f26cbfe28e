"""The log of every write to a machine's disk, and disks as power cuts would have left them.

QEMU's blklogwrites keeps the form of Linux' dm-log-writes: a superblock, then an entry for each write, flush and
discard in the order in which the guest's were done.
"""

import random
import struct

from .place import Failed

MAGIC = 0x6a736677736872
SECTOR = 512
FLUSH, FUA, DISCARD = 1, 2, 4


class Log:
    """The entries, read once; their data stays in the file."""

    def __init__(self, path):
        self.path = path
        self.entries = []
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(SECTOR)
            magic, version, count, sector = struct.unpack_from("<QQQI", head)
            if magic != MAGIC or version != 1:
                raise Failed(f"{path} is no log of writes")
            at = sector
            while at + sector <= size and len(self.entries) < count:
                file.seek(at)
                start, sectors, flags, _ = struct.unpack("<QQQQ", file.read(32))
                at += sector
                length = 0 if flags & DISCARD else sectors * sector
                self.entries.append((start * sector, length, flags, at, sectors * sector))
                at += length

    def touching(self, first, last):
        """The indices of writes to anything between two places of the disk."""
        return [index for index, (start, length, _, _, _) in enumerate(self.entries)
                if length and start < last and start + length > first]

    def apply(self, disk, until, seed=None):
        """Does the first `until` entries to a disk. With a seed, of those that no flush came after only some are done,
        as a disk's cache may do when the power goes."""
        chance = random.Random(seed)
        flushed = max((index for index, entry in enumerate(self.entries[:until]) if entry[2] & FLUSH), default=0)
        with disk.open("r+b") as to, self.path.open("rb") as source:
            for index, (start, length, flags, at, size) in enumerate(self.entries[:until]):
                if seed is not None and index > flushed and not flags & FUA and chance.random() < 0.5:
                    continue
                if flags & DISCARD:
                    zeros(to, start, size)
                    continue
                source.seek(at)
                left = length
                to.seek(start)
                while left:
                    piece = source.read(min(left, 2**20))
                    to.write(piece)
                    left -= len(piece)


def zeros(file, start, size):
    """What a discard leaves, on a disk that gives zeros for it."""
    file.seek(start)
    while size:
        piece = min(size, 2**20)
        file.write(bytes(piece))
        size -= piece
