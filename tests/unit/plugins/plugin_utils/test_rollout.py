# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import copy

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import look
from ansible_collections.vdloo.mesh.plugins.plugin_utils import rollout
from hypothesis import given
from hypothesis import strategies as st

CANDIDATES = st.lists(
    st.builds(
        rollout.Candidate,
        name=st.integers(0, 400).map("n{}".format),
        tried=st.booleans(),
        settled=st.booleans(),
        ill=st.booleans(),
        agrees=st.integers(0, 3),
        local=st.booleans(),
        leader=st.booleans(),
        server=st.booleans(),
    ),
    unique_by=lambda candidate: candidate.name,
    max_size=150,
)
LATE = st.lists(st.integers(500, 520).map("n{}".format), unique=True, max_size=5)


def candidate(name: str, **changes) -> rollout.Candidate:
    plain = {"tried": False, "settled": False, "ill": False, "agrees": 0, "local": False, "leader": False, "server": False}
    return rollout.Candidate(name, **{**plain, **changes})


def first(*candidates: rollout.Candidate) -> str:
    return rollout.batches(list(candidates))[0][0]


@given(CANDIDATES, LATE)
def test_every_node_that_changes_is_in_exactly_one_batch(candidates, late):
    found = rollout.batches(candidates, late)
    assert sorted(name for batch in found for name in batch) == sorted([*(one.name for one in candidates), *late])
    assert all(found) and len(found) <= rollout.BATCHES


@given(CANDIDATES, LATE)
def test_one_node_goes_first_and_the_batches_grow(candidates, late):
    sizes = [len(batch) for batch in rollout.batches(candidates, late)]
    assert sizes == sorted(sizes)
    if len(candidates) > 1:
        assert sizes[0] == 1
        assert sizes[1] <= 1 + len(candidates) // rollout.SHARE or len(candidates) == 2


@given(CANDIDATES, LATE, st.randoms())
def test_the_order_of_the_nodes_makes_no_difference(candidates, late, random):
    other = list(candidates)
    random.shuffle(other)
    assert rollout.batches(other, list(reversed(late))) == rollout.batches(candidates, late)


@given(CANDIDATES.filter(bool))
def test_a_node_that_is_well_goes_before_one_that_is_not_unless_the_settings_may_be_why(candidates):
    found = next(one for one in candidates if one.name == first(*candidates))
    suspects = [one for one in candidates if one.tried and one.settled and one.ill]
    if suspects:
        assert found in suspects
    elif any(not one.tried and not one.ill for one in candidates):
        assert not found.ill and not found.tried


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"server": True}, {}),
        ({"leader": True, "server": True}, {"server": True}),
        ({"local": True}, {"leader": True, "server": True}),
        ({"agrees": 1}, {"local": True}),
        ({"agrees": 3}, {"agrees": 2}),
        ({"ill": True}, {"agrees": 3}),
        ({"tried": True}, {"ill": True}),
    ],
)
def test_the_canary_is_the_node_whose_loss_costs_least(worse, better):
    assert first(candidate("n1", **worse), candidate("n2", **better)) == "n2"


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([], ""),
        ([["n4"]], "canary: n4 alone"),
        ([["n4"], ["n2"]], "canary: n4 first, then n2"),
        ([["n4"], ["n2"], ["n1", "n3", "n5"]], "canary: n4 first, then n2, then the other 3"),
        ([["n4"], ["n1", "n2", "n3"], ["n5", "n6"]], "canary: n4 first, then n1, n2 and n3, then n5 and n6"),
    ],
)
def test_the_plan_says_who_comes_after_whom(found, told):
    assert rollout.line(found) == told


def test_who_witnesses_a_batch_is_not_of_it():
    found = [["n4"], ["n2"], ["n1", "n3"]]
    assert [rollout.witness(number, found, []) for number in range(3)] == ["n2", "n4", "n4"]
    assert rollout.witness(0, found, ["n9"]) == "n9"
    assert rollout.witness(0, [["n4"]], []) == ""


# ---------------------------------------------------------------- whether a node is well


def service(running: bool = True) -> dict:
    return {"facts": {}, "services": {"x.service": {"running": running}}}


