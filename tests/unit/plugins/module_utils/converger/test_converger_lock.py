# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lock, on real Consul agents with short times."""

from __future__ import annotations

import threading

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock, lock

TTL_S = 2


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(lock, "DELAY_S", 1)
    monkeypatch.setattr(lock, "REST_S", 4.0)
    monkeypatch.setattr(lock, "RETRY_S", 0.1)


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """Holders that a test lets die go on to renew their sessions otherwise, into the tests that follow."""
    found, make = [], lock.Lock.__init__

    def noted(one, *arguments):
        found.append(one)
        make(one, *arguments)

    monkeypatch.setattr(lock.Lock, "__init__", noted)
    yield
    for one in found:
        one._ended.set()


@pytest.fixture
def running():
    return threading.Event()


def lock_of(agent, name):
    return lock.Lock(agent.addr, {"node": name, "pid": 1, "since": "then", "reason": "hand"}, TTL_S)


def sessions(agent):
    return agent.client.get("/v1/session/list").value


def test_it_is_one_nodes_at_a_time(agent, running):
    mine, other = lock_of(agent, "n1"), lock_of(agent, "n2")
    mine.take(running)
    assert len(sessions(agent)) == 1
    with pytest.raises(lock.Held) as refused:
        other.take(running)
    assert str(refused.value) == "n1 has the lock since then"
    assert refused.value.holder == {"node": "n1", "pid": 1, "since": "then", "reason": "hand"}
    assert len(sessions(agent)) == 1, "nothing is left of the one that was refused"
    mine.release()
    assert sessions(agent) == []
    other.take(running)
    other.release()


def test_it_is_free_at_once_after_a_release(agent, running):
    mine, other = lock_of(agent, "n1"), lock_of(agent, "n2")
    mine.take(running)
    mine.release()
    begun = clock.seconds()
    other.take(running)
    assert clock.seconds() - begun < 0.5
    other.release()


def test_it_is_kept_for_longer_than_consul_keeps_a_session(agent, running):
    mine = lock_of(agent, "n1")
    mine.take(running)
    begun = clock.seconds()
    while clock.seconds() - begun < 3 * TTL_S:
        assert mine.lost() == ""
        running.wait(0.2)
    assert lock.look(agent.client)[0]["node"] == "n1"
    mine.release()


def test_a_lock_that_rests_is_waited_for(agent, running):
    mine, other = lock_of(agent, "n1"), lock_of(agent, "n2")
    mine.take(running)
    agent.client.put("/v1/session/destroy/" + lock.look(agent.client)[1])
    begun = clock.seconds()
    other.take(running)
    assert 0.5 < clock.seconds() - begun < 4
    other.release()


def test_a_lock_that_rests_for_too_long_is_given_up_and_nothing_is_left(agent, running, monkeypatch):
    monkeypatch.setattr(lock, "DELAY_S", 30)
    mine, other = lock_of(agent, "n1"), lock_of(agent, "n2")
    mine.take(running)
    agent.client.put("/v1/session/destroy/" + lock.look(agent.client)[1])
    with pytest.raises(lock.Resting):
        other.take(running)
    assert sessions(agent) == []


@pytest.fixture
def refused(monkeypatch):
    """A function that lets Consul refuse the first sessions of a lock, as it does for a node that it does not know."""

    def refuse(mine, times):
        put, calls = mine.agent.put, []

        def answer(path, *arguments):
            if path == "/v1/session/create":
                calls.append(path)
                if len(calls) <= times:
                    raise client.ClientError("500 Missing node registration")
            return put(path, *arguments)

        monkeypatch.setattr(mine.agent, "put", answer)
        return calls

    return refuse


def test_a_node_that_the_leader_does_not_know_yet_tries_again(agent, running, refused):
    mine = lock_of(agent, "n1")
    calls = refused(mine, 2)
    mine.take(running)
    assert len(calls) == 3
    assert lock.look(agent.client)[0]["node"] == "n1"
    mine.release()


def test_a_node_that_the_leader_never_knows_gives_up(agent, running, refused):
    mine = lock_of(agent, "n1")
    refused(mine, 10**6)
    begun = clock.seconds()
    with pytest.raises(client.ClientError, match="Missing node registration"):
        mine.take(running)
    assert clock.seconds() - begun > lock.REST_S


def test_a_stop_ends_the_waiting(agent, running, monkeypatch):
    monkeypatch.setattr(lock, "DELAY_S", 30)
    mine, other = lock_of(agent, "n1"), lock_of(agent, "n2")
    mine.take(running)
    agent.client.put("/v1/session/destroy/" + lock.look(agent.client)[1])
    running.set()
    begun = clock.seconds()
    with pytest.raises(lock.Resting):
        other.take(running)
    assert clock.seconds() - begun < lock.REST_S / 2


@pytest.mark.parametrize("how", ["session", "key"])
def test_a_lock_that_was_taken_away_is_noticed(agent, running, wait_for, how):
    mine = lock_of(agent, "n1")
    mine.take(running)
    if how == "session":
        agent.client.put("/v1/session/destroy/" + lock.look(agent.client)[1])
    else:
        agent.client.request("DELETE", lock.KEY)
    told = wait_for(mine.lost, TTL_S)
    assert told == ("Consul has ended its session" if how == "session" else "somebody took it away")
    mine.release()


def test_a_lock_that_nobody_renews_is_lost_before_consul_gives_it_to_another(agent, running, wait_for):
    mine = lock_of(agent, "n1")
    mine.take(running)
    taken = clock.seconds()
    agent.stop()
    told = wait_for(mine.lost, 2 * TTL_S)
    assert "did not renew its session" in told
    assert clock.seconds() - taken < 2 * TTL_S
    mine.release()


def test_without_an_agent_there_is_no_lock(agent, running):
    agent.stop()
    with pytest.raises(client.ClientError):
        lock_of(agent, "n1").take(running)


@pytest.mark.parametrize("value", [b"", b"no JSON", b"[1]", b'{"node": 7, "since": ["x"]}'])
def test_a_holder_that_tells_nothing_of_use_is_somebody(agent, running, value):
    session = agent.client.put("/v1/session/create", b"{}")["ID"]
    assert agent.client.put(lock.KEY, value, {"acquire": session})
    with pytest.raises(lock.Held, match="somebody has the lock since some time"):
        lock_of(agent, "n1").take(running)
