# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the tests of the cjdroute double share: an admin client of their own, real processes, and a simulated mesh."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import io
import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import types

import pytest

PROGRAM = pathlib.Path(__file__).parents[2] / "doubles" / "cjdroute"


def load_double():
    """The program as a module (without leaving a bytecode file beside it)."""
    loader = importlib.machinery.SourceFileLoader("cjdroute_double", str(PROGRAM))
    spec = importlib.util.spec_from_loader("cjdroute_double", loader)
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@pytest.fixture(scope="session")
def double():
    return load_double()


@pytest.fixture(scope="session")
def program():
    return str(PROGRAM)


def wait_until(check, timeout=10.0, step=0.05):
    """The first true value of check(), or its last value when the time is over."""
    end = time.monotonic() + timeout
    while True:
        value = check()
        if value or time.monotonic() > end:
            return value
        time.sleep(step)


@pytest.fixture(name="wait_until", scope="session")
def wait_until_fixture():
    return wait_until


# ---------------------------------------------------------------- an admin client, written apart from the double's code


def encode(value):
    if isinstance(value, int):
        return b"i" + str(value).encode() + b"e"
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return str(len(value)).encode() + b":" + value
    if isinstance(value, dict):
        return b"d" + b"".join(encode(key) + encode(value[key]) for key in sorted(value)) + b"e"
    return b"l" + b"".join(map(encode, value)) + b"e"


def decode(data):
    stream = io.BytesIO(data)

    def item():
        first = stream.read(1)
        if first == b"i":
            return int(b"".join(iter(lambda: stream.read(1), b"e")))
        if first in b"dl":
            found = []
            while True:
                if stream.read(1) == b"e":
                    break
                stream.seek(-1, 1)
                found.append(item())
            return dict(zip(found[::2], found[1::2])) if first == b"d" else found
        size = first + b"".join(iter(lambda: stream.read(1), b":"))
        return stream.read(int(size)).decode()

    value = item()
    assert stream.read() == b""
    return value


class AdminClient:
    def __init__(self, port, password="NONE"):
        self.password, self.numbers = password, itertools.count()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(("127.0.0.1", port))

    def close(self):
        self.sock.close()

    def raw(self, datagram, timeout=5.0):
        """The reply to these very bytes, or None after the time-out."""
        self.sock.settimeout(timeout)
        with contextlib.suppress(ConnectionRefusedError):
            self.sock.send(datagram)
            return self.receive()

    def receive(self):
        with contextlib.suppress(socket.timeout, ConnectionRefusedError):
            return self.sock.recv(69632)

    def ask(self, request, timeout=5.0):
        """The reply to this request; late replies to earlier ones are passed over."""
        txid = request.get("txid", f"ask{next(self.numbers)}")
        reply = self.raw(encode({**request, "txid": txid}), timeout)
        while reply is not None:
            reply = decode(reply)
            if reply.get("txid") == txid:
                return reply if "txid" in request else {key: value for key, value in reply.items() if key != "txid"}
            reply = self.receive()
        return None

    def signed(self, name, args=None, password=None, txid="test"):
        cookie = self.ask({"q": "cookie"})["cookie"]
        secret = hashlib.sha256(((password or self.password) + cookie).encode()[:63]).hexdigest()
        request = {"q": "auth", "aq": name, "args": args or {}, "cookie": cookie, "hash": secret, "txid": txid}
        first = encode(request)
        return first.replace(secret.encode(), hashlib.sha256(first).hexdigest().encode())

    def __call__(self, name, wait=5.0, **args):
        txid = f"call{next(self.numbers)}"
        reply = self.raw(self.signed(name, args, txid=txid), wait)
        while reply is not None:
            reply = decode(reply)
            if reply.pop("txid", None) == txid:
                return reply
            reply = self.receive()
        return None

    def peers(self):
        found = []
        for page in itertools.count():
            reply = self.ask({"q": "InterfaceController_peerStats", "args": {"page": page}})
            found += reply["peers"] if reply else []
            if not reply or "more" not in reply:
                return found

    def table(self):
        """Address -> path of all nodes that are reachable."""
        found = {}
        for page in itertools.count():
            reply = self.ask({"q": "NodeStore_dumpTable", "args": {"page": page}})
            found.update({entry["ip"]: entry["path"] for entry in reply["routingTable"]})
            if "more" not in reply:
                return found

    def reaches(self, ip):
        """Whether a ping along the path of the table comes back from that node."""
        path = self.table().get(ip)
        return bool(path) and self("SwitchPinger_ping", path=path, timeout=1000)["result"] == "pong"


# ---------------------------------------------------------------- real processes on this host


