"""A RIS that sends HL7 messages over MLLP and mutual TLS, by the client of the package `hl7`.

send_orders.py PORT CERTIFICATE KEY CA FILE...: one line of JSON for each acknowledgement.
"""
import json
import pathlib
import ssl
import sys

import hl7
from hl7.client import MLLPClient

port, certificate, key, ca, *files = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(certificate, key)
client = MLLPClient("127.0.0.1", int(port))
client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
client.socket.settimeout(20)
for name in files:
    answer = client.send_message(pathlib.Path(name).read_bytes())
    ack = hl7.parse(answer.decode().strip("\x0b\x1c\r") + "\r")
    msa = ack.segment("MSA")
    field = lambda number: str(msa[number]) if len(msa) > number else ""
    print(json.dumps({"code": field(1), "control_id": field(2), "text": field(3)}), flush=True)
client.close()
