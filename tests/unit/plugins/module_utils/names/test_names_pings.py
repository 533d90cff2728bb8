# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Nodes that do not answer a ping are left out of what names lead to, as long as somebody is left."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.names import pings, status, watch, wire
from fake_names import rdata

N1, N2, LOOPBACK = rdata("fc00::1"), rdata("fc00::2"), rdata("::1")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


class Net(pings.Pings):
    """A net in which some nodes answer every ping, after a while."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.alive, self.delay, self.late = clock, {N1, N2}, 0.0, []
        self.sent: list[bytes] = []

    def send(self, address: bytes, packet: bytes) -> None:
        self.sent.append(address)
        if address not in self.alive:
            raise OSError
        self.late.append((self.clock.now + self.delay, address, bytes([pings.ECHO_REPLY]) + packet[1:]))

    def go_on(self, seconds: float) -> None:
        """Let time pass, a tenth of a second at a time."""
        for tenth in range(round(seconds * 10)):
            if tenth % 10 == 0:
                self.tick()
            for entry in [entry for entry in self.late if entry[0] <= self.clock.now]:
                self.late.remove(entry)
                self.received(entry[2], entry[1])
            self.clock.now += 0.1


@pytest.fixture
def net(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pings, "time", clock)
    found = Net(clock)
    found.want([N1, N2])
    return found


def test_a_node_that_goes_on_to_answer_is_not_silent(net):
    net.go_on(20)
    assert net.silent() == set()


def test_a_node_that_stops_to_answer_is_silent_before_a_second_try_meets_it_again(net):
    net.go_on(3)
    net.alive.remove(N2)
    net.go_on(1.5)
    assert net.silent() == set()
    net.go_on(1.5)
    assert net.silent() == {N2}


def test_one_that_answers_again_is_silent_no_more(net):
    net.go_on(3)
    net.alive.remove(N2)
    net.go_on(5)
    net.alive.add(N2)
    net.go_on(1)
    assert net.silent() == set()


def test_one_lost_ping_makes_nobody_silent(net):
    net.go_on(3)
    net.alive.remove(N2)
    net.go_on(1)
    net.alive.add(N2)
    net.go_on(1)
    for _second in range(10):
        net.go_on(0.5)
        assert net.silent() == set()


def test_answers_that_take_a_second_and_a_half_are_answers(net):
    net.delay = 1.5
    net.go_on(5)
    for _second in range(20):
        net.go_on(1)
        assert net.silent() == set()


def test_one_that_never_answered_is_not_silent(net):
    net.alive.remove(N2)
    net.go_on(20)
    assert net.silent() == set()


def test_after_the_machine_slept_nobody_is_silent_for_it(net):
    net.go_on(3)
    net.clock.now += 3600
    net.want([N1, N2])
    net.tick()
    assert net.silent() == set()


def test_who_is_not_asked_for_is_not_pinged_any_more(net):
    net.go_on(pings.WANTED_S)
    net.sent.clear()
    net.go_on(2)
    assert (net.sent, net.nodes) == ([], {})


def test_no_more_are_watched_than_can_be(net):
    net.want([struct.pack("!QQ", 1, number) for number in range(1000)])
    assert len(net.nodes) == pings.MOST


def test_answers_to_the_pings_of_others_say_nothing(net):
    net.go_on(3)
    net.alive.remove(N2)
    foreign = pings.HEADER.pack(pings.ECHO_REPLY, 0, 0, 7, 1)
    for packet in (b"", foreign, foreign + pings.SENT.pack(b"anything", 2000.0)):
        net.received(packet, N2)
    net.go_on(3)
    assert net.silent() == {N2}


def test_a_real_socket_hears_the_loopback(monkeypatch):
    monkeypatch.setattr(pings, "EVERY_S", 0.05)

    async def run() -> pings.Pings:
        found = pings.Pings()
        task = asyncio.ensure_future(found.run())
        found.want([LOOPBACK, rdata("100::1")])
        await asyncio.sleep(0.5)
        task.cancel()
        return found

    found = asyncio.run(run())
    assert found.problem == ""
    assert found.nodes[LOOPBACK].answered > 0
    assert not found.nodes[rdata("100::1")].answered


def test_where_it_is_not_permitted_to_ping_that_is_told_and_names_are_answered(monkeypatch):
    def refuse():
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(pings, "_open", refuse)
    found = pings.Pings()
    asyncio.run(found.run())
    assert "cannot be pinged (Operation not permitted)" in found.problem
    found.want([N1])
    assert found.silent() == set()


# ---------------------------------------------------------------- in answers


@pytest.fixture
def silent(names, fake, settings):
    """A mesh of n1 and n2, with the service web on both, in which n2 has gone silent."""
    nodes = {name: {"state": "member", "address": address} for name, address in (("n1", "fc00::1"), ("n2", "fc00::2"))}
    Path(settings.registry).write_text(json.dumps(nodes))
    srv = [
        b"\0\1\0\1" + port.to_bytes(2, "big") + wire.encode_name((node, b"node", b"mesh", b"consul"))
        for node, port in ((b"n1", 1), (b"n2", 2))
    ]
    fake.dns = {
        ("web.service.consul", wire.AAAA): [N1, N2],
        ("web.service.consul", wire.SRV): srv,
        ("n2.node.consul", wire.AAAA): [N2],
        ("ext.service.consul", wire.AAAA): [rdata("2001:db8::2")],
    }
    went: set[bytes] = {N2}
    names.answerer.pings.silent = lambda: went
    names.went = went
    return names


def test_a_silent_node_is_left_out(silent):
    assert silent.addresses("web.service.consul") == {"fc00::1"}
    assert silent.targets("web.service.consul") == {"n1.node.mesh.consul"}


def test_where_all_are_silent_all_are_answered(silent):
    silent.went.add(N1)
    assert silent.addresses("web.service.consul") == {"fc00::1", "fc00::2"}
    assert silent.addresses("n2.node.consul") == {"fc00::2"}


def test_a_silent_node_is_left_out_of_what_was_last_known(silent, fake):
    fake.rcode = wire.SERVFAIL
    assert silent.addresses("web.service.consul") == {"fc00::1"}
    silent.went.add(N1)
    assert silent.addresses("web.service.consul") == {"fc00::1", "fc00::2"}


def test_the_status_names_the_silent_and_what_keeps_it_from_pinging(silent):
    silent.answerer.overlay.refresh()
    silent.answerer.pings.problem = "nodes cannot be pinged"
    found = status.of(
        SimpleNamespace(answerer=silent.answerer, watch=watch.Watch(silent.answerer), spare=SimpleNamespace(problem=""), started=0.0)
    )
    assert found["silent"] == ["n2"]
    assert "silent:   no ping is answered by n2: others are named where there are any" in status.lines(found)
    assert "problem:  nodes cannot be pinged" in status.lines(found)


async def probe(answerer) -> None:
    await answerer.probe()
    answerer.agent.close()


def test_nodes_of_the_mesh_are_watched_that_somebody_asks_for(silent, fake):
    silent.addresses("ext.service.consul")
    fake.dns[("consul.service.consul", wire.ANY)] = [N2]
    asyncio.run(probe(silent.answerer))
    assert silent.answerer.pings.nodes == {}
    silent.addresses("web.service.consul")
    assert set(silent.answerer.pings.nodes) == {N1, N2}