class Node:
    """A cjdroute process. Without `tun` it only routes, which needs no privilege."""

    def __init__(self, folder, double, name, tun=False, prefix=()):
        self.double, self.name, self.prefix = double, name, list(prefix)
        private = double.generate_key()
        self.key, self.ip = double.key_text(double.public_of(private)), double.ip_text(double.address_of(double.public_of(private)))
        self.port, self.admin_port = free_port(), free_port()
        self.password = "password-of-" + name
        self.path, self.log = folder / (name + ".conf"), folder / (name + ".log")
        self.config = {
            "privateKey": private.hex(),
            "publicKey": self.key,
            "ipv6": self.ip,
            "authorizedPasswords": [{"password": self.password, "user": "friend-of-" + name}],
            "admin": {"bind": f"127.0.0.1:{self.admin_port}", "password": "admin-" + name},
            "interfaces": {"UDPInterface": [{"bind": f"0.0.0.0:{self.port}", "connectTo": {}}]},
            "router": {"interface": {"type": "TUNInterface"} if tun else {}},
            "pipe": str(folder / (name + ".sock")),
            "version": 2,
        }
        self.process = None
        self.admin = AdminClient(self.admin_port, "admin-" + name)

    def dial(self, other, address="127.0.0.1", port=None, **changes):
        """Write a connectTo entry; `changes` replace its values."""
        self.config["interfaces"]["UDPInterface"][0]["connectTo"][f"{address}:{port or other.port}"] = {
            "publicKey": other.key,
            "password": other.password,
            "peerName": other.name,
            **changes,
        }

    def start(self):
        self.path.write_text(json.dumps(self.config))
        with open(self.path, "rb") as config, open(self.log, "ab") as log:
            # No handle of ours outlives this block; the process has its own.
            self.process = subprocess.Popen(self.prefix + [str(PROGRAM), "--nobg"], stdin=config, stdout=log, stderr=log)
        return self

    def ready(self):
        assert wait_until(lambda: self.admin.ask({"q": "ping"}, timeout=0.2), 30), self.log.read_text()
        return self

    def stop(self, kill=False):
        if self.process is not None:
            self.process.kill() if kill else self.process.terminate()
            code = self.process.wait(10)
            self.process = None
            return code
        return None

    def state_of(self, other):
        return [peer["state"] for peer in self.admin.peers() if peer["addr"].endswith(other.key)]


GIVEN_OUT = set()