def well() -> dict:
    found = copy.deepcopy(look.NOTHING)
    found["cjdns"].update(established=["a.k", "b.k"], config={"dials": {"192.0.2.1:1": {}}, "accepts": {}})
    found["consul"].update(members=[{"name": "n1", "alive": True}], leader="[fc00::1]:8300")
    found["resolver"].update(answers=True)
    found["manifests"] = {role: service() for role in ("node", "cjdns", "consul", "dnsmasq", "h2o")}
    return found


def lose_links(found):
    found["cjdns"]["established"] = []


def lose_a_link(found):
    found["cjdns"]["established"] = ["a.k"]


def stop_h2o(found):
    found["manifests"]["h2o"] = service(False)


def stop_consul(found):
    found["consul"].update(members=[], leader="", problem="connection refused")


def lose_leader(found):
    found["consul"].update(leader="")


def mute(found):
    found["resolver"]["answers"] = False


def lack_a_peer(found):
    found["cjdns"]["pending"] = ["cjdns is yet to connect to n2"]


BROKEN = [
    (lose_links, "cjdns: has no live link"),
    (lose_a_link, "cjdns: has 1 live links, and had 2"),
    (stop_h2o, "h2o: x.service does not run"),
    (stop_consul, "consul: the agent does not answer: connection refused"),
    (lose_leader, "consul: sees no leader"),
    (mute, "dnsmasq: does not answer"),
    (lack_a_peer, "cjdns: cjdns is yet to connect to n2"),
]


def after(change) -> dict:
    found = well()
    change(found)
    return found


def test_a_node_that_is_well_has_nothing_against_the_settings():
    assert rollout.ailments(well()) == []
    assert rollout.problems(well(), well(), {"h2o": ["/etc/h2o/mesh.conf differs"]}, {"h2o": []}, False) == []


@pytest.mark.parametrize(("change", "told"), BROKEN)
def test_what_broke_speaks_against_the_settings(change, told):
    assert rollout.problems(well(), after(change), {}, {}, False) == [told]


@pytest.mark.parametrize(("change", "told"), BROKEN)
def test_what_was_broken_before_and_still_is_does_not(change, told):
    assert rollout.problems(after(change), after(change), {}, {}, False) == []
    # On a node on which these settings were stopped before, they may be why.
    if change is not lose_a_link:
        assert rollout.problems(after(change), after(change), {}, {}, True) == [told]


def test_an_agent_that_no_longer_answers_is_worse_than_one_without_a_leader():
    assert rollout.problems(after(lose_leader), after(stop_consul), {}, {}, False) == [BROKEN[3][1]]


def test_the_reason_why_an_agent_does_not_answer_may_be_another_one_each_time():
    later = after(stop_consul)
    later["consul"]["problem"] = "timed out"
    assert rollout.problems(after(stop_consul), later, {}, {}, False) == []


def test_what_the_plan_would_still_do_counts_but_for_what_it_could_not_do():
    left = {"h2o": ["h2o.service has not read /etc/h2o/mesh.conf"], "dnsmasq": ["/etc/x differs"]}
    due = {"dnsmasq": ["/etc/x differs"], "h2o": ["/etc/h2o/mesh.conf differs"]}
    assert rollout.problems(well(), well(), due, left, False) == ["h2o: h2o.service has not read /etc/h2o/mesh.conf"]


# ---------------------------------------------------------------- marks


def marked(**mark) -> dict:
    found = after(lose_leader)
    found["mesh"]["rollout"] = {"by": "laptop", "values": "v", "stopped": "", "age": 5.0, **mark}
    return found


def test_a_node_is_left_to_another_machine_that_tries_settings_on_it_as_long_as_that_may_take():
    assert list(rollout.busy({"n1": marked(), "n2": well()}, "n3", "w")) == ["n1"]
    for other in (marked(age=901.0), marked(age=-5.0), marked(stopped="h2o failed"), marked(by="n3"), marked(values="w")):
        assert rollout.busy({"n1": other}, "n3", "w") == {}


def test_a_node_is_suspect_when_it_has_the_settings_that_were_stopped_there_and_is_not_well():
    drift = {"consul": ["sees no leader"]}
    assert rollout.is_suspect(marked(stopped="it failed"), drift, "v")
    assert not rollout.is_suspect(marked(stopped="it failed"), drift, "other")
    assert not rollout.is_suspect(marked(), drift, "v")
    assert not rollout.is_suspect(marked(stopped="it failed"), {**drift, "h2o": ["/etc/h2o/mesh.conf differs"]}, "v")
