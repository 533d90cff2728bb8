# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs on a node: watch_names.py NAME. Prints a line of JSON whenever the node's own answer for the name changes, or whom it takes for Consul's leader.

{"at": seconds of the monotonic clock, "addresses": [...], or null while there is no answer, "leader": text, empty without one, or null}
"""

import http.client
import json
import os
import socket
import struct
import sys
import time

EVERY_S = 0.1
AAAA = 28


def addresses(name, timeout=1.0):
    """The AAAA records of a name as the node's resolver has them, sorted; [] where it has none, and None where nobody answers or he cannot tell."""
    ident = os.urandom(2)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = ident + struct.pack("!5H", 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", AAAA, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.settimeout(timeout)
        try:
            door.connect(("127.0.0.1", 53))
            door.send(query)
            answer = door.recv(4096)
        except OSError:
            return None
    if answer[:2] != ident or answer[3] & 0xF not in (0, 3):
        return None
    found, at = [], len(query)
    for _number in range(struct.unpack("!H", answer[6:8])[0]):
        # A name is a pointer, or labels up to an empty one.
        while answer[at] and answer[at] < 0xC0:
            at += answer[at] + 1
        at += 2 if answer[at] >= 0xC0 else 1
        kind, _class, _ttl, length = struct.unpack("!2HIH", answer[at : at + 10])
        at += 10
        if kind == AAAA:
            found.append(socket.inet_ntop(socket.AF_INET6, answer[at : at + length]))
        at += length
    return sorted(found)


def leader(timeout=1.0):
    connection = http.client.HTTPConnection("127.0.0.1", 8500, timeout=timeout)
    try:
        connection.request("GET", "/v1/status/leader")
        return json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def main():
    last = ()
    while True:
        begun = time.monotonic()
        seen = (addresses(sys.argv[1]), leader())
        if seen != last:
            print(json.dumps({"at": begun, "addresses": seen[0], "leader": seen[1]}), flush=True)
            last = seen
        time.sleep(max(0.0, begun + EVERY_S - time.monotonic()))


if __name__ == "__main__":
    main()
