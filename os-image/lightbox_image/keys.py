"""The test keys, made once into target/image/keys and never put into the repository.

secure-boot   signs boot loader and UKI; the virtual machine's firmware knows its certificate
pcr           signs which states of PCR 11 may unlock the data
stranger      signs like secure-boot, and nobody knows it: for the tests that must be refused
images/       signs the repository of images: a root of its own, apart from that of models
site/         the test hospital: authority, the box, a modality, a PACS, an operator

A product is signed with keys in hardware; ukify and sbsign take such keys by their own options.
"""

import base64
import hashlib
import re
import shutil

from .place import KEYS, OUT, run

# The signed repository of images, which `publish` adds to.
IMAGES = OUT / "repository"
PARTIES = ("lightbox", "ct1", "pacs", "operator")
DAYS = "3650"


class Keys:
    """The keys as files."""

    def __init__(self, tools):
        self.folder = KEYS
        self.site = KEYS / "site"
        KEYS.mkdir(parents=True, exist_ok=True)
        KEYS.chmod(0o700)
        for name in ("secure-boot", "stranger"):
            if not self.certificate(name).exists():
                tools.run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", DAYS,
                          "-subj", f"/CN=Lightbox test {name}/", "-keyout", self.key(name), "-out", self.certificate(name))
        if not (KEYS / "pcr.pub").exists():
            tools.run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out",
                      self.key("pcr"))
            tools.run("openssl", "pkey", "-in", self.key("pcr"), "-pubout", "-out", KEYS / "pcr.pub")
        self.hospital(tools)

    def key(self, name):
        """A private key."""
        return self.folder / f"{name}.key"

    def certificate(self, name):
        """A certificate."""
        return self.folder / f"{name}.crt"

    def hospital(self, tools):
        """The test hospital's certificates."""
        self.site.mkdir(exist_ok=True)
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256", "-days", DAYS]
        authority, authority_key = self.site / "ca.crt", self.site / "ca.key"
        if not authority.exists():
            tools.run("openssl", "req", "-x509", *curve, "-subj", "/CN=Image Test Hospital CA/", "-keyout",
                      authority_key, "-out", authority, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        for party in PARTIES:
            if not (self.site / f"{party}.crt").exists():
                tools.run(
                    "openssl", "req", "-x509", *curve, "-CA", authority, "-CAkey", authority_key,
                    "-subj", f"/CN={party}/", "-keyout", self.site / f"{party}.key", "-out", self.site / f"{party}.crt",
                    "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "keyUsage=critical,digitalSignature",
                    "-addext", "extendedKeyUsage=serverAuth,clientAuth",
                    "-addext", f"subjectAltName=DNS:{party},DNS:localhost,IP:127.0.0.1")

    def fingerprint(self, party):
        """SHA-256 of a party's certificate, hex."""
        text = (self.site / f"{party}.crt").read_text()
        body = re.search(r"-----BEGIN CERTIFICATE-----(.*?)-----END", text, re.DOTALL)[1]
        return hashlib.sha256(base64.b64decode(body)).hexdigest()

    def image_root(self, lightbox):
        """The root of trust in images, with the empty repository and its keys where there is none yet."""
        kept = KEYS / "images"
        if not (kept / "root.json").exists():
            shutil.rmtree(IMAGES, ignore_errors=True)
            shutil.rmtree(kept, ignore_errors=True)
            run([lightbox, "repository", "new", IMAGES, "--vendor", "lightbox-system", "--make-keys", kept])
            shutil.copytree(IMAGES, kept / "empty")
            shutil.copyfile(IMAGES / "metadata/1.root.json", kept / "root.json")
        return kept / "root.json"
