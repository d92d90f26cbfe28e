"""Sends fresh copies of images, one after another, and says on stdout what was sent and what was
acknowledged, as it happens: `sent DIGEST` before a C-STORE, `ack DIGEST` after its success. DIGEST is the
SHA-256 of the data set's bytes on the wire. Ends when its stdin does, or the receiver.

    ack_scu.py HOST PORT CALLING CALLED CA CERTIFICATE KEY SEED IMAGE...
"""
import hashlib
import itertools
import random
import ssl
import sys
import threading

import pydicom
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.dsutils import encode


def main():
    host, port, calling, called, ca, certificate, key, seed = sys.argv[1:9]
    images = [pydicom.dcmread(path) for path in sys.argv[9:]]
    chance = random.Random(int(seed))
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    context.check_hostname = False
    context.load_cert_chain(certificate, key)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    ae = AE(calling)
    for image in images:
        ae.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    association = ae.associate(host, int(port), ae_title=called, tls_args=(context, None), max_pdu=131072)
    if not association.is_established:
        sys.exit("no association")
    study = f"2.25.{chance.getrandbits(120)}"
    for number, image in zip(itertools.count(), itertools.cycle(images)):
        if ended.is_set() or not association.is_established:
            break
        if number % 7 == 0:
            study = f"2.25.{chance.getrandbits(120)}"
        image.StudyInstanceUID, image.SeriesInstanceUID = UID(study), UID(study + ".1")
        image.SOPInstanceUID = UID(f"2.25.{chance.getrandbits(120)}")
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        syntax = image.file_meta.TransferSyntaxUID
        data = encode(image, syntax.is_implicit_VR, syntax.is_little_endian)
        digest = hashlib.sha256(data).hexdigest()
        print("sent", digest, flush=True)
        status = association.send_c_store(image)
        if "Status" in status and status.Status == 0:
            print("ack", digest, flush=True)
    # Its threads would keep this process for a minute otherwise.
    association.release()


if __name__ == "__main__":
    main()
