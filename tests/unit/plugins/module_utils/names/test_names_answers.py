# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is answered when: from Consul to the byte, without the dead, and what was last known where Consul has nothing to say."""

from __future__ import annotations

import asyncio
import time

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.names import agent, gossip, snapshot, wire
from fake_names import FAILED, LEFT, catalog, question, rdata


def srv(port: int, target: str) -> bytes:
    return b"\0\1\0\1" + port.to_bytes(2, "big") + wire.encode_name(wire.parse_name(target))


@pytest.fixture
def web(fake):
    """The service web on n1 and n2, as Consul's DNS has it."""
    fake.dns = {
        ("web.service.consul", wire.AAAA): [rdata("fc00::1"), rdata("fc00::2")],
        ("web.service.consul", wire.SRV): [srv(8080, "n1.node.mesh.consul"), srv(8080, "n2.node.mesh.consul")],
        ("ext.service.consul", wire.A): [rdata("198.51.100.9")],
    }
    return fake


# ---------------------------------------------------------------- Consul answers


@pytest.mark.parametrize("tcp", [False, True])
def test_an_answer_of_consul_is_passed_on_to_the_byte(names, web, tcp):
    asked = question("WEB.service.consul", wire.AAAA, edns=1232, ident=99)
    answer = asyncio.run(names.answerer.answer(asked, tcp))
    assert answer == web.reply(asked)
    assert names.answerer.counts == {"consul": 1}


def test_a_truncated_answer_is_passed_on_to_the_byte(names, fake):
    fake.raw = b"\x83\x80\0\1\0\0\0\0\0\0\3web\7service\6consul\0\0\1\0\1"
    assert asyncio.run(names.answerer.answer(question("web.service.consul"), False))[2:] == fake.raw


@pytest.mark.parametrize("status", [FAILED, LEFT])
def test_a_dead_node_is_taken_out_of_a_positive_answer(names, web, status):
    web.members["n2"] = ("fc00::2", status)
    assert names.addresses("web.service.consul") == {"fc00::1"}
    assert names.targets("web.service.consul") == {"n1.node.mesh.consul"}


def test_an_address_that_no_member_has_stays(names, web):
    web.members["n2"] = ("fc00::2", FAILED)
    assert names.addresses("ext.service.consul", wire.A) == {"198.51.100.9"}


def test_the_own_address_of_an_instance_goes_with_its_node(names, fake):
    fake.members["n3"] = ("fc00::3", FAILED)
    fake.dns = {
        ("db.service.consul", wire.A): [rdata("192.0.2.7")],
        ("db.service.consul", wire.SRV): [srv(5432, "c0000207.addr.mesh.consul")],
    }
    assert names.addresses("db.service.consul", wire.A) == set()
    assert names.targets("db.service.consul") == set()


def test_a_node_that_took_over_the_address_of_a_dead_one_is_answered(names, web):
    web.members |= {"n2-old": ("fc00::2", LEFT)}
    assert names.addresses("web.service.consul") == {"fc00::1", "fc00::2"}


def test_where_all_are_dead_the_answer_is_empty_and_no_missing_name(names, web):
    web.members = {"n1": ("fc00::1", FAILED), "n2": ("fc00::2", FAILED)}
    assert names.addresses("web.service.consul") == set()


def test_where_consul_gave_only_dead_ones_the_others_that_are_known_are_answered(names, web):
    web.members["n2"] = ("fc00::2", FAILED)
    web.dns[("web.service.consul", wire.AAAA)] = [rdata("fc00::2")]
    assert names.addresses("web.service.consul") == {"fc00::1"}


def test_a_missing_name_is_missing_while_there_is_a_leader(names, web):
    del web.dns[("web.service.consul", wire.AAAA)], web.dns[("web.service.consul", wire.SRV)]
    assert names.ask("web.service.consul").rcode == wire.NXDOMAIN


def test_without_the_http_api_consul_s_dns_is_passed_on(names, web):
    names.answerer.agent.http = names.answerer.agent.http._replace(port=1)
    web.members["n2"] = ("fc00::2", FAILED)
    assert names.addresses("web.service.consul") == {"fc00::1", "fc00::2"}


# ---------------------------------------------------------------- Consul has nothing to say


