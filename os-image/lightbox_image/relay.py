"""Joins standard input and output, which QEMU makes a guest's connection, to a port of this machine."""

import os
import select
import socket
import sys


def main():
    """Copies both ways until either side ends."""
    peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    while True:
        ready, _, _ = select.select([0, peer], [], [])
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                return
            peer.sendall(data)
        if peer in ready:
            data = peer.recv(65536)
            if not data:
                return
            while data:
                data = data[os.write(1, data):]


main()
