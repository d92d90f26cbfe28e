"""From root and initrd to a disk: erofs, dm-verity, the signed UKI, the signed boot loader, the partitions.

All of it in user space: no loop device and no device-mapper of the host.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from .place import EPOCH, HERE, Failed, fresh, recipe

STUB_LOADER = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
# Fixed, so that two builds are the same.
EROFS_UUID = "8b1f6d1e-0b5c-4a58-9c0e-5c1a1f0e7d01"
DISK_SEED = "5d3c1f0a-2f52-4c07-8a9c-0c9d7e4b6a11"
# Up to `ready`, so that keys are to be had as long as the system runs.
PHASES = ["enter-initrd", "enter-initrd:leave-initrd", "enter-initrd:leave-initrd:sysinit",
          "enter-initrd:leave-initrd:sysinit:ready"]
TRIES = 3


def partition_uuid(half):
    """32 hex digits as a UUID."""
    return f"{half[0:8]}-{half[8:12]}-{half[12:16]}-{half[16:20]}-{half[20:32]}"


def partition_uuids(root_hash):
    """PARTUUIDs of root and verity: the two halves of the root hash (UAPI.6 discoverable partitions)."""
    return partition_uuid(root_hash[:32]), partition_uuid(root_hash[32:])


def command_line(root_hash, flavour):
    """The kernel's command line, which is signed with the UKI: nothing else is taken at boot."""
    console = "console=ttyS0 console=tty0" if flavour == "production" else "console=tty0 console=ttyS0"
    return " ".join([
        f"roothash={root_hash}", "root=/dev/mapper/root", "rootfstype=erofs", "ro",
        # A root that is not the signed one ends the start; three such ends lead to the other slot.
        "systemd.verity_root_options=panic-on-corruption", "panic=5", "oops=panic",
        # No partition is used because of its type, no unit or credential comes from outside the image.
        # The partition table's copy counts where the first one was cut while an update wrote it.
        "gpt",
        "systemd.gpt_auto=0", "systemd.import_credentials=no", "systemd.firstboot=no", "systemd.ssh_auto=0",
        "rd.systemd.unit=initrd.target", "systemd.unit=multi-user.target", "rd.shell=0", "rd.emergency=reboot",
        "lockdown=integrity", "module.sig_enforce=1", "slab_nomerge", "init_on_alloc=1", "vsyscall=none",
        "systemd.show_status=error", "quiet", "loglevel=4", console,
        # The journal on the console: it names what a service complains of, so never in a product.
        *(["systemd.journald.forward_to_console=1"] if flavour == "debug" or os.environ.get("LIGHTBOX_IMAGE_JOURNAL") and flavour == "test" else []),
    ])


def make_root(tools, tree, output):
    """The root's file system, compressed and read-only."""
    output.unlink(missing_ok=True)
    tools.run("mkfs.erofs", "-zlz4hc,level=3", "-C65536", f"-T{EPOCH}", f"-U{EROFS_UUID}", "-Llightbox-root", "--quiet",
              output, tree)


def make_verity(tools, root, output, version):
    """The hash tree over it; yields the root hash."""
    output.unlink(missing_ok=True)
    salt = hashlib.sha256(f"lightbox {version}".encode()).hexdigest()
    said = tools.run("veritysetup", "format", f"--salt={salt}", "--uuid=00000000-0000-0000-0000-000000000000",
                     root, output).stdout
    found = re.search(r"Root hash:\s*([0-9a-f]{64})", said)
    if not found:
        raise Failed(f"veritysetup named no root hash:\n{said}")
    return found[1]


def make_uki(tools, kernel, release, initrd, os_release, line, keys, output):
    """Kernel, initrd and command line in one EFI program, with our signature over the PCR 11 that it leads to."""
    tools.run("ukify", "build", f"--linux={kernel}", f"--initrd={initrd}", f"--os-release=@{os_release}",
              f"--uname={release}", f"--cmdline={line}", f"--pcr-private-key={keys.key('pcr')}",
              f"--pcr-public-key={keys.folder / 'pcr.pub'}", "--pcr-banks=sha256", f"--phases={' '.join(PHASES)}",
              f"--output={output}")


def sign(tools, keys, source, output, name="secure-boot"):
    """An Authenticode signature for Secure Boot."""
    tools.run("sbsign", "--key", keys.key(name), "--cert", keys.certificate(name), "--output", output, source)


def make_esp(folder, loader, uki, version):
    """The EFI system partition as a folder; yields the entry's name."""
    for name in ("EFI/BOOT", "EFI/Linux", "EFI/systemd", "loader"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(loader, folder / "EFI/BOOT/BOOTX64.EFI")
    shutil.copyfile(loader, folder / "EFI/systemd/systemd-bootx64.efi")
    shutil.copyfile(HERE / "esp/loader.conf", folder / "loader/loader.conf")
    entry = f"lightbox_{version}+{TRIES}.efi"
    shutil.copyfile(uki, folder / "EFI/Linux" / entry)
    return entry


def make_disk(tools, work, output, esp, root, verity, root_hash, version):
    """The disk as it is written to a box: ESP, first slot. The box makes the rest on its first boot."""
    sizes = recipe()["disk"]
    for what, path, limit in (("root", root, sizes["root_mib"]), ("verity", verity, sizes["verity_mib"])):
        if path.stat().st_size > limit * 2**20:
            raise Failed(f"the {what} has {path.stat().st_size // 2**20} MiB, its partition {limit}; remedy: raise "
                         f"{what}_mib in image.toml (boxes in the field keep their partitions!)")
    root_uuid, verity_uuid = partition_uuids(root_hash)
    definitions = fresh(work / "repart")
    (definitions / "10-esp.conf").write_text(
        f"[Partition]\nType=esp\nLabel=esp\nFormat=vfat\nCopyFiles={esp}:/\n"
        f"SizeMinBytes={sizes['esp_mib']}M\nSizeMaxBytes={sizes['esp_mib']}M\n")
    for number, kind, uuid, source, size in (
            ("20", "root", root_uuid, root, sizes["root_mib"]),
            ("21", "root-verity", verity_uuid, verity, sizes["verity_mib"])):
        suffix = "_verity" if kind == "root-verity" else ""
        (definitions / f"{number}-{kind}.conf").write_text(
            f"[Partition]\nType={kind}\nLabel=lightbox_{version}{suffix}\nUUID={uuid}\nCopyBlocks={source}\n"
            f"ReadOnly=yes\nSizeMinBytes={size}M\nSizeMaxBytes={size}M\n")
    output.unlink(missing_ok=True)
    total = sizes["esp_mib"] + sizes["root_mib"] + sizes["verity_mib"] + 8
    # Firmware reads FAT with the disk's sectors of 512 bytes only.
    tools.run("systemd-repart", "--sector-size=512", "--empty=create", f"--size={total}M", "--dry-run=no", "--offline=yes",
              f"--seed={DISK_SEED}", f"--definitions={definitions}", output)
    return Path(output)


def partition_table(tools, disk):
    """The partitions of a disk as sfdisk tells them; what it says besides (a disk that has grown) is left out."""
    said = tools.run("sfdisk", "--json", disk).stdout
    return json.loads(said[said.index("{"):said.rindex("}") + 1])["partitiontable"]["partitions"]
