# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import copy
import itertools
import json

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import settings
from hypothesis import given
from hypothesis import strategies as st

NOW = "2026-02-02T00:00:00Z"
LATER = "2026-02-03T00:00:00Z"
PLAIN = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "{{ b }}"])
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2), max_leaves=4
)
VARIABLES = st.dictionaries(st.sampled_from(["h2o_routes", "h2o_http_port", "consul_config", "mesh_minimum_nodes"]), VALUES, max_size=4)
HOSTS = st.dictionaries(st.sampled_from(["n1", "n2", "n3", "n4"]), VARIABLES, min_size=1, max_size=4)
SERVERS = st.none() | st.lists(st.sampled_from(["n1", "n2"]), unique=True)


@st.composite
def records(draw):
    """A record as a few changes one after the other leave it."""
    record: dict = {}
    for _change in range(draw(st.integers(0, 3))):
        values = settings.collect(draw(HOSTS), draw(SERVERS))
        record = settings.update(record, values, draw(st.sampled_from([NOW, LATER])), draw(st.sampled_from(["laptop", "n1"])))
    return record


def made(hosts: dict, known: dict | None = None, servers=None, now=NOW, by="laptop", **options) -> dict:
    return settings.update(known or {}, settings.collect(hosts, servers), now, by, **options)


# ---------------------------------------------------------------- laws


@given(one=records(), two=records(), three=records())
def test_a_merge_is_commutative_associative_and_idempotent(one, two, three):
    assert settings.merge(one, two) == settings.merge(two, one)
    assert settings.merge(settings.merge(one, two), three) == settings.merge(one, settings.merge(two, three))
    assert settings.merge(one, one) == one
    assert {json.dumps(settings.merge(*order)) for order in itertools.permutations([one, two, three])} == {
        json.dumps(settings.merge(one, two, three))
    }


@given(record=records(), hosts=HOSTS)
def test_each_host_gets_exactly_what_was_set_for_it(record, hosts):
    after = made(hosts, record)
    for name, variables in hosts.items():
        assert json.dumps(settings.for_host(after, name), sort_keys=True) == json.dumps(variables, sort_keys=True)


@given(record=records(), hosts=HOSTS, servers=SERVERS)
def test_what_was_set_once_changes_nothing_when_it_is_set_again(record, hosts, servers):
    once = made(hosts, record, servers)
    assert made(hosts, once, servers, now=LATER, by="n1") == once
    assert settings.problem(once) == ""


@given(record=records(), hosts=HOSTS)
def test_a_change_counts_more_than_what_it_was_made_of_and_is_no_conflict_with_it(record, hosts):
    after = made(hosts, record)
    assert settings.merge(record, after) == after
    assert settings.conflicts(record, after) == []


@given(record=records(), hosts=HOSTS)
def test_a_host_that_is_not_in_the_inventory_keeps_its_own_values(record, hosts):
    before = record.get("values", settings.NO_VALUES)["hosts"]
    after = made(hosts, record).get("values", settings.NO_VALUES)["hosts"]
    for name in set(before) - set(hosts):
        assert after[name] == before[name]


@given(base=VARIABLES, mine=VARIABLES, newest=VARIABLES)
def test_a_merge_of_three_keeps_the_one_change_that_there_is(base, mine, newest):
    def text(value):
        return json.dumps(value, sort_keys=True)

    assert text(settings.three_way(base, base, newest)) == text(newest)
    assert text(settings.three_way(base, mine, base)) == text(mine)
    assert text(settings.three_way(base, mine, mine)) == text(mine)


@given(
    value=st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=4), inner), max_leaves=8), record=records()
)
def test_whatever_comes_from_elsewhere_is_judged_and_never_an_exception(value, record):
    assert settings.problem(value) or value == {}
    for field in record:
        assert isinstance(settings.problem({**record, field: value}), str)


# ---------------------------------------------------------------- where a value is kept


