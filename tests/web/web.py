#!/usr/bin/env python3
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A tiny web service for the demo and the tests. It knows nothing of the mesh.

Usage: web.py TEXT PORT

    GET               "served by TEXT"
    GET /arrived/ID   how many POST requests with that X-Id came here
    POST              how many bytes came, and their SHA-256; at /502 with that status
    a websocket       "served by TEXT", and then what it is sent
"""

from __future__ import annotations

import base64
import hashlib
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WEBSOCKET = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


def main() -> None:
    text, port = sys.argv[1], int(sys.argv[2])
    arrived: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers["Upgrade"] == "websocket":
                self.echo(self.headers["Sec-WebSocket-Key"])
            elif self.path.startswith("/arrived/"):
                self.answer(str(arrived.count(self.path[len("/arrived/") :])))
            else:
                self.answer(f"served by {text}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrived.append(self.headers["X-Id"])
            self.answer(f"{len(body)} {hashlib.sha256(body).hexdigest()}", 502 if self.path == "/502" else 200)

        def answer(self, told: str, status: int = 200) -> None:
            body = f"{told}\n".encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def echo(self, key: str) -> None:
            """Speak as much of RFC 6455 as short messages need."""
            self.close_connection = True
            accepted = base64.b64encode(hashlib.sha1((key + WEBSOCKET).encode()).digest()).decode()
            head = (
                f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accepted}\r\n\r\n"
            )
            message = f"served by {text}".encode()
            self.wfile.write(head.encode() + bytes([0x81, len(message)]) + message)
            while len(start := self.rfile.read(6)) == 6 and start[0] == 0x81:
                masked = self.rfile.read(start[1] & 0x7F)
                message = bytes(byte ^ start[2 + index % 4] for index, byte in enumerate(masked))
                self.wfile.write(bytes([0x81, len(message)]) + message)

        def log_message(self, *_arguments) -> None:
            """Say nothing: the checks of the agent would fill the journal."""

    Server(("::", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
