"""A file system that knows what a power cut would leave.

    power_cut_fs.py MOUNT_POINT [--ignore-sync PATTERN]

It lives in memory. Of each file it keeps the bytes that a sync made durable and the writes since; of each
folder the entries that a sync of the folder made durable and the changes since. A JSON object written to
the file .power in its root,

    {"out": FOLDER, "mode": "drop" | "some", "seed": N}

makes FOLDER what the disk would hold if the power went now: with `drop`, nothing that was not synced; with
`some`, of the unsynced writes some pages by chance, and of the unsynced changes of each folder the first
ones. `--ignore-sync` answers syncs of files whose path fits the pattern without doing them: the negative
control, a program that does not sync.
"""
import argparse
import errno
import fnmatch
import json
import os
import random
import stat
import sys

from mfusepy import FUSE, FuseOSError, Operations

PAGE = 4096
CONTROL = "/.power"


class File:
    def __init__(self):
        self.now, self.durable, self.since = bytearray(), bytearray(), []

    def write(self, at, data):
        if at + len(data) > len(self.now):
            self.now.extend(bytes(at + len(data) - len(self.now)))
        self.now[at:at + len(data)] = data
        self.since.append((at, bytes(data)))

    def truncate(self, length):
        resize(self.now, length)
        self.since.append((length, None))

    def sync(self):
        self.durable, self.since = bytearray(self.now), []

    def after_cut(self, chance):
        left = bytearray(self.durable)
        if chance is None:
            return left
        for at, data in self.since:
            if data is None:
                if chance.random() < 0.5:
                    resize(left, at)
                continue
            done = 0
            while done < len(data):
                count = min(PAGE - (at + done) % PAGE, len(data) - done)
                if chance.random() < 0.5:
                    if at + done + count > len(left):
                        left.extend(bytes(at + done + count - len(left)))
                    left[at + done:at + done + count] = data[done:done + count]
                done += count
        return left


class Folder:
    def __init__(self):
        self.now, self.durable, self.since = {}, {}, []

    def set(self, name, node):
        """Gives a name to a node; takes it away where the node is None."""
        if node is None:
            del self.now[name]
        else:
            self.now[name] = node
        self.since.append((name, node))

    def sync(self):
        self.durable, self.since = dict(self.now), []

    def after_cut(self, chance):
        left = dict(self.durable)
        if chance is not None:
            for name, node in self.since[:chance.randint(0, len(self.since))]:
                if node is None:
                    left.pop(name, None)
                else:
                    left[name] = node
        return left


def resize(data, length):
    if length < len(data):
        del data[length:]
    else:
        data.extend(bytes(length - len(data)))


def leave(folder, out, chance):
    os.makedirs(out, exist_ok=True)
    for name, node in sorted(folder.after_cut(chance).items()):
        path = os.path.join(out, name)
        if isinstance(node, Folder):
            leave(node, path, chance)
        else:
            with open(path, "wb") as file:
                file.write(node.after_cut(chance))


class Disk(Operations):
    use_ns = True

    def __init__(self, ignored):
        self.root, self.open_files, self.next, self.ignored = Folder(), {}, 1, ignored

    def find(self, path):
        node = self.root
        for name in filter(None, path.split("/")):
            if not isinstance(node, Folder) or name not in node.now:
                raise FuseOSError(errno.ENOENT)
            node = node.now[name]
        return node

    def parent(self, path):
        folder, name = os.path.split(path)
        return self.find(folder), name

    def node(self, path, handle):
        return self.open_files[handle] if handle in self.open_files else self.find(path)

    def handle(self, node):
        self.next += 1
        self.open_files[self.next] = node
        return self.next

    def getattr(self, path, fh=None):
        common = {"st_uid": os.getuid(), "st_gid": os.getgid(), "st_mtime": 0, "st_atime": 0, "st_ctime": 0}
        if path == CONTROL:
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": 0, **common}
        node = self.node(path, fh)
        if isinstance(node, Folder):
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2, **common}
        length = len(node.now)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": length, "st_blocks": -(-length // 512), **common}

    def readdir(self, path, fh):
        return [".", "..", *self.find(path).now]

    def mkdir(self, path, mode):
        folder, name = self.parent(path)
        folder.set(name, Folder())

    def rmdir(self, path):
        folder, name = self.parent(path)
        if self.find(path).now:
            raise FuseOSError(errno.ENOTEMPTY)
        folder.set(name, None)

    def unlink(self, path):
        self.find(path)
        folder, name = self.parent(path)
        folder.set(name, None)

    def rename(self, old, new, flags=0):
        node = self.find(old)
        (before, old_name), (after, new_name) = self.parent(old), self.parent(new)
        after.set(new_name, node)
        before.set(old_name, None)

    def create(self, path, mode, fi=None):
        folder, name = self.parent(path)
        if name not in folder.now:
            folder.set(name, File())
        return self.handle(folder.now[name])

    def open(self, path, flags):
        if path == CONTROL:
            return 0
        node = self.find(path)
        if flags & os.O_TRUNC:
            node.truncate(0)
        return self.handle(node)

    def release(self, path, fh):
        self.open_files.pop(fh, None)
        return 0

    def read(self, path, size, offset, fh):
        return bytes(self.open_files[fh].now[offset:offset + size])

    def write(self, path, data, offset, fh):
        if path == CONTROL:
            wish = json.loads(data)
            leave(self.root, wish["out"], random.Random(wish["seed"]) if wish["mode"] == "some" else None)
        else:
            self.open_files[fh].write(offset, data)
        return len(data)

    def truncate(self, path, length, fh=None):
        if path != CONTROL:
            self.node(path, fh).truncate(length)

    def fsync(self, path, datasync, fh):
        if not (self.ignored and fnmatch.fnmatch(path or "", self.ignored)):
            self.open_files[fh].sync()
        return 0

    def opendir(self, path):
        return self.handle(self.find(path))

    def releasedir(self, path, fh):
        return self.release(path, fh)

    def fsyncdir(self, path, datasync, fh):
        self.find(path).sync()
        return 0

    def flush(self, path, fh):
        return 0

    def chmod(self, path, mode):
        return 0

    def chown(self, path, uid, gid):
        return 0

    def utimens(self, path, times=None):
        return 0

    def statfs(self, path):
        return {"f_bsize": PAGE, "f_frsize": PAGE, "f_blocks": 1 << 22, "f_bfree": 1 << 21, "f_bavail": 1 << 21,
                "f_namemax": 255, "f_files": 1 << 20, "f_ffree": 1 << 19}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mount_point")
    parser.add_argument("--ignore-sync", metavar="PATTERN", default="")
    args = parser.parse_args()
    # No attribute may outlive a rename, and one thread sees the calls in their order.
    FUSE(Disk(args.ignore_sync), args.mount_point, foreground=True, nothreads=True, attr_timeout=0, entry_timeout=0)


if __name__ == "__main__":
    sys.exit(main())