def test_what_is_the_same_on_all_hosts_is_the_meshs_and_the_rest_is_their_own():
    values = settings.collect({"n1": {"h2o_http_port": 80, "consul_config": {"a": 1}}, "n2": {"h2o_http_port": 80}}, ["n2", "n1"])
    assert values["mesh"] == {"h2o_http_port": 80}
    assert values["hosts"] == {"n1": {"consul_config": {"a": 1}}, "n2": {}}
    assert values["consul_servers"] == ["n1", "n2"]


def test_one_host_that_differs_takes_nothing_from_hosts_that_are_not_in_the_inventory():
    before = made({name: {"h2o_http_port": 80} for name in ("n1", "n2", "n3")})
    after = made({"n1": {"h2o_http_port": 80}, "n2": {"h2o_http_port": 81}, "n3": {"h2o_http_port": 80}}, before)
    assert settings.for_host(after, "n9") == {"h2o_http_port": 80}
    halves = made({"n1": {"h2o_http_port": 80}, "n2": {"h2o_http_port": 81}}, before)
    assert settings.for_host(halves, "n9") == {"h2o_http_port": 80}


def test_values_that_differ_everywhere_are_nobody_elses():
    record = made({name: {"consul_node_name": name} for name in ("n1", "n2")})
    assert settings.for_host(record, "n9") == {}


def test_an_inventory_of_one_host_does_not_decide_for_all():
    before = made({name: {"h2o_http_port": 80} for name in ("n1", "n2")})
    after = made({"n9": {"h2o_http_port": 81, "h2o_attempts": 3}}, before, few=True)
    assert settings.for_host(after, "n1") == {"h2o_http_port": 80}
    assert settings.for_host(after, "n9") == {"h2o_http_port": 81, "h2o_attempts": 3}
    assert settings.for_host(made({"n9": {}}, before, few=True), "n9") == {"h2o_http_port": 80}


def test_a_change_of_one_variable_leaves_the_others_where_they_are():
    before = made({"n1": {"h2o_http_port": 80}, "n2": {"h2o_http_port": 80}, "n3": {"h2o_http_port": 80}})
    before = made(
        {"n1": {"h2o_http_port": 81}, "n2": {"h2o_http_port": 81}, "n3": {"h2o_http_port": 80}, "n4": {"h2o_http_port": 80}}, before
    )
    assert settings.for_host(before, "n9") == {"h2o_http_port": 80}
    # A part of the mesh only: n1 and n2 are no majority of it.
    after = made({name: {"h2o_http_port": 81, "h2o_attempts": 3} for name in ("n1", "n2")}, before)
    assert settings.for_host(after, "n9") == {"h2o_http_port": 80, "h2o_attempts": 3}


def test_one_and_true_are_two_values():
    before = made({"n1": {"h2o_attempts": 1}})
    assert made({"n1": {"h2o_attempts": True}}, before)["version"] == 2
    assert made({"n1": {"h2o_attempts": 1.0}}, before)["version"] == 2
    assert made({"n1": {"consul_config": {"a": [1]}}}, made({"n1": {"consul_config": {"a": [True]}}}))["version"] == 2


def test_nothing_set_is_no_record():
    assert made({"n1": {}, "n2": {}}) == {}


# ---------------------------------------------------------------- changes and conflicts


def test_a_change_says_who_made_it_when_and_out_of_what():
    first = made({"n1": {"h2o_attempts": 1}})
    second = made({"n1": {"h2o_attempts": 2}}, first, now=LATER, by="n1")
    assert (second["version"], second["updated"], second["by"], second["ancestors"]) == (2, LATER, "n1", [settings.short(first)])
    assert settings.differences(first["values"], second["values"]) == [("h2o_attempts", "other")]


def test_two_edits_apart_are_named_with_who_and_when():
    first = made({"n1": {"h2o_attempts": 1}})
    here = made({"n1": {"h2o_attempts": 2}}, first, by="laptop")
    there = made({"n1": {"h2o_attempts": 3}}, first, now=LATER, by="n5")
    (told,) = settings.conflicts(first, here, there, here)
    for part in (f"laptop ({NOW}, version 2)", f"n5 ({LATER}, version 2)", "h2o_attempts"):
        assert part in told


