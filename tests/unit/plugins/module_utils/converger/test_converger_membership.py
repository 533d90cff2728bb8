# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who is in the mesh, and what has happened since."""

from __future__ import annotations

import datetime
import json

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock, membership
from ansible_collections.vdloo.mesh.plugins.module_utils.converger.membership import Event
from hypothesis import given
from hypothesis import strategies as st

GRACE_S = 60


def gossip(**states):
    return [{"Name": name, "Status": {"alive": 1, "leaving": 2, "left": 3, "failed": 4}[state]} for name, state in states.items()]


def record(members=None, below=False, turning=""):
    return {"members": members or {}, "below_minimum": below, "turning": turning, "by": "n1", "at": "then"}


def events(known, minimum=0, **states):
    return membership.compare(known, 0, gossip(**states), minimum, GRACE_S).events


def test_the_first_look_makes_a_record_and_tells_of_nobody():
    look = membership.compare({}, 0, gossip(n1="alive", n2="failed"), 0, GRACE_S)
    assert (look.events, look.is_news, look.has_moved) == ([], True, True)
    assert look.record == {"members": {"n1": "alive", "n2": "failed"}, "below_minimum": False, "turning": ""}


def test_the_same_members_are_no_news():
    look = membership.compare(record({"n1": "alive", "n2": "failed"}), 0, gossip(n2="failed", n1="alive"), 0, GRACE_S)
    assert (look.events, look.is_news, look.has_moved) == ([], False, False)


def test_who_comes_and_who_goes_is_told_one_by_one_and_once_for_all():
    known = record({"n1": "alive", "n2": "alive", "n3": "alive", "n4": "failed"})
    assert events(known, n1="alive", n2="failed", n3="left", n4="alive", n5="alive") == [
        Event("node_joined", "n4"),
        Event("node_joined", "n5"),
        Event("node_left", "n2"),
        Event("node_left", "n3"),
        Event("cluster_change"),
    ]


def test_a_failed_node_that_leaves_for_good_is_a_change_and_nobody_has_left_again():
    known = record({"n1": "alive", "n2": "failed"})
    assert events(known, n1="alive", n2="left") == [Event("cluster_change")]


def test_whom_a_restarted_agent_has_forgotten_has_failed_and_has_not_left():
    look = membership.compare(record({"n1": "alive", "n2": "failed"}), 0, gossip(n1="alive"), 0, GRACE_S)
    assert not look.is_news
    assert events(record({"n1": "alive", "n2": "alive"}), n1="alive") == [Event("node_left", "n2"), Event("cluster_change")]


@pytest.mark.parametrize("name", ["", "N1", "{{ x }}", "a.b", None, 7])
def test_what_is_no_name_of_a_node_is_nobody(name):
    assert membership.seen([{"Name": name, "Status": 1}, "n9", {"Name": "n1", "Status": 1}], {}) == {"n1": "alive"}


states = st.dictionaries(st.sampled_from(["n1", "n2", "n3", "n4"]), st.sampled_from(["alive", "failed"]))


@given(
    before=states, after=st.dictionaries(st.sampled_from(["n1", "n2", "n3", "n4"]), st.sampled_from(["alive", "leaving", "left", "failed"]))
)
def test_after_a_look_was_kept_the_same_gossip_is_no_news(before, after):
    look = membership.compare(record(before), 0, gossip(**after), 0, GRACE_S)
    again = membership.compare({**record(), **look.record}, 0, gossip(**after), 0, GRACE_S)
    assert not again.is_news
    assert again.events == []
    joined = {event.node for event in look.events if event.name == "node_joined"}
    left = {event.node for event in look.events if event.name == "node_left"}
    alive = {name for name, state in before.items() if state == "alive"}
    assert (alive | joined) - left == {name for name, state in look.record["members"].items() if state == "alive"}
    assert (Event("cluster_change") in look.events) == (before != look.record["members"])


# ---------------------------------------------------------------- below the minimum


