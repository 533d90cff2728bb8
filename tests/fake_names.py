# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A Consul agent in every state that mesh-names can meet, an Answerer that is asked questions, and the program in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import ipaddress
import json
import os
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from ansible_collections.vdloo.mesh.plugins.module_utils.names import agent, answers, config, snapshot, wire

ALIVE, FAILED, LEFT = 1, 4, 3


def rdata(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def question(name: str, qtype: int = wire.A, *, edns: int = 0, ident: int = 4711) -> bytes:
    options = (wire.Record((), wire.OPT, edns, 0, b""),) if edns else ()
    return wire.encode(wire.Message(ident, wire.RD, (wire.Question(wire.parse_name(name), qtype),), additionals=options))


class FakeAgent:
    """A Consul agent as far as mesh-names sees it, in each state that a test sets. `dns` is {(name, type): [record data]}."""

    def __init__(self) -> None:
        self.dns: dict = {}
        self.rcode = None
        self.dns_hangs = self.http_hangs = False
        self.leader = True
        self.members = {"n1": ("fc00::1", ALIVE), "n2": ("fc00::2", ALIVE)}
        self.index, self.last_contact = 10, 0
        self.catalog: list = []
        self.raw = None
        self.asked: list = []
        self.calls: list = []

    def reply(self, packet: bytes) -> bytes | None:
        query = wire.decode(packet)
        name, qtype, _cls = query.questions[0]
        self.asked.append((b".".join(name).decode(), qtype))
        if self.dns_hangs:
            return None
        if self.raw is not None:
            return packet[:2] + self.raw
        if self.rcode is not None:
            return wire.encode(wire.Message(query.ident, wire.QR | self.rcode, query.questions))
        text = b".".join(name).decode().lower()
        known = any(key[0] == text for key in self.dns)
        found = [wire.Record(name, qtype, wire.IN, 0, data) for data in self.dns.get((text, qtype), [])]
        return wire.encode(wire.Message(query.ident, wire.QR | (0 if known else wire.NXDOMAIN), query.questions, tuple(found)))

    def get(self, path: str):
        self.calls.append(path)
        if path == "/v1/agent/members":
            members = self.members.items()
            return 200, [{"Name": name, "Addr": addr, "Status": status, "Tags": {"dc": "mesh"}} for name, (addr, status) in members]
        if path == "/v1/status/leader":
            return 200, "[fc00::1]:8300" if self.leader else ""
        if path.startswith("/v1/internal/ui/nodes"):
            return 200, self.catalog
        return 404, None

    @contextlib.contextmanager
    def running(self):
        fake = self

        class Udp(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                answer = fake.reply(self.request[0])
                if answer:
                    self.request[1].sendto(answer, self.client_address)

        class Tcp(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                packet = self.rfile.read(struct.unpack("!H", self.rfile.read(2))[0])
                answer = fake.reply(packet)
                if answer:
                    self.wfile.write(struct.pack("!H", len(answer)) + answer)

        class Http(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, content = fake.get(self.path)
                if fake.http_hangs:
                    time.sleep(2)
                if "index=" in self.path and f"index={fake.index}&" in self.path:
                    time.sleep(0.2)
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Consul-Index", str(fake.index))
                self.send_header("X-Consul-Knownleader", "true" if fake.leader else "false")
                self.send_header("X-Consul-Lastcontact", str(fake.last_contact))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args) -> None:
                """Say nothing."""

        class WebServer(http.server.ThreadingHTTPServer):
            def handle_error(self, request, client_address) -> None:
                """Say nothing of a client that did not wait for the answer."""

        class TcpServer(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        class UdpServer(socketserver.ThreadingUDPServer):
            daemon_threads = True

        def dns_servers() -> tuple:
            # What is free for UDP may be taken for TCP.
            while True:
                udp = UdpServer(("127.0.0.1", 0), Udp)
                try:
                    return udp, TcpServer(udp.server_address, Tcp)
                except OSError:
                    udp.server_close()

        servers = [WebServer(("127.0.0.1", 0), Http), *dns_servers()]
        web, udp, _tcp = servers
        try:
            for server in servers:
                threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            self.dns_at, self.http_at = config.Server(*udp.server_address), config.Server(*web.server_address[:2])
            yield self
        finally:
            for server in servers:
                server.shutdown()
                server.server_close()


def catalog(*nodes: tuple) -> list:
    """The catalog as the agent has it, of (node, address, [(service, port, own address, tags, status)])."""
    found = []
    for name, address, services in nodes:
        checks = [{"CheckID": "serfHealth", "ServiceID": "", "Status": "passing"}]
        checks += [{"CheckID": f"c:{one[0]}", "ServiceID": one[0], "Status": one[4]} for one in services]
        listed = [{"ID": one[0], "Service": one[0], "Port": one[1], "Address": one[2], "Tags": one[3], "Weights": None} for one in services]
        found.append({"Node": name, "Address": address, "Services": listed, "Checks": checks})
    return found


WEB = catalog(
    ("n1", "fc00::1", [("web", 8080, "", ["blue"], "passing"), ("consul", 8300, "", None, "passing")]),
    ("n2", "fc00::2", [("web", 8080, "", None, "passing")]),
    ("n3", "fc00::3", [("db", 5432, "192.0.2.7", None, "passing"), ("sick", 1, "", None, "critical")]),
)


class Answers:
    """Asks an Answerer; `stop` takes the agent away altogether."""

    def __init__(self, settings: config.Config) -> None:
        self.settings = settings
        self.answerer = answers.Answerer(settings, agent.Agent(settings.consul_dns, settings.consul_http))
        self.answerer.snapshot = snapshot.build(WEB, "mesh", 10)

    def stop(self) -> None:
        self.answerer.agent.dns = self.answerer.agent.http = config.Server("127.0.0.1", 1)

    def many(self, *packets: bytes, tcp: bool = False) -> list:
        async def run() -> list:
            try:
                return [await self.answerer.answer(packet, tcp) for packet in packets]
            finally:
                # The next question of the test comes from another event loop.
                self.answerer.agent.close()

        return [wire.decode(packet) for packet in asyncio.run(run())]

    def ask(self, name: str, qtype: int = wire.A, **kwargs) -> wire.Message:
        return self.many(question(name, qtype), **kwargs)[0]

    def addresses(self, name: str, qtype: int = wire.AAAA, **kwargs) -> set[str]:
        answer = self.ask(name, qtype, **kwargs)
        assert answer.rcode == wire.NOERROR
        return {str(ipaddress.ip_address(wire.address_of(record))) for record in answer.answers}

    def targets(self, name: str) -> set[str]:
        return {b".".join(wire.target_of(record)).decode() for record in self.ask(name, wire.SRV).answers}


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind((address, 0))
        return sock.getsockname()[1]


class Running:
    """The installed program in a process of its own."""

    def __init__(self, folder: Path, settings: config.Config, work: Path) -> None:
        """`folder` is where the package is, `work` a place for files of the test."""
        self.port = free_port()
        told = {**settings._asdict(), "listen": f"127.0.0.1#{self.port}"}
        told |= {key: f"{told[key].address}#{told[key].port}" for key in ("consul_dns", "consul_http")}
        told |= {key: f"{told[key].address}#{told[key].port}" if told[key] else "" for key in ("spare", "dnsmasq")}
        told["upstreams"] = [f"{server.address}#{server.port}" for server in settings.upstreams]
        self.folder, self.config = folder, work / "told.json"
        self.config.write_text(json.dumps(told))
        self.log = work / "log"
        self.process: subprocess.Popen | None = None

    def argv(self, *words: str) -> list[str]:
        main = f"import sys; sys.path.insert(0, '.'); from names.__main__ import main; sys.exit(main(sys.argv, {str(self.config)!r}))"
        return [sys.executable, "-BES", "-c", main, *words]

    def start(self, **environment: str) -> None:
        with open(self.log, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(self.argv("serve"), cwd=self.folder, stderr=log, env={**os.environ, **environment})
        deadline = time.monotonic() + 10
        while self.status().returncode == 1:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def status(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(self.argv("--status", *words), cwd=self.folder, capture_output=True, text=True, check=False)

    def udp(self, packet: bytes, timeout: float = 5.0) -> bytes | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            sock.sendto(packet, ("127.0.0.1", self.port))
            with contextlib.suppress(TimeoutError):
                return sock.recv(4096)
        return None

    def tcp(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)
