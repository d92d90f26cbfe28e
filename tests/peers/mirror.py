"""A mirror of the repository of models: plain files over HTTPS.

    mirror.py PORT CERTIFICATE KEY CA FOLDER

While FOLDER/cut exists, every packed bundle ends half way, as when a proxy dies.
"""

import functools
import http.server
import os
import ssl
import sys

port, certificate, key, ca, folder = sys.argv[1:]


class Mirror(http.server.SimpleHTTPRequestHandler):
    def copyfile(self, source, outputfile):
        length = os.fstat(source.fileno()).st_size
        if self.path.endswith(".lightbox") and os.path.exists(os.path.join(folder, "cut")):
            outputfile.write(source.read(length // 2))
            self.close_connection = True
        else:
            super().copyfile(source, outputfile)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
# The box shows its certificate to whoever asks.
context.load_verify_locations(ca)
context.verify_mode = ssl.CERT_REQUIRED

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), functools.partial(Mirror, directory=folder))
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
