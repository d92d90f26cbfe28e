#!/usr/bin/env python3
"""Ingest rates side by side: Lightbox, dcmtk storescp, Orthanc and pynetdicom, in one interleaved run.

The machine is shared and noisy, so what counts are the ratios: every round runs every receiver on
every case, one after the other, and a ratio is the median of the rounds' ratios. Every receiver gets the
same images, new ones each time, from dcmtk's storescu. DCMTK leaves Nagle's algorithm on, which costs it
40 ms an image: TCP_NODELAY=1 is set for both its ends, and TCP_BUFFER_LENGTH for all.

Lightbox syncs each image before it answers; dcmtk, pynetdicom sync nothing.

storescu sends one image, then waits for its answer: what one association gets this way is bounded by the sender
and by the way there and back, not by the disk. What the receiver makes of the disk is shown by a sender that has several
images under way on its one association (asynchronous operations window, PS3.7 D.3.3.3): `lightbox send --window 8`.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "target/bench"
# A CT of the chest and abdomen: 250 MB, so that the start of an association does not count.
IMAGES = 480
# With a window an association takes half the time, so it gets twice the images.
WINDOW, WINDOW_IMAGES = 8, 960
MULTIFRAME_FRAMES = 400
ENV = dict(os.environ, TCP_NODELAY="1", TCP_BUFFER_LENGTH="1048576", LC_ALL="C.UTF-8")
# Same length as a real one, so that a copy gets new UIDs by replacing bytes.
PLACE = b"2.25.10000000000000000000000000000"


def note(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# --- what is sent ------------------------------------------------------------------------------


def image(frames):
    """A CT image of 512 x 512, 16 bit, as bytes of a Part 10 file with placeholders for UIDs."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    kind = "1.2.840.10008.5.1.4.1.1.2" if frames == 1 else "1.2.840.10008.5.1.4.1.1.7.3"
    uid = PLACE.decode()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = uid + ".3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = kind, uid + ".3"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid + ".1", uid + ".2"
    ds.PatientName, ds.PatientID, ds.Modality = "BENCH^INGEST", "BENCH", "CT"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "20260102", "101112", "1"
    ds.Rows = ds.Columns = 512
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    if frames > 1:
        ds.NumberOfFrames = frames
    ds.InstanceNumber = 1
    ds.PixelData = os.urandom(512 * 512 * 2) * frames
    import io

    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


