"""A virtual machine: QEMU by software emulation, OVMF with Secure Boot and our test keys, a TPM (swtpm).

Software emulation (TCG) is slow and always works; KVM is used only where a ten-second trial shows that it does
(LIGHTBOX_KVM=1 asks for the trial), since /dev/kvm may exist and yet not start a stock guest.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from .place import OUT, Failed, fresh, recipe

FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
VARIABLES = "/usr/share/OVMF/OVMF_VARS_4M.fd"
OWNER = "3f4b2d1c-5a69-4f18-9c2f-6a2d8c6f0b11"
# The PACS of the test site, as the guest sees it; QEMU hands its connections to a port of this machine.
PACS_IN_GUEST = "10.0.2.100:2762"
RELAY = Path(__file__).with_name("relay.py")


def free_port():
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def variables(tools, keys):
    """Firmware variables with Secure Boot on and our certificate as the only one trusted.

    On real hardware Microsoft's UEFI CA stays in as well: graphics cards' option ROMs are signed by it.
    """
    made = OUT / "vm/vars.fd"
    made.parent.mkdir(parents=True, exist_ok=True)
    certificate = keys.certificate("secure-boot")
    if not made.exists() or made.stat().st_mtime < certificate.stat().st_mtime:
        tools.run("virt-fw-vars", "-i", VARIABLES, "--set-pk", OWNER, certificate, "--add-kek", OWNER, certificate,
                  "--add-db", OWNER, certificate, "--sb", "--no-microsoft", "-o", made)
    return made


class Machine:
    """One machine with its disk, firmware variables and TPM, all of which outlive a power cycle."""

    def __init__(self, tools, keys, name, disk):
        self.tools = tools
        self.folder = fresh(OUT / "vm" / name)
        self.name = name
        self.disk = self.folder / "disk.raw"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", disk, self.disk], check=True)
        os.truncate(self.disk, recipe()["disk"]["test_disk_mib"] * 2**20)
        self.vars = self.folder / "vars.fd"
        shutil.copyfile(variables(tools, keys), self.vars)
        self.tpm = self.folder / "tpm"
        self.tpm.mkdir()
        self.log = self.folder / "console.log"
        self.log.write_text("")
        self.processes = []
        self.at = 0
        self.dicom = self.admin = None
        self.started = None

    def start(self, echo=False, pacs=None, reboot=True, stick=None, writes=None, slow=None, decoy=None):
        """Switches it on. `decoy` is a disk that is seen before the box's own and carries partitions of the same names. `stick` is a disk that is put in, `writes` a file that gets a log of every write to the box's
        own disk (dm-log-writes' form). `pacs` is the port of this machine where the test site's PACS listens; `reboot=False` lets
        QEMU end where the guest resets; `slow` is how many bytes a second the box's own disk writes at most; `echo` shows the console until it goes off."""
        self.dicom, self.admin = free_port(), free_port()
        pacs = pacs or free_port()
        sock = self.folder / "tpm.sock"
        sock.unlink(missing_ok=True)
        self.spawn("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.tpm}", "--ctrl", f"type=unixio,path={sock}",
                   "--flags", "startup-clear", "--terminate", log="swtpm.log")
        wait_until(sock.exists, 20, "the TPM's socket")
        kvm = os.environ.get("LIGHTBOX_KVM") == "1" and kvm_works(self.tools)
        forward = f"hostfwd=tcp:127.0.0.1:{self.dicom}-:2762,hostfwd=tcp:127.0.0.1:{self.admin}-:8443"
        relay = f"guestfwd=tcp:{PACS_IN_GUEST}-cmd:/usr/bin/python3 {RELAY} {pacs}"
        self.started = time.monotonic()
        self.spawn(
            "qemu-system-x86_64", "-name", self.name, "-machine", "q35,smm=on,vmport=off",
            "-accel", "kvm" if kvm else "tcg,thread=multi,tb-size=512",
            "-cpu", "host" if kvm else "max,la57=off", "-m", "2048", "-smp", "2", "-nographic", "-nodefaults",
            "-no-user-config", "-uuid", "5b5a7f0e-58b4-4b7e-9a83-5f4c5d3e2a10",
            "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}",
            "-drive", f"if=pflash,format=raw,unit=1,file={self.vars}",
            *(["-drive", f"if=none,id=decoy,format=raw,file={decoy},snapshot=on", "-device", "virtio-blk-pci,drive=decoy"]
              if decoy else []),
            *self.disk_options(writes, slow),
            *(["-drive", f"if=none,id=stick,format=raw,readonly=on,file={stick}", "-device", "virtio-blk-pci,drive=stick"]
              if stick else []),
            "-device", "virtio-blk-pci,drive=d0,bootindex=0",
            "-chardev", f"socket,id=tpm,path={sock}", "-tpmdev", "emulator,id=t0,chardev=tpm", "-device", "tpm-crb,tpmdev=t0",
            "-netdev", f"user,id=n0,restrict=on,{forward},{relay}", "-device", "virtio-net-pci,netdev=n0,romfile=",
            "-device", "virtio-rng-pci",
            *([] if reboot else ["-no-reboot"]),
            "-chardev", f"file,id=console,path={self.log},append=on", "-serial", "chardev:console", log="qemu.log")
        if echo:
            print(f"image: DICOM TLS 127.0.0.1:{self.dicom}, administration https://127.0.0.1:{self.admin}; Ctrl-C switches off",
                  file=sys.stderr)
            self.show()

    def disk_options(self, writes, slow):
        """The box's disk for QEMU. With a log the file below may forget a flush, the log must not."""
        if writes is None:
            slowly = f",throttling.bps-write={slow}" if slow else ""
            return ["-drive", f"if=none,id=d0,format=raw,file={self.disk},cache=unsafe,discard=unmap{slowly}"]
        writes.write_bytes(b"")
        file = f"driver=file,filename={self.disk},cache.no-flush=on,discard=unmap"
        return ["-blockdev", f"{file},node-name=f0",
                "-blockdev", f"driver=file,filename={writes},cache.no-flush=on,node-name=l0",
                "-blockdev", "driver=raw,file=f0,node-name=r0,cache.no-flush=on",
                "-blockdev", "driver=blklogwrites,file=r0,log=l0,node-name=d0"]

    def spawn(self, *command, log):
        """A process in the tools tree that ends with us."""
        file = (self.folder / log).open("ab")
        self.processes.append(subprocess.Popen(
            self.tools.command(*command), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True))
        file.close()

    def text(self):
        """What the console has shown since the last `mark`, without the escape sequences of terminals."""
        raw = self.log.read_bytes()[self.at:].decode(errors="replace")
        return re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|[()][0-9A-B]|[=>])", "", raw).replace("\r", "")

    def mark(self):
        """Forgets what the console has shown so far."""
        self.at = self.log.stat().st_size

    def runs(self):
        """Whether it is still switched on."""
        return bool(self.processes) and self.processes[-1].poll() is None

    def wait(self, pattern, seconds, fatal=None):
        """Waits until the console shows `pattern`; yields the match. `fatal` ends the wait with a failure."""
        until = time.monotonic() + seconds
        while True:
            # In this order: what a machine says last is read after it went off.
            alive = self.runs()
            shown = self.text()
            if found := re.search(pattern, shown):
                return found
            last = "\n".join(shown.splitlines()[-25:])
            if fatal and (found := re.search(fatal, shown)):
                raise Failed(f"{self.name}: the console shows '{found[0]}' instead of '{pattern}'\n{last}")
            if not alive:
                why = (self.folder / "qemu.log").read_text()[-500:]
                raise Failed(f"{self.name}: the machine went off before its console showed '{pattern}'\n{last}\n{why}")
            if time.monotonic() > until:
                raise Failed(f"{self.name}: the console did not show '{pattern}' in {seconds} s; {self.log} ends:\n{last}")
            time.sleep(0.3)

    def seconds(self):
        """Since it was switched on."""
        return round(time.monotonic() - self.started, 1)

    def show(self):
        """Copies the console to standard output until the machine goes off or Ctrl-C."""
        at = 0
        try:
            while self.runs():
                raw = self.log.read_bytes()
                sys.stdout.buffer.write(raw[at:])
                sys.stdout.flush()
                at = len(raw)
                time.sleep(0.2)
        except KeyboardInterrupt:
            pass

    def off(self):
        """Pulls the plug."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.off()


def wait_until(done, seconds, what):
    """Waits for a condition of this machine; yields it."""
    until = time.monotonic() + seconds
    while not (found := done()):
        if time.monotonic() > until:
            raise Failed(f"waited {seconds} s in vain for {what}")
        time.sleep(0.1)
    return found


def kvm_works(tools):
    """Whether firmware comes up under KVM within ten seconds."""
    if not os.path.exists("/dev/kvm"):
        return False
    log = OUT / "vm/kvm-canary.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    canary = subprocess.Popen(tools.command(
        "qemu-system-x86_64", "-machine", "q35,smm=off", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nographic",
        "-nodefaults", "-bios", "/usr/share/ovmf/OVMF.fd", "-chardev", f"file,id=c,path={log}", "-serial", "chardev:c"),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until and canary.poll() is None:
            if b"BdsDxe" in log.read_bytes() or b"Shell" in log.read_bytes():
                return True
            time.sleep(0.3)
        return False
    finally:
        canary.kill()
        canary.wait()
