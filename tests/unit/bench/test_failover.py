# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What script/bench failover makes of what it sees; the faults themselves are not for a unit test."""

from __future__ import annotations

import asyncio
import socket
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "bench")]

import failover
import load
import watch_names

ADDRESS = {"n01": "fc00::1", "n02": "fc00::2", "n03": "fc00::3", "n04": "fc00::4", "n05": "fc00::5"}
ALL = ["fc00::2", "fc00::3", "fc00::4"]


def entry(at, addresses, leader="[fc00::1]:8300"):
    return {"at": at, "addresses": addresses, "leader": leader}


def watcher(*seen):
    found = failover.Watcher.__new__(failover.Watcher)
    found.seen = list(seen)
    return found


def bed(**watchers):
    return types.SimpleNamespace(address=ADDRESS, watchers=watchers)


def outcome(begun, ok=True, via="a", said=""):
    return load.Outcome(begun, begun + 0.01, ok, via, said)


def test_an_address_counts_until_the_last_time_that_it_was_seen():
    seen = watcher(entry(0.0, ALL), entry(11.0, ALL[1:]), entry(12.0, ALL), entry(13.5, ALL[1:]))
    assert failover.until_gone(bed(n01=seen), "n02", 10.0) == [3.5]


def test_a_name_without_an_answer_is_not_one_without_the_dead():
    seen = watcher(entry(0.0, ALL), entry(11.0, None), entry(14.0, ALL[1:]))
    assert failover.until_gone(bed(n01=seen), "n02", 10.0) == [4.0]


def test_an_address_that_never_goes_is_no_figure():
    with pytest.raises(RuntimeError, match="n01 still has the address of n02"):
        failover.until_gone(bed(n01=watcher(entry(0.0, ALL))), "n02", 10.0)


def test_the_leader_that_counts_is_the_one_that_stays():
    seen = watcher(
        entry(0.0, ALL), entry(12.0, ALL, ""), entry(15.0, ALL, "[fc00::2]:8300"), entry(15.5, ALL, ""), entry(17.0, ALL, "[fc00::3]:8300")
    )
    assert failover.until_led(bed(n01=watcher(), n02=seen), "n01", 10.0) == [7.0]


def test_an_agent_is_quiet_from_the_fault_to_its_last_answerless_moment():
    assert failover.silence([entry(0.0, ALL)], 10.0) == 0.0
    assert failover.silence([entry(0.0, ALL), entry(10.5, None), entry(11.0, ALL), entry(12.0, []), entry(13.0, ALL)], 10.0) == 2.5
    with pytest.raises(RuntimeError, match="no answer at the end"):
        failover.silence([entry(0.0, ALL), entry(10.5, None)], 10.0)


def test_an_ingress_is_back_with_the_first_request_that_it_answers_after_the_last_that_went_elsewhere():
    passed = [outcome(9.0), outcome(10.5, via="b"), outcome(11.0, via="b"), outcome(12.25), outcome(12.5)]
    assert failover.until_answering("a", 10.0, passed) == [2.25]
    assert failover.until_answering("a", 10.0, [outcome(9.0), outcome(10.1)]) == [0.0]
    with pytest.raises(RuntimeError, match="a does not answer"):
        failover.until_answering("a", 10.0, [outcome(10.5, via="b")])


def test_the_rounds_of_a_case_are_one_population():
    rounds = [{"seconds": [1.0, 2.0], "requests": 1500, "lost": 3}, {"seconds": [9.0], "requests": 500, "lost": 0}]
    assert failover.summed(rounds) == {"p50_s": 2.0, "p95_s": 9.0, "max_s": 9.0, "lost_per_1000": 1.5}


@pytest.fixture
def answering():
    """Run a coroutine beside a server that answers each request with these bytes; the test gets its port."""

    def run(answer, ask):
        async def both():
            async def serve(reader, writer):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                writer.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            async with server:
                return await ask(server.sockets[0].getsockname()[1])

        return asyncio.run(both())

    return run


def test_a_request_counts_when_it_was_answered_with_200(answering):
    def ask(port):
        return load.request(["127.0.0.1"], "/", port)

    found = answering(b"HTTP/1.1 200 OK\r\n\r\nn02\n", ask)
    assert (found.ok, found.said, found.via) == (True, "n02", "127.0.0.1")
    found = answering(b"HTTP/1.1 502 Gateway Error\r\n\r\nNo answer\n", ask)
    assert (found.ok, found.said) == (False, "HTTP/1.1 502 Gateway Error: No answer")
    assert not answering(b"", ask).ok


def test_only_an_ingress_that_takes_no_connection_is_passed_over(answering):
    found = answering(b"HTTP/1.1 200 OK\r\n\r\nn02\n", lambda port: load.request(["127.0.0.2", "127.0.0.1"], "/", port))
    assert (found.ok, found.via) == (True, "127.0.0.1")
    found = answering(b"HTTP/1.1 502 no\r\n\r\n", lambda port: load.request(["127.0.0.1", "127.0.0.2"], "/", port))
    assert (found.ok, found.via) == (False, "127.0.0.1")


def test_nobody_waits_longer_than_a_person_would():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = asyncio.run(load.request(["127.0.0.1"], "/", silent.getsockname()[1], patience=0.2))
    assert not found.ok
    assert found.said == "no answer within 0.2 s"


def test_a_steady_load_makes_all_its_requests():
    found = asyncio.run(load.steady([], "/", rate=200, seconds=0.1))
    assert len(found) == 20
    assert found[-1].begun - found[0].begun >= 0.08


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"\x85\x80\x00\x01\x00\x01\x00\x00\x00\x00", ["fc00::2"]),
        (b"\x85\x83\x00\x01\x00\x00\x00\x00\x00\x00", []),
        (b"\x85\x82\x00\x01\x00\x00\x00\x00\x00\x00", None),
    ],
)
def test_the_watcher_tells_addresses_from_none_and_from_no_answer(monkeypatch, answer, told):
    record = b"\xc0\x0c\x00\x1c\x00\x01\x00\x00\x00\x02\x00\x10" + socket.inet_pton(socket.AF_INET6, "fc00::2")

    class Door:
        def __init__(self, *_arguments):
            self.sent = b""

        def __enter__(self):
            return self

        def __exit__(self, *_arguments):
            return None

        def settimeout(self, _seconds):
            pass

        def connect(self, _address):
            pass

        def send(self, packet):
            self.sent = packet

        def recv(self, _size):
            return self.sent[:2] + answer + self.sent[12:] + (record if answer[5] else b"")

    monkeypatch.setattr(watch_names.socket, "socket", Door)
    assert watch_names.addresses("web.service.consul") == told