class Images:
    """Folders of images, each time with UIDs that no receiver has seen."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0
        self.single, self.multi = image(1), image(MULTIFRAME_FRAMES)

    def study(self, images, folders, multiframe):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.count += 1
        paths = [self.folder / f"{n:02d}" for n in range(folders)]
        for path in paths:
            path.mkdir(parents=True)
        template = self.multi if multiframe else self.single
        size = 0
        for number in range(1 if multiframe else images):
            uid = b"2.25.1%012d%016d" % (self.count, number)
            study = b"2.25.1%012d%016d" % (self.count, 0)
            assert len(uid) == len(PLACE) == len(study)
            data = template.replace(PLACE + b".3", uid + b".3").replace(PLACE, study)
            (paths[number % folders] / f"{number:04d}.dcm").write_bytes(data)
            size += len(data)
        return paths, size


# --- certificates --------------------------------------------------------------------------------


def certificates(folder):
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True)

    ca, ca_key = folder / "ca.crt", folder / "ca.key"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", ca_key, "-out", ca, "-days", "30", "-subj", "/CN=Bench CA")
    made = {}
    for name in ("server", "sender"):
        key, csr, crt = (folder / f"{name}.{end}" for end in ("key", "csr", "crt"))
        extension = folder / f"{name}.ext"
        extension.write_text(
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl("req", *curve, "-keyout", key, "-out", csr, "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", csr, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "30",
                "-extfile", extension, "-out", crt)
        digest = subprocess.run(["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", crt],
                                check=True, capture_output=True, text=True).stdout
        made[name] = (key, crt, digest.strip().split("=", 1)[1])
    return ca, made


# --- the receivers -------------------------------------------------------------------------------


class Receiver:
    """A receiver that runs for the whole bench; between its turns it is idle."""

    def __init__(self, name, command, plain, tls, log):
        self.name, self.ports, self.called = name, {"plain": plain, "tls": tls}, "BENCH"
        self.log = open(log, "ab")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=ENV)
        for port in filter(None, (plain, tls)):
            self.await_port(port)

    def await_port(self, port):
        for _ in range(300):
            if self.process.poll() is not None:
                sys.exit(f"bench: {self.name} ended at its start: see {self.log.name}")
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        sys.exit(f"bench: {self.name} does not listen: see {self.log.name}")

    def cpu(self):
        """Seconds of CPU so far, ended children included."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def await_idle(self):
        """Waits until it has used hardly any CPU for three seconds, at most a minute."""
        quiet, last = 0, self.cpu()
        for _ in range(120):
            time.sleep(0.5)
            now = self.cpu()
            quiet = quiet + 1 if now - last < 0.02 else 0
            last = now
            if quiet == 6:
                return

    def memory(self, key):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{key}:\s+(\d+)", text, re.M)[1]) / 1024

    def forget_peak(self):
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_lightbox(binary, folder, ca, made):
    folder.mkdir(parents=True)
    key, crt, _ = made["server"]
    site = folder / "site.toml"
    plain, tls, admin = free_port(), free_port(), free_port()
    site.write_text(f"""
[appliance]
name = "BENCH"
ae_title = "BENCH"
data_dir = "{folder}/data"
[appliance.tls]
certificate = "{crt}"
key = "{key}"
authorities = ["{ca}"]
[dicom]
listen = "127.0.0.1:{tls}"
allow_plaintext = true
plaintext_listen = "127.0.0.1:{plain}"
[admin]
listen = "127.0.0.1:{admin}"
[[peer]]
name = "sender"
ae_title = "SENDER"
certificate = {{ sha256 = "{made['sender'][2]}" }}
[[peer]]
name = "plain-sender"
ae_title = "PLAIN"
plaintext = true
""")
    receiver = Receiver("lightbox", [binary, "serve", "--site", site], plain, tls, folder / "log")
    # The segments are prepared once in the life of a box.
    segments = folder / "data/segments"
    while len(list(segments.glob("*.seg"))) < 16:
        time.sleep(0.2)
    return receiver


def start_dcmtk(folder, ca, made, tls):
    folder.mkdir(parents=True)
    port, key, crt = free_port(), made["server"][0], made["server"][1]
    secure = ["+tls", key, crt, "+cf", ca, "-rc"] if tls else []
    command = ["storescp", "--fork", "-pdu", "131072", "-aet", "BENCH", *secure, "-od", folder, str(port)]
    return Receiver("dcmtk-tls" if tls else "dcmtk", command, None if tls else port, port if tls else None,
                    folder.with_suffix(".log"))


def start_orthanc(folder, ca, made, tls):
    folder.mkdir(parents=True)
    port, key, crt = free_port(), made["server"][0], made["server"][1]
    settings = {
        "Name": "bench", "StorageDirectory": str(folder), "IndexDirectory": str(folder),
        "HttpServerEnabled": False, "DicomAet": "BENCH", "DicomPort": port, "Plugins": [],
        "DicomAlwaysAllowStore": True, "DicomAlwaysAllowEcho": True, "DicomCheckCalledAet": False,
        "DicomThreadsCount": 16, "OverwriteInstances": True, "MaximumPduLength": 131072,
    }
    if tls:
        settings |= {"DicomTlsEnabled": True, "DicomTlsCertificate": str(crt), "DicomTlsPrivateKey": str(key),
                     "DicomTlsTrustedCertificates": str(ca), "DicomTlsRemoteCertificateRequired": True}
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(settings))
    return Receiver("orthanc-tls" if tls else "orthanc", ["Orthanc", path], None if tls else port,
                    port if tls else None, folder.with_suffix(".log"))


