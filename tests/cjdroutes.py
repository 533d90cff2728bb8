# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Daemons for the tests of what talks to cjdns: processes of the double, and one whose every word a test can choose."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import threading
from pathlib import Path

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import admin

# The tests of the double itself start it in the same way.
_spec = importlib.util.spec_from_file_location("doubles_conftest", Path(__file__).parent / "unit" / "doubles" / "conftest.py")
_doubles = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_doubles)

Node, wait_until, free_port = _doubles.Node, _doubles.wait_until, _doubles.free_port
double = _doubles.load_double()


@contextlib.contextmanager
def running(folder: Path, *names: str, change=lambda *nodes: None):
    """Started nodes of these names, without TUN; `change` gets them before, to change their configurations."""
    nodes = [Node(folder, double, name) for name in names]
    try:
        change(*nodes)
        for node in nodes:
            node.start()
        for node in nodes:
            node.ready()
        yield nodes
    finally:
        for node in nodes:
            node.stop(kill=True)
            node.admin.close()


class ScriptedDaemon:
    """An admin socket that answers what `script` says: a function from the request to a dict, to datagrams, or to None (silence).

    A dict is sent with the request's txid and with error "none" unless it names another. Requests are kept in `requests`, as bytes.
    Cookies are given out by itself, unless `cookies` is switched off.
    """

    def __init__(self, host="127.0.0.1"):
        self.script, self.requests, self.cookie, self.cookies = (lambda request: None), [], "1700000000", True
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))
        self.port = self.sock.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def functions(self):
        """The functions that were called, but for cookies."""
        asked = [double.bdecode(data) for data in self.requests]
        names = [double.text_of(request["aq"] if request["q"] == b"auth" else request["q"]) for request in asked]
        return [name for name in names if name != "cookie"]

    def serve(self):
        while True:
            data, addr = self.sock.recvfrom(65535)
            if data == b"stop":
                return
            self.requests.append(data)
            request = double.bdecode(data)
            cookie = request["q"] == b"cookie" and self.cookies
            answer = {"cookie": self.cookie} if cookie else self.script(request)
            if isinstance(answer, dict):
                answer = [double.bencode_reply({"error": "none", **answer, "txid": request["txid"]})]
            for datagram in answer or []:
                self.sock.sendto(datagram, addr)

    def close(self):
        with socket.socket(self.sock.family, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"stop", self.sock.getsockname())
        self.thread.join(5)
        self.sock.close()


def client_of(daemon: ScriptedDaemon, **options) -> admin.Client:
    """A client that is soon at the end of its patience."""
    return admin.Client(port=daemon.port, **{"password": "hunter2secret", "timeout": 0.5, "attempts": 2, **options})