@pytest.fixture(params=["servfail", "refused", "nxdomain without a leader", "empty without a leader", "hangs", "damaged"])
def speechless(request, fake):
    """An agent that is there, and has no answer to give."""
    fake.leader = False
    if request.param == "servfail":
        fake.rcode = wire.SERVFAIL
    elif request.param == "refused":
        fake.rcode = wire.REFUSED
    elif request.param == "empty without a leader":
        fake.rcode = wire.NOERROR
    elif request.param == "hangs":
        fake.dns_hangs = True
    elif request.param == "damaged":
        fake.raw = b"\x80\0\0\1\0\1\0\0\0\0\xc0\x0c"
    return fake


def test_what_was_last_known_is_answered_without_the_dead(names, speechless):
    assert names.addresses("web.service.consul") == {"fc00::1", "fc00::2"}
    speechless.members["n2"] = ("fc00::2", FAILED)
    assert names.addresses("web.service.consul") == {"fc00::1"}
    assert names.targets("web.service.consul") == {"n1.node.mesh.consul"}
    assert names.addresses("blue.web.service.consul") == {"fc00::1"}
    assert names.addresses("web.service.mesh.consul") == {"fc00::1"}
    assert names.addresses("N1.node.consul") == {"fc00::1"}
    # Not heard of any more, and no external node.
    assert names.addresses("db.service.consul", wire.A) == set()


def test_it_is_dated_for_two_seconds_and_a_missing_name_for_one(names, fake):
    fake.rcode = wire.SERVFAIL
    assert {record.ttl for record in names.ask("web.service.consul", wire.AAAA).answers} == {2}
    missing = names.ask("nobody.service.consul")
    assert (missing.rcode, missing.authorities[0].type, missing.authorities[0].data[-4:]) == (wire.NXDOMAIN, wire.SOA, b"\0\0\0\1")


def test_the_other_address_family_is_empty_and_no_missing_name(names, fake):
    fake.rcode = wire.SERVFAIL
    for name in ("web.service.consul", "n1.node.consul"):
        for qtype in (wire.A, wire.TXT, wire.MX, 65):
            answer = names.ask(name, qtype)
            assert (answer.rcode, answer.answers) == (wire.NOERROR, ())


@pytest.mark.parametrize("name", ["_web._tcp.service.consul", "_web._blue.service.consul", "web.service.consul"])
def test_an_srv_answer_has_port_target_and_address(names, name):
    names.stop()
    answer = names.ask(name, wire.SRV)
    first = next(record for record in answer.answers if wire.target_of(record)[0] == b"n1")
    assert first.data[:6] == b"\0\1\0\1\x1f\x90"
    assert {record.name: record.data for record in answer.additionals}[wire.target_of(first)] == rdata("fc00::1")


def test_an_instance_with_an_address_of_its_own_has_a_target_that_says_it(names):
    names.stop()
    assert names.targets("db.service.consul") == {"c0000207.addr.mesh.consul"}
    assert names.addresses("c0000207.addr.consul", wire.A) == {"192.0.2.7"}


def test_with_the_agent_down_the_dead_are_answered_rather_than_nobody(names, fake):
    fake.rcode = wire.SERVFAIL
    fake.members = {"n1": ("fc00::1", FAILED), "n2": ("fc00::2", 1)}
    assert names.addresses("web.service.consul") == {"fc00::2"}
    names.stop()
    assert names.addresses("web.service.consul") == {"fc00::2"}, "what gossip said last"
    assert names.addresses("n1.node.consul") == {"fc00::1"}, "nobody knows better"


def test_a_sick_instance_is_not_known(names):
    names.stop()
    assert names.ask("sick.service.consul").rcode == wire.NXDOMAIN


@pytest.mark.parametrize("name", ["near.query.consul", "web.connect.consul", "web.service.elsewhere.consul", "consul"])
def test_what_only_consul_can_know_is_a_failure_and_no_missing_name(names, name):
    names.stop()
    assert names.ask(name).rcode == wire.SERVFAIL


def test_without_a_snapshot_or_with_one_that_is_too_old_nothing_is_made_up(names):
    names.stop()
    names.answerer.snapshot.confirmed = time.time() - names.settings.max_age - 1
    assert names.ask("web.service.consul").rcode == wire.SERVFAIL
    names.answerer.snapshot = None
    assert names.ask("web.service.consul").rcode == wire.SERVFAIL