def start_pynetdicom(folder):
    folder.mkdir(parents=True)
    port = free_port()
    command = [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-q", "-od", folder, "--max-pdu", "131072"]
    return Receiver("pynetdicom", command, port, None, folder.with_suffix(".log"))


# --- one turn ------------------------------------------------------------------------------------


class SendingFailed(Exception):
    """A sender did not get all of its images stored."""


def rival_turn(receiver, how, n, count, images, ca, made):
    """A turn of another receiver. Its own faults are not what is measured: Orthanc now and then fails when two threads make
    the same folder. Such a turn is made again, with new images, and said so."""
    for _ in range(3):
        paths, size = images.study(count, max(n, 1), n == 0)
        try:
            return turn(receiver, how, paths, size, ca, made)
        except SendingFailed as failed:
            note(f"{failed}; once more")
    sys.exit(f"bench: {receiver.name} does not take the images")


def storescu(receiver, how, ca, made):
    key, crt, _ = made["sender"]
    secure = ["+tls", key, crt, "+cf", ca] if how == "tls" else []
    calling = "SENDER" if how == "tls" else "PLAIN"
    return ["storescu", "-aet", calling, "-aec", receiver.called, "--max-send-pdu", "131072", "--max-pdu",
            "131072", *secure, "+sd", "127.0.0.1", str(receiver.ports[how])]


def windowed_turn(binary, receiver, images, ca, made):
    """A turn of one association with a window, by our own sender."""
    key, crt, _ = made["sender"]
    paths, size = images.study(WINDOW_IMAGES, 1, False)
    command = [binary, "send", "--to", f"127.0.0.1:{receiver.ports['tls']}", "--called", receiver.called,
               "--calling", "SENDER", "--cert", crt, "--key", key, "--ca", ca, "--window", str(WINDOW)]
    return turn(receiver, "tls", paths, size, ca, made, command)


def turn(receiver, how, paths, size, ca, made, command=None):
    """Sends the folders at once, one association each; yields rate, CPU and memory."""
    command = command or storescu(receiver, how, ca, made)
    # The images were just written, to the receivers' own disk: no sender in the field is there. Left dirty,
    # they would be written out by the first receiver that syncs, in its time.
    settle(WORK)
    receiver.forget_peak()
    idle, cpu, begin = receiver.memory("VmRSS"), receiver.cpu(), time.monotonic()
    senders = [subprocess.Popen([*command, path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENV)
               for path in paths]
    for sender in senders:
        _, said = sender.communicate(timeout=300)
        if sender.returncode:
            for other in senders:
                other.kill()
                other.wait()
            raise SendingFailed(f"sending to {receiver.name} failed ({sender.returncode}; see {receiver.log.name}): "
                                f"{said.decode(errors='replace')[-400:]}")
    seconds, used = time.monotonic() - begin, receiver.cpu() - cpu
    # What a receiver does behind its answers counts as well, and must not fall into another's turn.
    receiver.await_idle()
    in_all = receiver.cpu() - cpu
    return {"mb_s": size / 1e6 / seconds, "cpu_s_gb": used / (size / 1e9), "cpu_until_idle_s_gb": in_all / (size / 1e9),
            "peak_mib": receiver.memory("VmHWM"), "above_idle_mib": receiver.memory("VmHWM") - idle}


FASTEST = []


def settle(folder):
    """Writes out what is dirty, then waits until the disk is quiet again.

    Behind a shared disk there are queues that sync does not empty: a turn after Orthanc's, which leaves
    hundreds of MB, would pay for them if it syncs, and not if it does not. Quiet is when 512 KB and fdatasync
    take at most 1.5 times what they took at their best; after 10 s the turn begins anyhow.
    """
    os.sync()
    with open(folder / "probe.data", "wb") as file:
        piece = bytes(512 << 10)
        file.write(piece)
        os.fsync(file.fileno())
        until = time.monotonic() + 10
        while True:
            times = []
            for _ in range(9):
                begin = time.monotonic()
                os.pwrite(file.fileno(), piece, 0)
                os.fdatasync(file.fileno())
                times.append(time.monotonic() - begin)
            FASTEST[:] = [min(FASTEST + [statistics.median(times)])]
            if statistics.median(times) <= 1.5 * FASTEST[0] or time.monotonic() > until:
                return
            time.sleep(0.2)


def fio(folder):
    """What the disk gives one writer that syncs every 512 KB, on a file that was written before."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "fio.data"
    if not path.exists():
        with open(path, "wb") as file:
            for _ in range(128):
                file.write(bytes(1 << 20))
            os.fsync(file.fileno())
    said = subprocess.run(
        ["fio", "--name=limit", f"--filename={path}", "--rw=write", "--bs=512k", "--size=128m", "--fdatasync=1",
         "--ioengine=psync", "--overwrite=1", "--output-format=json"], check=True, capture_output=True, text=True)
    return json.loads(said.stdout[said.stdout.index("{"):])["jobs"][0]["write"]["bw_bytes"] / 1e6


def syncs(receiver, how, images, ca, made):
    """Sync calls per image, counted by strace in a turn of its own."""
    paths, size = images.study(60, 1, False)
    out = WORK / "strace.txt"
    trace = subprocess.Popen(
        ["strace", "-f", "-qq", "-c", "-e", "trace=fsync,fdatasync,sync,syncfs,msync,sync_file_range", "-o", out,
         "-p", str(receiver.process.pid)], stderr=subprocess.DEVNULL)
    time.sleep(0.7)
    turn(receiver, how, paths, size, ca, made)
    time.sleep(0.5)
    trace.send_signal(signal.SIGINT)
    trace.wait()
    calls = {}
    for line in out.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[-1] in ("fsync", "fdatasync", "sync", "syncfs", "msync", "sync_file_range"):
            calls[fields[-1]] = int(fields[3]) / 60
    return calls


# --- the run -------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all receivers (default 5)")
    parser.add_argument("--images", type=int, default=IMAGES, help="images of 512 KB in a turn, but at least 60 for each association (default 480)")
    parser.add_argument("--binary", default=ROOT / "target/release/lightbox", help="the binary to measure")
    parser.add_argument("--associations", type=int, help="only this many at once (0: one, with a multiframe of 200 MB)")
    parser.add_argument("--quick", action="store_true", help="TLS only, against dcmtk and Orthanc only")
    args = parser.parse_args()
    if not pathlib.Path(args.binary).exists():
        sys.exit(f"bench: there is no {args.binary}; run ./justw bench-ingest, which builds it")
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    ca, made = certificates(WORK / "pki")
    note("making images")
    images = Images(WORK / "send")
    note("starting the receivers")
    receivers = {"lightbox": start_lightbox(args.binary, WORK / "lightbox", ca, made)}
    rivals = [start_dcmtk(WORK / "dcmtk-tls", ca, made, True), start_orthanc(WORK / "orthanc-tls", ca, made, True)]
    if not args.quick:
        rivals += [start_dcmtk(WORK / "dcmtk", ca, made, False), start_orthanc(WORK / "orthanc", ca, made, False),
                   start_pynetdicom(WORK / "pynetdicom")]
    receivers |= {rival.name: rival for rival in rivals}
    counts = [args.associations] if args.associations is not None else [1, 4, 16, 0]
    cases = [(how, n) for how in (("tls",) if args.quick else ("tls", "plain")) for n in counts]
    turns, limit, windowed = {}, [], []
    try:
        for number in range(args.rounds):
            limit.append(fio(WORK))
            if 1 in counts:
                windowed.append(windowed_turn(args.binary, receivers["lightbox"], images, ca, made))
            for how, n in cases:
                for receiver in receivers.values():
                    # pynetdicom's receiver takes ten associations at most, and holds a whole file in memory.
                    if not receiver.ports[how] or (receiver.name == "pynetdicom" and not 1 <= n <= 10):
                        continue
                    count = max(args.images, 60 * n)
                    if receiver in rivals:
                        measured = rival_turn(receiver, how, n, count, images, ca, made)
                    else:
                        paths, size = images.study(count, max(n, 1), n == 0)
                        measured = turn(receiver, how, paths, size, ca, made)
                    turns.setdefault((how, n, receiver.name), []).append(measured)
            note(f"round {number + 1} of {args.rounds}")
        traced = {receiver.name: syncs(receiver, "tls" if receiver.ports["tls"] else "plain", images, ca, made)
                  for receiver in receivers.values()}
    finally:
        for receiver in receivers.values():
            receiver.stop()
    report(turns, limit, windowed, traced, args.rounds)


def report(turns, limit, windowed, traced, rounds):
    def middle(key, value):
        return statistics.median(turn[value] for turn in turns[key])

    def name(how, n):
        return f"{how}/{'multiframe-200MB' if n == 0 else n}"

    rows = []
    for (how, n, peer), theirs in turns.items():
        if peer == "lightbox":
            continue
        ours = turns[how, n, "lightbox"]
        ratios = [a["mb_s"] / b["mb_s"] for a, b in zip(ours, theirs)]
        rows.append({"case": f"{name(how, n)} vs {peer}", "ours": round(middle((how, n, 'lightbox'), 'mb_s'), 1),
                     "peer": round(middle((how, n, peer), 'mb_s'), 1), "ratio": round(statistics.median(ratios), 3),
                     "lowest": round(min(ratios), 3), "highest": round(max(ratios), 3), "unit": "MB/s", "rounds": rounds})
    for case, taken in ((f"tls/1, window of {WINDOW}, vs fio write + fdatasync", windowed),
                        ("tls/1, storescu, vs fio write + fdatasync", turns.get(("tls", 1, "lightbox"), []))):
        ratios = [turn["mb_s"] / most for turn, most in zip(taken, limit)]
        if ratios:
            rows.append({"case": case, "ours": round(statistics.median(turn["mb_s"] for turn in taken), 1),
                         "peer": round(statistics.median(limit), 1), "ratio": round(statistics.median(ratios), 3),
                         "lowest": round(min(ratios), 3), "highest": round(max(ratios), 3), "unit": "MB/s", "rounds": rounds})
    if windowed:
        turns = turns | {("tls", 1, f"lightbox, window of {WINDOW}"): windowed}
    figures = [{"case": f"{name(how, n)} {peer}", "mb_s": round(middle((how, n, peer), "mb_s"), 1),
                "server_cpu_s_per_gb": round(middle((how, n, peer), "cpu_s_gb"), 2),
                "server_cpu_until_idle_s_per_gb": round(middle((how, n, peer), "cpu_until_idle_s_gb"), 2),
                "peak_mib": round(max(turn["peak_mib"] for turn in turns[how, n, peer]), 1),
                "above_idle_mib": round(max(turn["above_idle_mib"] for turn in turns[how, n, peer]), 1)}
               for how, n, peer in turns]
    (WORK / "ingest.json").write_text(json.dumps(
        {"rows": rows, "figures": figures, "sync_calls_per_image": traced, "fio_mb_s": limit}, indent=1))
    table = ["| case | ours | peer | ratio (lowest to highest) |", "|---|---|---|---|"]
    for row in rows:
        spread = f" ({row['lowest']:.2f} to {row['highest']:.2f})" if "lowest" in row else ""
        table.append(f"| {row['case']} | {row['ours']} | {row['peer']} | {row['ratio']:.2f}{spread} |")
    table += ["", "| case | MB/s | server CPU s/GB | until idle again | peak MiB | above idle MiB |", "|---|---|---|---|---|---|"]
    table += [f"| {f['case']} | {f['mb_s']} | {f['server_cpu_s_per_gb']} | {f['server_cpu_until_idle_s_per_gb']} | {f['peak_mib']} | {f['above_idle_mib']} |" for f in figures]
    table += ["", "| receiver | sync calls per image (one association) |", "|---|---|"]
    table += [f"| {peer} | {', '.join(f'{calls:.2f} {call}' for call, calls in c.items()) or 'none'} |" for peer, c in traced.items()]
    (WORK / "ingest.md").write_text("\n".join(table) + "\n")
    (WORK / "ingest.svg").write_text(plot(rows))
    print("\n".join(table))
    note(f"written: {WORK}/ingest.json, ingest.md, ingest.svg")


def plot(rows):
    """The ratios as bars; the line is at 1: as fast as the peer."""
    scale, left, height = 160, 260, 22
    longest = max(row["ratio"] for row in rows)
    width, total = int(left + scale * longest + 80), height * len(rows) + 50
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{total}" fill="white"/>',
             '<text x="8" y="18" font-weight="bold">Ingest rate, Lightbox / peer (each image durable before success)</text>']
    for index, row in enumerate(rows):
        y = 32 + index * height
        colour = "#2a7" if row["ratio"] >= 1 else "#c72"
        parts += [f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{row["case"]}</text>',
                  f'<rect x="{left}" y="{y}" width="{scale * row["ratio"]:.0f}" height="{height - 6}" fill="{colour}"/>',
                  f'<text x="{left + scale * row["ratio"] + 4:.0f}" y="{y + 13}">{row["ratio"]:.2f}</text>']
    parts += [f'<line x1="{left + scale}" x2="{left + scale}" y1="28" y2="{total - 16}" stroke="#333"/>', "</svg>"]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