def free_port():
    """A port that is free, and that nobody else of this run was given: it is not taken before its daemon starts."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        if port not in GIVEN_OUT:
            GIVEN_OUT.add(port)
            return port


@pytest.fixture(name="free_port")
def free_port_fixture():
    return free_port


@pytest.fixture(scope="session")
def node_type():
    return Node


@pytest.fixture
def make_node(double, tmp_path):
    """make_node("a") is a node that is not started yet; all are stopped at the end."""
    made = []

    def make(name, **options):
        made.append(Node(tmp_path, double, name, **options))
        return made[-1]

    yield make
    for node in made:
        node.stop(kill=True)
        node.admin.close()


class Relay:
    """UDP packets from a dialler to `target` and back, as a NAT would carry them."""

    def __init__(self, target):
        self.target, self.dialler, self.blocked = target, None, False
        self.to_target = []  # packets, oldest first
        self.inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.inside.bind(("127.0.0.1", 0))
        self.port = self.inside.getsockname()[1]
        self.outside, self.running = None, True
        self.rebind()
        threading.Thread(target=self.carry_out, daemon=True).start()

    def rebind(self):
        """Another source port, as after a restart of the NAT. The old one hears nothing any more."""
        old, self.outside = self.outside, socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.outside.bind(("127.0.0.1", 0))
        self.outside.settimeout(0.2)
        threading.Thread(target=self.carry_in, args=(self.outside,), daemon=True).start()
        if old:
            old.close()

    def carry_out(self):
        self.inside.settimeout(0.2)
        while self.running:
            try:
                packet, self.dialler = self.inside.recvfrom(65535)
            except OSError:
                continue
            self.to_target.append(packet)
            if not self.blocked:
                self.outside.sendto(packet, self.target)

    def carry_in(self, outside):
        while self.running and outside is self.outside:
            try:
                packet = outside.recv(65535)
            except OSError:
                continue
            if self.dialler and not self.blocked:
                self.inside.sendto(packet, self.dialler)

    def close(self):
        self.running = False
        time.sleep(0.01)
        self.inside.close()
        self.outside.close()


@pytest.fixture
def relay():
    made = []

    def make(node):
        made.append(Relay(("127.0.0.1", node.port)))
        return made[-1]

    yield make
    for one in made:
        one.close()


# ---------------------------------------------------------------- a simulated mesh: the real code, another clock and wire


class SimulatedInterface:
    """Stands in for a UDP socket. `addr` is where others reach it."""

    def __init__(self, sim, core, addr):
        self.sim, self.core, self.addr, self.number = sim, core, addr, len(core.interfaces)
        self.family, self.name, self.bind, self.sock, self.beacon = socket.AF_INET, "simulated", "", io.BytesIO(), 0

    def send(self, packet, addr):
        self.sim.packets.append((self.addr, addr, packet))


class Simulation:
    """Cores of the double on a clock that only `run` advances, and a wire that can lose and refuse packets."""

    def __init__(self, double, monkeypatch):
        self.double, self.now = double, 1000.0
        clock = types.SimpleNamespace(monotonic=lambda: self.now, time=lambda: 1700000000 + self.now)
        monkeypatch.setattr(double, "time", clock)
        monkeypatch.setattr(double, "log", lambda *_: None)
        self.cores, self.by_addr, self.packets, self.cut, self.taken = [], {}, [], set(), 0
        self.numbers = itertools.count(1)
        self.keep = lambda source, target, packet: True

    def node(self, private=None):
        core = self.double.Core(private or self.double.generate_key())
        addr = (f"10.0.0.{next(self.numbers)}", 4321)
        iface = SimulatedInterface(self, core, addr)
        core.interfaces.append(iface)
        core.addr, core.iface = addr, iface
        self.authorize(core, "secret")
        self.by_addr[addr] = core
        self.cores.append(core)
        return core

    def authorize(self, core, password, user="peer", ip=None):
        hints = (self.double.password_hint(password), self.double.password_hint(password, user))
        core.users.append({"user": user, "password": password, "ip": ip, "hints": hints})

    def dial(self, one, two, password="secret", login=None):
        return one.dial(one.iface, two.addr, two.public, password, login, "dialled")

    def kill(self, core):
        """As by SIGKILL: nobody is told."""
        self.cores.remove(core)
        self.by_addr = {addr: other for addr, other in self.by_addr.items() if other is not core}

    def restart(self, core):
        """A new process with the same key and address."""
        if core in self.cores:
            self.kill(core)
        new = self.node(core.private)
        del self.by_addr[new.addr]
        new.addr = new.iface.addr = core.addr
        self.by_addr[core.addr] = new
        new.users = core.users
        return new

    def move(self, core):
        """Others see its packets come from a new address, and the old one is nobody's."""
        del self.by_addr[core.addr]
        core.addr = core.iface.addr = (f"203.0.113.{next(self.numbers)}", 999)
        self.by_addr[core.addr] = core
        return core.addr

    def cut_link(self, one, two):
        self.cut |= {(one.addr, two.addr), (two.addr, one.addr)}

    def deliver(self):
        while self.packets:
            source, target, packet = self.packets.pop(0)
            core = self.by_addr.get(target)
            if core is not None and (source, target) not in self.cut and self.keep(source, target, packet):
                self.taken += 1
                core.on_packet(core.iface, packet, source)

    def run(self, seconds, until=lambda: False):
        """Let time pass; the time it took until the condition held (never 0), or None."""
        start = self.now - 0.001
        while self.now < start + seconds:
            self.deliver()
            if until():
                return self.now - start
            self.now += 0.05
            for core in list(self.cores):
                core.run_timers(self.now)
        self.deliver()
        return self.now - start if until() else None

    def converged(self):
        wanted = {core.ip for core in self.cores}
        return all(set(core.routes) | {core.ip} == wanted for core in self.cores)

    def send(self, one, two, data=b"payload"):
        """Whether an IPv6 packet goes from the TUN of one to the TUN of two."""
        packet = b"\x60" + bytes(7) + one.ip + two.ip + data
        peer, got = one.routes.get(two.ip), []
        two.tun = types.SimpleNamespace(fd=-1)
        write, self.double.os.write = self.double.os.write, lambda _, written: got.append(written)
        try:
            if peer:
                peer.send(bytes((self.double.DATA, self.double.MAX_HOPS)) + packet)
            self.deliver()
        finally:
            self.double.os.write = write
            two.tun = None
        return got == [packet]

    def established(self, one, two):
        return [peer.state for peer in one.peers if peer.public == two.public] == ["ESTABLISHED"]


@pytest.fixture
def sim(double, monkeypatch):
    simulation = Simulation(double, monkeypatch)
    made, new = [], double.Core

    def tracked(private):
        made.append(new(private))
        return made[-1]

    monkeypatch.setattr(double, "Core", tracked)
    yield simulation
    for core in made:
        core.selector.close()
        os.close(core.wake)
        os.close(core.wake_in)
