"""The hospital around the virtual machine: dcmtk's storescu and echoscu as the modality, storescp as the PACS.

The same peers as in the project's other tests (tests/src/peers), with the test site's certificates.
"""

import socket
import subprocess
import time

from .machine import free_port, wait_until
from .place import REPOSITORY, Failed, fresh, need, run

# Makes phantoms and verifies reports: whichever build is the newest.
LIGHTBOX = max((path for path in (REPOSITORY / f"target/{kind}/lightbox" for kind in ("release", "debug")) if path.exists()),
               key=lambda path: path.stat().st_mtime, default=REPOSITORY / "target/release/lightbox")
SLICES = 8


class Pacs:
    """A PACS that keeps what it gets as files."""

    def __init__(self, keys, folder):
        need("storescp", "dcmtk")
        self.folder = fresh(folder)
        self.port = free_port()
        self.log = folder.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["storescp", "-v", "--fork", "+xa", "+tls", str(keys.site / "pacs.key"), str(keys.site / "pacs.crt"), "+cf",
                 str(keys.site / "ca.crt"), "-od", str(self.folder), str(self.port)], stdout=log, stderr=log)
        # It listens when its log says nothing more of the start; a port that is bound cannot be bound again.
        wait_until(self.listens, 20, "storescp to listen")

    def listens(self):
        """Whether the port is taken."""
        if self.process.poll() is not None:
            raise Failed(f"storescp ended:\n{self.log.read_text()[-500:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def reports(self):
        """The SRs that have come."""
        return sorted(path for path in self.folder.iterdir() if path.name.startswith("SR"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


class Modality:
    """CT1 of the test site."""

    def __init__(self, keys, port):
        need("storescu", "dcmtk")
        self.tls = ["+tls", keys.site / "ct1.key", keys.site / "ct1.crt", "+cf", keys.site / "ca.crt"]
        self.to = ["-aet", "CT1", "-aec", "LIGHTBOX", "127.0.0.1", str(port)]

    def echo(self, seconds=120):
        """C-ECHO over mutual TLS, tried until the daemon is there; yields the seconds that it took."""
        started = time.monotonic()
        while True:
            done = run(["echoscu", "--timeout", "20", *self.tls, *self.to], check=False)
            if done.returncode == 0:
                return round(time.monotonic() - started, 1)
            if time.monotonic() - started > seconds:
                raise Failed(f"no C-ECHO in {seconds} s:\n{done.stdout[-500:]}")
            time.sleep(0.5)

    def store(self, files):
        """C-STORE; every file must be acknowledged with success."""
        done = run(["storescu", "-v", "-R", "-nh", "--timeout", "60", *self.tls, *self.to, *files], check=False)
        stored = done.stdout.count("Received Store Response (Success)")
        if done.returncode != 0 or stored != len(files):
            raise Failed(f"{stored} of {len(files)} images were stored:\n{done.stdout[-800:]}")
        return stored

    def stranger(self, keys):
        """The same call with a certificate that the site does not name: must fail."""
        tls = ["+tls", keys.key("stranger"), keys.certificate("stranger"), "+cf", keys.site / "ca.crt"]
        return run(["echoscu", "--timeout", "20", *tls, *self.to], check=False).returncode != 0


def phantom(folder, seed):
    """A phantom study, by the binary that is in the image."""
    fresh(folder)
    run([LIGHTBOX, "phantom", "--out", folder, "--seed", str(seed), "--slices", str(SLICES), "--size", "128"])
    return sorted(folder.glob("*.dcm"))
