#!/usr/bin/env python3
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A tiny web service that registers itself with the Consul agent of its node, for the demo and the tests.

Usage: web.py NODE PORT. Answers every GET with "served by NODE".
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

AGENT = "http://127.0.0.1:8500/v1/agent/service"
# How soon a lost registration is made again, in seconds.
REGISTER_EVERY = 5


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


def tell_agent(path: str, body: dict | None = None) -> bool:
    """Send a PUT to the local agent; False when it does not answer."""
    data = json.dumps(body).encode() if body else b""
    try:
        urllib.request.urlopen(urllib.request.Request(f"{AGENT}/{path}", data=data, method="PUT"), timeout=10).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def main() -> None:
    node, port = sys.argv[1], int(sys.argv[2])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"served by {node}\n".encode()
            self.send_response(200)
            self.send_header("content-type", "text/plain; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments) -> None:
            """Say nothing: the checks of the agent would fill the journal."""

    server = Server(("::", port), Handler)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()

    service = {
        "Name": "web",
        "ID": "web",
        "Port": port,
        "Check": {"HTTP": f"http://127.0.0.1:{port}/", "Interval": "2s", "Timeout": "1s"},
    }
    registered = False
    while not stop.wait(0 if not registered else REGISTER_EVERY):
        registered = tell_agent("register", service) or stop.wait(1)
    tell_agent("deregister/web")
    server.shutdown()


if __name__ == "__main__":
    main()
