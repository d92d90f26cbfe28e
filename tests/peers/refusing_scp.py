"""A PACS that accepts associations over TLS and refuses what is sent.

    refusing_scp.py PORT CERTIFICATE KEY CA STATUS COMMENT
    refusing_scp.py PORT CERTIFICATE KEY CA sop-class
"""

import ssl
import sys

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, AllStoragePresentationContexts, evt

port, certificate, key, ca, how, *comment = sys.argv[1:]

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.load_verify_locations(ca)
context.verify_mode = ssl.CERT_REQUIRED

ae = AE(ae_title="REFUSING")
if how == "sop-class":
    ae.add_supported_context(CTImageStorage)
else:
    ae.supported_contexts = AllStoragePresentationContexts


def refuse(event):
    status = Dataset()
    status.Status = int(how, 16)
    status.ErrorComment = comment[0]
    return status


ae.start_server(("127.0.0.1", int(port)), ssl_context=context, evt_handlers=[(evt.EVT_C_STORE, refuse)])
