"""An HL7 receiver over MLLP and mutual TLS, on Python's own TLS: keeps each message, answers AA.

mllp_tls.py PORT CERTIFICATE KEY CA FOLDER
"""
import pathlib
import socket
import ssl
import sys

port, certificate, key, ca, folder = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.load_verify_locations(ca)
context.verify_mode = ssl.CERT_REQUIRED
server = socket.create_server(("127.0.0.1", int(port)))
count = 0
while True:
    plain, _ = server.accept()
    try:
        with context.wrap_socket(plain, server_side=True) as stream:
            data = b""
            while not data.endswith(b"\x1c\r"):
                piece = stream.recv(65536)
                if not piece:
                    break
                data += piece
            if not data:
                continue
            message = data[1:-2]
            control_id = message.split(b"\r")[0].split(b"|")[9]
            (pathlib.Path(folder) / f"{count}.hl7").write_bytes(message)
            count += 1
            answer = b"MSH|^~\\&|RIS|H|LIGHTBOX|H|20260101||ACK^R01^ACK|1|P|2.5.1\rMSA|AA|" + control_id + b"\r"
            stream.sendall(b"\x0b" + answer + b"\x1c\r")
    except (ssl.SSLError, OSError) as error:
        print(error, flush=True)