def test_an_edit_is_reported_also_when_the_other_side_made_two():
    first = made({"n1": {"h2o_attempts": 1}})
    here = made({"n1": {"h2o_attempts": 2}}, first, by="laptop")
    there = made({"n1": {"h2o_attempts": 4}}, made({"n1": {"h2o_attempts": 3}}, first, by="n5"), by="n5")
    assert settings.merge(here, there) == there
    assert len(settings.conflicts(here, there)) == 1


def test_a_node_that_was_off_for_many_changes_is_no_conflict():
    old = record = made({"n1": {"h2o_attempts": 0}})
    for number in range(1, 2 * settings.MOST_ANCESTORS):
        record = made({"n1": {"h2o_attempts": number}}, record)
        assert settings.conflicts(old, record) == []
    assert len(record["ancestors"]) == settings.MOST_ANCESTORS


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"n1": {"h2o_attempts": 1}}, {"n1": {}}, [("h2o_attempts", "gone")]),
        ({"n1": {"h2o_attempts": 1}, "n2": {}}, {"n1": {"h2o_attempts": 2}, "n2": {}}, [("h2o_attempts of n1", "other")]),
        ({"n1": {}}, {"n1": {"h2o_attempts": 1}}, [("h2o_attempts", "new")]),
    ],
)
def test_what_differs_is_named(before, after, told):
    assert settings.differences(settings.collect(before), settings.collect(after)) == told
    assert settings.differences(settings.collect({}), settings.collect({}, ["n1"])) == [("the group consul_servers", "other")]


# ---------------------------------------------------------------- what is not believed


def test_a_variable_that_is_no_setting_is_never_used():
    record = made({"n1": {"h2o_attempts": 1}})
    record = copy.deepcopy(record)
    evil = ["ansible_connection", "ansible_ssh_common_args", "consul_gossip_key", "consul_server", "mesh_endpoints", "cjdns_peers"]
    record["values"]["mesh"].update(dict.fromkeys(evil, "evil"))
    record["values"]["hosts"]["n1"] = dict.fromkeys(evil, "evil")
    assert settings.problem(record) == ""
    assert settings.for_host(record, "n1") == {"h2o_attempts": 1}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 0}, "version"),
        ({"version": True}, "version"),
        ({"updated": "yesterday"}, "updated"),
        ({"by": "a\nb"}, "by"),
        ({"by": None}, "by"),
        ({"ancestors": ["x"]}, "ancestors"),
        ({"ancestors": ["0" * 16] * 33}, "ancestors"),
        ({"values": {}}, "values"),
        ({"values": {**settings.NO_VALUES, "mesh": {"{{ x }}": 1}}}, "values"),
        ({"values": {**settings.NO_VALUES, "hosts": {"n 1": {}}}}, "values"),
        ({"values": {**settings.NO_VALUES, "hosts": {"n1": []}}}, "values"),
        ({"values": {**settings.NO_VALUES, "consul_servers": ["../n1"]}}, "values"),
        ({"values": {**settings.NO_VALUES, "withheld": [["a"]]}}, "values"),
        ({"values": {**settings.NO_VALUES, "mesh": {"h2o_routes": "x" * settings.MAX_BYTES}}}, "bytes long"),
    ],
)
def test_a_record_that_cannot_be_one_is_named(change, told):
    assert told in settings.problem({**made({"n1": {"h2o_attempts": 1}}), **change})


def test_deep_nesting_is_a_problem_and_no_exception():
    deep: list = []
    for _level in range(100_000):
        deep = [deep]
    assert settings.problem({"version": 1, "values": deep})


def test_settings_that_are_too_long_name_the_longest_of_them():
    with pytest.raises(ValueError, match=r"262144 are the most that every node keeps: the longest is h2o_routes\. Put"):
        made({"n1": {"h2o_routes": ["x" * settings.MAX_BYTES], "h2o_attempts": 1}})


def test_what_is_withheld_is_named_until_it_is_set_in_the_open():
    record = settings.update({}, settings.collect({"n1": {}}, withheld=["consul_config"]), NOW, "laptop")
    assert record["values"]["withheld"] == ["consul_config"]
    assert made({"n1": {"consul_config": {}}}, record)["values"]["withheld"] == []
