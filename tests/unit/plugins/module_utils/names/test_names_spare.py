# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""While dnsmasq is down all names are answered here: ours as ever, and the others by the host's own name servers."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.names import config, spare, wire
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import dns
from fake_names import FakeAgent, free_port, question, rdata

HERE = "127.0.0.1"


@pytest.fixture
def upstream():
    """A name server of the network that the host is in."""
    with FakeAgent().running() as running:
        running.dns = {("example.org", wire.A): [rdata("192.0.2.10")]}
        yield running


@pytest.fixture
def told(settings, upstream, tmp_path):
    (tmp_path / "upstream.conf").write_text("")
    (tmp_path / "servers.conf").write_text(f"server={upstream.dns_at.address}#{upstream.dns_at.port}\n")
    return settings._replace(
        zones=("consul", "mesh", "fc00::/8"),
        upstream_files=(str(tmp_path / "servers.conf"), str(tmp_path / "upstream.conf")),
        own=("127.0.0.2", "::1"),
    )


@pytest.fixture
def found(told, names):
    return spare.Spare(told, names.answerer)


def ask(found, packet: bytes, tcp: bool = False) -> bytes:
    async def run() -> bytes:
        try:
            return await found.answer(packet, tcp)
        finally:
            found.answerer.agent.close()

    return asyncio.run(run())


@pytest.mark.parametrize("tcp", [False, True])
def test_an_ordinary_name_is_answered_by_the_host_s_own_server_to_the_byte(found, upstream, tcp):
    asked = question("example.org", edns=1232, ident=77)
    assert ask(found, asked, tcp) == upstream.reply(asked)
    assert wire.decode(ask(found, question("nowhere.example"), tcp)).rcode == wire.NXDOMAIN


def test_our_names_never_leave_the_host(found, upstream, fake):
    fake.dns = {("web.service.consul", wire.AAAA): [rdata("fc00::1")]}
    assert len(wire.decode(ask(found, question("WEB.service.consul", wire.AAAA))).answers) == 1
    assert len(wire.decode(ask(found, question("n1.mesh", wire.AAAA))).answers) == 1
    ask(found, question("1" + ".0" * 29 + ".c.f.ip6.arpa", wire.PTR))
    assert upstream.asked == []
    ask(found, question("1.2.0.192.in-addr.arpa", wire.PTR))
    assert upstream.asked == [("1.2.0.192.in-addr.arpa", wire.PTR)]


@pytest.mark.parametrize("domain", ["consul", "nodes.example", "fc00::/8", "fd12:3400::/24", "10.0.0.0/8", "192.168.7.0/24"])
def test_a_zone_is_the_one_that_the_resolver_program_has(domain):
    assert spare.zone_of(domain) == wire.parse_name(dns.zones([domain])[0])


def test_where_a_server_is_silent_or_gone_the_next_one_is_asked(found, upstream, told, monkeypatch):
    monkeypatch.setattr(spare, "ANSWER_S", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HERE, 0))
        dead = config.Server(HERE, free_port())
        found.config = told._replace(upstreams=(dead, config.Server(*silent.getsockname()), upstream.dns_at))
        assert len(wire.decode(ask(found, question("example.org"))).answers) == 1


@pytest.mark.parametrize("tcp", [False, True])
def test_what_dnsmasq_says_counts_while_it_is_there(found, told, upstream, tcp):
    with FakeAgent().running() as dnsmasq:
        dnsmasq.dns = {("example.org", wire.A): [rdata("192.0.2.99")]}
        found.config = told._replace(dnsmasq=dnsmasq.dns_at)
        assert wire.decode(ask(found, question("example.org"), tcp)).answers[0].data == rdata("192.0.2.99")
        # Ours it would only ask us for.
        ask(found, question("n1.mesh", wire.AAAA), tcp)
        assert (len(dnsmasq.asked), upstream.asked) == (1, [])


@pytest.mark.parametrize("tcp", [False, True])
def test_a_dnsmasq_that_hangs_or_is_gone_is_not_waited_for(found, told, tcp):
    with FakeAgent().running() as dnsmasq:
        dnsmasq.dns_hangs = True
        found.config = told._replace(dnsmasq=dnsmasq.dns_at)
        began = time.monotonic()
        assert wire.decode(ask(found, question("example.org"), tcp)).answers[0].data == rdata("192.0.2.10")
        # A program asks elsewhere, or again, after a second.
        assert time.monotonic() - began < 1
    assert wire.decode(ask(found, question("example.org"), tcp)).answers[0].data == rdata("192.0.2.10")


def test_where_nobody_answers_that_is_the_answer(found, told):
    found.config = told._replace(upstreams=(config.Server(HERE, 1),))
    answer = wire.decode(ask(found, question("example.org", ident=5)))
    assert (answer.ident, answer.rcode, answer.questions[0].name) == (5, wire.SERVFAIL, (b"example", b"org"))


def test_the_host_s_own_servers_are_followed_and_we_are_none_of_them(found, told, monkeypatch):
    monkeypatch.setattr(spare, "LOOK_EVERY_S", 0)
    servers, upstreams = map(Path, told.upstream_files)
    upstreams.write_text("search lan\nnameserver 127.0.0.2\nnameserver ::1\nnameserver 192.0.2.1\nnameserver bad\n")
    servers.write_text("server=192.0.2.2#5353\nserver=/corp/192.0.2.3\nserver=192.0.2.4@eth0\n")
    wanted = [config.Server("192.0.2.2", 5353), config.Server("192.0.2.1", 53)]
    assert found.servers() == wanted
    found.config = told._replace(upstream_files=("/nonexistent",))
    assert found.servers() == wanted


def test_it_can_be_asked_whether_it_is_there(found, upstream):
    asked = wire.encode(wire.Message(1, wire.RD, (wire.Question((b"version", b"bind"), wire.TXT, wire.CHAOS),)))
    assert wire.decode(ask(found, asked)).rcode == wire.REFUSED
    assert upstream.asked == []


@pytest.mark.parametrize("packet", [b"", b"\0" * 11, b"\0" * 12, question("example.org")[:-3], b"\0\0\x80" + question("example.org")[3:]])
def test_what_is_no_question_is_answered_as_elsewhere(found, upstream, packet):
    assert ask(found, packet) == asyncio.run(found.answerer.answer(packet, False))
    assert upstream.asked == []
