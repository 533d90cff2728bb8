# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import http.server
import json
import threading
import urllib.parse

import pytest


class FakeConsulAgent:
    """The part of a Consul agent's API that the modules use, with an answer for each state that a test sets."""

    def __init__(self):
        self.node = "web-1"
        self.server = True
        self.leader = "[fc00::1]:8300"
        self.bootstrap_expect = 0
        self.members = [{"Name": "web-1", "Addr": "fc00::1", "Status": 1, "Tags": {"role": "consul"}}]
        self.raft = ["web-1"]
        self.health = {"Healthy": True, "FailureTolerance": 0, "Servers": [{"Name": "web-1", "Healthy": True, "Voter": True}]}
        self.calls = []
        self.on_call = lambda agent, method, path: None

    def answer(self, method, path):
        self.calls.append(f"{method} {path}")
        self.on_call(self, method, path)
        path = path.split("?")[0]
        if path == "/v1/agent/self":
            return 200, {
                "Config": {"NodeName": self.node, "Datacenter": "mesh", "Server": self.server, "Version": "1.8.7"},
                "DebugConfig": {"Bootstrap": self.bootstrap_expect == 1, "BootstrapExpect": self.bootstrap_expect},
                "Member": {"Addr": "fc00::1"},
            }
        if path == "/v1/status/leader":
            return 200, self.leader
        if path == "/v1/agent/members":
            return 200, self.members
        if path.startswith("/v1/agent/join/"):
            return 200, None
        if not self.leader:
            return 500, "No cluster leader"
        if path == "/v1/operator/raft/configuration":
            return 200, {"Servers": [{"Node": name} for name in self.raft]}
        if path == "/v1/operator/autopilot/health":
            return (200 if self.health["Healthy"] else 429), self.health
        return 404, "no such call"


@pytest.fixture
def fake_agent():
    """A fake agent that listens on `fake_agent.port` of the loopback."""
    agent = FakeConsulAgent()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, content = agent.answer(self.command, urllib.parse.unquote(self.path))
            body = (content if status == 500 else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET

        def log_message(self, *_args):
            """Say nothing."""

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    agent.port = httpd.server_address[1]
    yield agent
    httpd.shutdown()
    httpd.server_close()