@pytest.fixture
def at(monkeypatch):
    """A function that looks after so many seconds at so many nodes, and returns whether it was told that they are too few; 3 is the least."""
    now, known = [1_000_000_000], [record({"n1": "alive"})]

    def text():
        return datetime.datetime.fromtimestamp(now[0], datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

    def age(then):
        if not then:
            return None
        return now[0] - datetime.datetime.strptime(then, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc).timestamp()

    monkeypatch.setattr(clock, "now", text)
    monkeypatch.setattr(clock, "age", age)

    def look(later, alive):
        now[0] += later
        found = membership.compare(known[0], 0, gossip(**{f"n{number}": "alive" for number in range(alive)}), 3, GRACE_S)
        known[0] = {**known[0], **found.record}
        return Event("below_minimum") in found.events

    return look


def test_too_few_are_told_of_once_they_were_too_few_for_long(at):
    assert [at(later, 2) for later in (0, 30, 29, 1, 100, 1000)] == [False, False, False, True, False, False]


def test_one_look_with_enough_of_them_begins_anew(at):
    assert [at(*look) for look in ((0, 2), (59, 3), (1, 2), (59, 2), (1, 2))] == [False, False, False, False, True]


def test_it_is_told_again_only_after_there_were_enough_for_as_long(at):
    assert [at(*look) for look in ((0, 2), (60, 2))] == [False, True]
    assert [at(*look) for look in ((60, 3), (59, 3), (1, 2), (600, 2))] == [False] * 4
    assert [at(*look) for look in ((0, 3), (60, 3), (0, 1), (60, 1))] == [False, False, False, True]


def test_a_clock_that_was_set_back_begins_anew(at):
    assert [at(*look) for look in ((0, 2), (-600, 2), (59, 2), (1, 2))] == [False, False, False, True]


def test_two_looks_are_needed_even_without_a_grace():
    first = membership.turn(False, None, True, 0)
    assert first == (False, membership.BEGUN)
    assert membership.turn(False, 0, True, 0) == (True, membership.STEADY)


looks = st.lists(st.tuples(st.integers(0, 2 * GRACE_S), st.booleans()), max_size=40)


@given(looks=looks)
def test_what_counts_turns_only_when_the_opposite_was_so_for_the_whole_grace(looks):
    now, counts, since = 0, False, None
    held = 0  # since when what is so now has been so in all looks
    last = None
    for later, is_so in looks:
        now += later
        held = now if is_so != last else held
        last = is_so
        turned, what = membership.turn(counts, None if since is None else now - since, is_so, GRACE_S)
        if turned != counts:
            assert turned == is_so
            assert now - held >= GRACE_S
        elif is_so != counts:
            assert now - held < GRACE_S
        since = {membership.STEADY: None, membership.BEGUN: now, membership.KEPT: since}[what]
        counts = turned


# ---------------------------------------------------------------- the store


def test_of_two_that_saw_the_same_one_keeps_it(agent):
    one, other = (membership.look(agent.client, 0, GRACE_S) for _number in range(2))
    assert membership.save(agent.client, "n1", one)
    assert not membership.save(agent.client, "n2", other)
    known, _index = membership.load(agent.client)
    assert (known["by"], known["members"]) == ("n1", {"c1": "alive"})
    assert not membership.look(agent.client, 0, GRACE_S).is_news


@pytest.mark.parametrize("status", [2, 3])
def test_an_agent_that_is_about_to_leave_does_not_judge_who_is_there(agent, monkeypatch, status):
    asked = agent.client
    monkeypatch.setattr(asked, "members", lambda: [{"Name": "c1", "Status": status}, {"Name": "c2", "Status": 1}])
    with pytest.raises(client.ClientError, match="is no member of the mesh at the moment"):
        membership.look(asked, 0, GRACE_S)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b'{"members": {}}',
        json.dumps(record({"n1": "well"})).encode(),
        json.dumps(record({"{{ x }}": "alive"})).encode(),
        json.dumps({**record({"n1": "alive"}), "turning": 5}).encode(),
    ],
)
def test_a_damaged_record_is_none_and_is_written_over(agent, value):
    agent.client.put(membership.KEY, value)
    look = membership.look(agent.client, 0, GRACE_S)
    assert (look.known, look.events) == ({}, [])
    assert membership.save(agent.client, "n1", look)
    assert membership.load(agent.client)[0]["members"] == {"c1": "alive"}
