# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Serve prepared answers in the manner of a Consul agent: consul_server.py REPLIES.json prints its address, and runs until it is stopped."""

from __future__ import annotations

import http.server
import json
import sys
import urllib.parse


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, replies: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = {path: body.encode() for path, body in replies.items()}


class Handler(http.server.BaseHTTPRequestHandler):
    # Keeps the connection, as Consul does.
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = self.server.replies.get(urllib.parse.urlsplit(self.path).path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Vary", "Accept-Encoding")
        if self.path.startswith(("/v1/catalog/", "/v1/health/", "/v1/kv/")):
            self.send_header("X-Consul-Index", "4711")
            self.send_header("X-Consul-Knownleader", "true")
            self.send_header("X-Consul-Lastcontact", "0")
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        server = Server(json.load(file))
    print(f"127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
