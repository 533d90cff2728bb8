# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real packets through real TUN devices of the cjdroute double, each node in a network namespace of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and TUN devices need root")

PING = """
import os, select, socket, struct, sys, time
sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
payload, number = os.urandom(int(sys.argv[2])), os.getpid() & 0xFFFF
for attempt in range(int(float(sys.argv[3]) / 0.25)):
    try:
        sock.sendto(struct.pack(">BBHHH", 128, 0, 0, number, attempt) + payload, (sys.argv[1], 0))
    except OSError:
        time.sleep(0.25)
    end = time.monotonic() + 0.25
    while time.monotonic() < end and select.select([sock], [], [], max(0, end - time.monotonic()))[0]:
        answer, who = sock.recvfrom(65535)
        if answer[0] == 129 and answer[4:6] == struct.pack(">H", number) and answer[8:] == payload:
            sys.exit(0)
sys.exit(1)
"""

TCP = """
import socket, sys
if sys.argv[1] == "serve":
    server = socket.socket(socket.AF_INET6)
    server.bind(("::", 8000)); server.listen(1)
    print("ready", flush=True)
    with server.accept()[0] as client:
        total = 0
        while data := client.recv(65536):
            total += len(data)
        client.sendall(b"%d" % total)
else:
    with socket.create_connection((sys.argv[2], 8000), 10) as sock:
        sock.sendall(b"x" * 3000000)
        sock.shutdown(socket.SHUT_WR)
        sys.exit(sock.recv(99) != b"3000000")
"""


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Place:
    """A network namespace with one node in it."""

    def __init__(self, space, node):
        self.space, self.node = space, node

    def inside(self, *command, **options):
        return subprocess.run(["ip", "netns", "exec", self.space, *command], check=False, capture_output=True, text=True, **options)

    def pings(self, other, seconds=5.0, size=56):
        return self.inside(sys.executable, "-c", PING, other.node.ip, str(size), str(seconds)).returncode == 0

    def devices(self):
        return {entry["ifname"]: entry for entry in json.loads(run("ip", "-n", self.space, "-j", "addr"))}

    def wait_for_tun(self, wait_until):
        assert wait_until(lambda: "tun0" in self.devices() and self.devices()["tun0"]["addr_info"]), self.node.log.read_text()


@pytest.fixture
def places(make_node):
    """places("one", "two") makes namespaces; a shared bridge is not needed, `wire` links two of them."""
    tag, made, wires = uuid.uuid4().hex[:6], {}, []

    def make(*names):
        for name in names:
            space = f"double-{tag}-{name}"
            run("ip", "netns", "add", space)
            made[name] = Place(space, make_node(name, tun=True, prefix=["ip", "netns", "exec", space]))
            made[name].node.port = 4321
            made[name].node.config["interfaces"]["UDPInterface"][0]["bind"] = "0.0.0.0:4321"
            run("ip", "-n", space, "link", "set", "lo", "up")
        return [made[name] for name in names]

    def wire(dialler, listener):
        number = len(wires)
        ends = [f"w{tag}{number}{end}" for end in "ab"]
        wires.append(ends)
        run("ip", "link", "add", ends[0], "netns", dialler.space, "type", "veth", "peer", "name", ends[1], "netns", listener.space)
        for end, place, host in ((ends[0], dialler, 1), (ends[1], listener, 2)):
            run("ip", "-n", place.space, "addr", "add", f"10.77.{number}.{host}/24", "dev", end)
            run("ip", "-n", place.space, "link", "set", end, "up")
        dialler.node.dial(listener.node, address=f"10.77.{number}.2")

    make.wire = wire
    yield make
    for place in made.values():
        place.node.stop(kill=True)
        run("ip", "netns", "del", place.space)


def test_packets_cross_three_hops_and_find_a_way_around_a_killed_node(places, wait_until):
    ring = places("a", "b", "c", "d", "e")
    for dialler, listener in zip(ring, ring[1:] + ring[:1]):
        places.wire(dialler, listener)
    for place in ring:
        place.node.start()
    for place in ring:
        place.wait_for_tun(wait_until)
    a, b, c, e = ring[0], ring[1], ring[2], ring[4]
    tun = a.devices()["tun0"]
    (address,) = [entry for entry in tun["addr_info"] if entry["scope"] == "global"]
    assert tun["mtu"] == 1304 and "UP" in tun["flags"] and address["prefixlen"] == 8

    assert a.pings(b) and a.pings(c), "one hop, two hops"
    assert a.pings(c, size=1200) and a.pings(c, size=20000), "a full packet, and fragments"
    assert a.pings(a), "itself"

    b.node.process.send_signal(signal.SIGSTOP)  # dead to the others, and says no goodbye
    assert a.pings(c, seconds=20), "around: a e d c, three hops"
    b.node.process.kill()
    assert a.pings(c) and e.pings(c)
    assert not a.pings(b, seconds=0.5)

    server = subprocess.Popen(["ip", "netns", "exec", c.space, sys.executable, "-c", TCP, "serve"], stdout=subprocess.PIPE)
    try:
        assert server.stdout.readline() == b"ready\n"
        assert a.inside(sys.executable, "-c", TCP, "send", c.node.ip, timeout=30).returncode == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_the_device_has_the_configured_name_and_goes_with_the_process(places, wait_until):
    (one,) = places("one")
    one.node.config["router"]["interface"]["tunDevice"] = "cjdroute0"
    one.node.start()
    assert wait_until(lambda: "cjdroute0" in one.devices())
    one.node.stop()
    assert "cjdroute0" not in one.devices()


def test_a_kernel_without_ipv6_addresses_leaves_the_node_running_without_one(places, wait_until):
    (one,) = places("one")
    one.inside("sysctl", "-w", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
    one.node.start()
    assert wait_until(lambda: "ioctl(SIOCSIFADDR) [Permission denied]" in one.node.log.read_text())
    assert one.node.process.poll() is None and "tun0" not in one.devices()