def test_a_long_answer_is_cut_for_udp_and_whole_by_tcp(names):
    names.stop()
    nodes = [(f"node{number}", f"fc00::{number:x}", [("web", 80, "", None, "passing")]) for number in range(1, 60)]
    names.answerer.snapshot = type(names.answerer.snapshot)(_content(nodes))
    short = names.ask("web.service.consul", wire.AAAA)
    assert short.flags & wire.TC and 0 < len(short.answers) < 59
    assert len(names.addresses("web.service.consul", tcp=True)) == 59
    large = names.many(question("web.service.consul", wire.AAAA, edns=4096))[0]
    assert len(large.answers) == 59 and not large.flags & wire.TC
    assert [record.type for record in large.additionals] == [wire.OPT]


def _content(nodes):
    return snapshot.build(catalog(*nodes), "mesh", 11).content


# ---------------------------------------------------------------- how long it takes


@pytest.mark.parametrize("what", ["dns", "http", "both"])
def test_an_agent_that_hangs_delays_one_question_and_that_not_for_long(names, fake, what):
    fake.dns_hangs, fake.http_hangs = what != "http", what != "dns"
    fake.dns = {("web.service.consul", wire.AAAA): [rdata("fc00::1")]}

    async def timed():
        took = []
        for _number in range(20):
            start = time.monotonic()
            await names.answerer.answer(question("web.service.consul", wire.AAAA), False)
            took.append(time.monotonic() - start)
        return took

    took = asyncio.run(timed())
    assert max(took) < 2.0
    # Each of the nineteen that waited would take half a second.
    assert sum(took[1:]) < 5.0, "the others did not wait"


def test_an_agent_that_hung_is_asked_again_after_a_while(names, fake, monkeypatch):
    monkeypatch.setattr(agent, "SILENCE_S", 0.2)
    fake.dns_hangs = True
    assert names.addresses("web.service.consul") == {"fc00::1", "fc00::2"}
    fake.dns_hangs, fake.dns = False, {("web.service.consul", wire.AAAA): [rdata("fc00::9")]}
    assert names.addresses("web.service.consul") == {"fc00::1", "fc00::2"}
    time.sleep(0.25)
    assert names.addresses("web.service.consul") == {"fc00::9"}


def test_members_are_not_asked_for_with_each_question(settings, fake, names):
    names.answerer.gossip = gossip.Gossip(names.answerer.agent)
    names.answerer.gossip._shared._seconds = 60
    fake.dns = {("web.service.consul", wire.AAAA): [rdata("fc00::1")]}
    names.many(*[question("web.service.consul", wire.AAAA)] * 10)
    assert fake.calls.count("/v1/agent/members") == 1


def test_an_agent_that_has_just_started_does_not_make_others_dead(names, fake):
    reply = [{"Name": "n1", "Addr": "fc00::1", "Status": 1}]
    assert gossip.read(reply, ["n1", "n2"]).alive == {"n1", "n2"}
    failed = [*reply, {"Name": "n2", "Addr": "fc00::2", "Status": FAILED}]
    assert gossip.read(failed, ["n1", "n2"]).alive == {"n1"}


# ---------------------------------------------------------------- the nodes' own names


def test_a_node_has_its_overlay_address_whatever_consul_does(names):
    names.stop()
    assert names.addresses("N1.mesh") == {"fc00::1"}
    assert names.addresses("n1.mesh", wire.A) == set()
    assert names.ask("n2.mesh", wire.AAAA).rcode == wire.NXDOMAIN
    assert names.ask("a.n1.mesh", wire.AAAA).rcode == wire.NXDOMAIN
    assert names.ask("mesh", wire.SOA).answers[0].type == wire.SOA


def test_an_overlay_address_has_the_name_of_its_node_and_others_that_of_consul(names, fake):
    reverse = "1" + ".0" * 29 + ".c.f.ip6.arpa"
    other = "2" + reverse[1:]
    fake.dns = {(other, wire.PTR): [wire.encode_name(wire.parse_name("n2.node.mesh.consul"))]}
    assert names.ask(reverse, wire.PTR).answers[0].data == b"\2n1\4mesh\0"
    assert names.ask(other, wire.PTR).answers[0].data == b"\2n2\4node\4mesh\6consul\0"
    names.stop()
    assert names.ask(other, wire.PTR).answers[0].data == b"\2n2\4node\4mesh\6consul\0"
    assert names.ask("9" + reverse[1:], wire.PTR).rcode == wire.NXDOMAIN


def test_other_domains_are_refused(names, fake):
    for name in ("example.org", "consul.example.org", "notconsul", "."):
        assert names.ask(name).rcode == wire.REFUSED
    assert fake.asked == []
