# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json

import pytest
from ansible_collections.vdloo.mesh.plugins.plugin_utils import view
from fake_mesh import ADDRESS, KEYS, record
from hypothesis import given
from hypothesis import strategies as st

NAMES = tuple(KEYS)


def member(name, status=1, role="server", address=None):
    return {"name": name, "address": address or ADDRESS.get(name, "fc00::9"), "status": status, "role": role}


def link(name, state="ESTABLISHED", silent_ms=100, **changes):
    return {
        "public_key": KEYS[name],
        "address": ADDRESS[name],
        "state": state,
        "silent_ms": silent_ms,
        "user": name,
        **changes,
    }


def whole():
    """What a healthy mesh of three answers on n1."""
    return {
        "registry": {name: record(name) for name in NAMES},
        "kv": {f"registry/{name}": json.dumps(record(name)) for name in NAMES}
        | {"converged/n2": '{"at": "2026-02-03T04:05:06Z", "by": "n1"}'},
        "consul": {"members": [member("n1"), member("n2"), member("n3", role="client")]},
        "services": {"web": [["n1", "passing"], ["n2", "critical"]]},
        "cjdns": {"node": {"address": ADDRESS["n1"], "public_key": KEYS["n1"], "version": 22}, "peers": [link("n2"), link("n3")]},
    }


def merged(answers):
    nodes, warnings = view.merge(answers)
    return {node["name"]: node for node in nodes}, warnings


def test_a_healthy_mesh_is_seen_whole():
    answers = whole()
    answers["registry"]["n2"] = record(
        "n2", version=2, endpoints=[{"address": "192.0.2.1:4321", "zone": "public"}], zones=["home"], site="attic", arch="aarch64"
    )
    nodes, warnings = merged(answers)
    assert warnings == []
    assert nodes["n2"] == {
        "name": "n2",
        "address": ADDRESS["n2"],
        "public_key": KEYS["n2"],
        "status": "alive",
        "consul_status": "alive",
        "cjdns_state": "ESTABLISHED",
        "reachable": True,
        "conflicts": [],
        "role": "server",
        "site": "attic",
        "zones": ["home"],
        "endpoints": [{"address": "192.0.2.1:4321", "zone": "public"}],
        "arch": "aarch64",
        "ssh": {"user": "root", "port": 22, "host_key": "ssh-ed25519 " + "A" * 68},
        "peers": ["n1"],
        "services": {"web": "critical"},
        "sources": ["cjdns", "consul", "kv", "registry"],
        "state": "member",
        "server_eligible": True,
        "converged": "2026-02-03T04:05:06Z",
    }
    assert nodes["n1"]["peers"] == ["n2", "n3"]
    assert nodes["n3"]["role"] == "client"
    assert all(node["reachable"] for node in nodes.values())


@pytest.mark.parametrize("dead", ["registry", "kv", "consul", "services", "cjdns"])
def test_without_any_one_source_all_nodes_are_still_there(dead):
    answers = whole()
    del answers[dead]
    nodes, warnings = merged(answers)
    assert (sorted(nodes), warnings) == (list(NAMES), [])
    assert all(node["reachable"] for node in nodes.values())


@pytest.mark.parametrize(("only", "reachable"), [("registry", []), ("kv", []), ("consul", list(NAMES)), ("cjdns", ["n2", "n3"])])
def test_one_source_alone_tells_of_the_nodes(only, reachable):
    nodes, warnings = merged({only: whole()[only]})
    assert warnings == []
    assert [name for name, node in nodes.items() if node["reachable"]] == reachable
    assert set(nodes) == (set(NAMES) if only != "cjdns" else {"n2", "n3"})


def test_a_node_that_failed_and_has_no_live_link_is_not_reachable():
    answers = whole()
    answers["consul"]["members"][1]["status"] = 4
    answers["cjdns"]["peers"][0].update(state="UNRESPONSIVE")
    node = merged(answers)[0]["n2"]
    assert (node["status"], node["reachable"], node["cjdns_state"], node["conflicts"]) == ("failed", False, "UNRESPONSIVE", [])


def test_an_agent_that_failed_on_a_node_with_a_live_link_is_a_conflict_and_the_node_stays_reachable():
    answers = whole()
    answers["consul"]["members"][1]["status"] = 4
    node = merged(answers)[0]["n2"]
    assert (node["status"], node["consul_status"], node["reachable"]) == ("failed", "failed", True)
    assert node["conflicts"] == ["Consul says failed, cjdns says ESTABLISHED"]


def test_without_consul_a_node_that_takes_connections_is_reachable_and_the_others_are_not():
    answers = whole()
    del answers["consul"], answers["services"], answers["kv"]
    answers["cjdns"]["peers"] = [link("n2")]
    answers["answering"] = [ADDRESS["n3"]]
    nodes, _warnings = merged(answers)
    assert {name: node["reachable"] for name, node in nodes.items()} == {"n1": True, "n2": True, "n3": True}
    assert {node["status"] for node in nodes.values()} == {"unknown"}
    answers["answering"] = []
    assert not merged(answers)[0]["n3"]["reachable"]
    answers["answering"] = [ADDRESS["n3"]]
    answers["registry"]["n3"]["state"] = "revoked"
    assert not merged(answers)[0]["n3"]["reachable"]


def test_a_link_that_has_been_silent_for_long_is_not_live():
    answers = whole()
    answers["consul"]["members"][1]["status"] = 4
    answers["cjdns"]["peers"][0]["silent_ms"] = 15_000
    node = merged(answers)[0]["n2"]
    assert (node["reachable"], node["peers"]) == (False, [])


def test_a_node_that_is_alive_behind_a_dead_link_is_reached_another_way():
    answers = whole()
    answers["cjdns"]["peers"][0]["state"] = "UNRESPONSIVE"
    node = merged(answers)[0]["n2"]
    assert (node["status"], node["reachable"]) == ("alive", True)
    assert node["conflicts"] == ["Consul says alive, cjdns says UNRESPONSIVE"]


@pytest.mark.parametrize("state", ["left", "revoked"])
def test_a_node_that_left_is_never_reachable_and_its_return_is_a_conflict(state):
    answers = whole()
    answers["registry"]["n2"] = record("n2", state=state, version=2)
    node = merged(answers)[0]["n2"]
    assert (node["status"], node["state"], node["reachable"]) == ("left", state, False)
    assert node["conflicts"] == [f"the registry says {state}, Consul says alive"]


def test_a_member_that_the_registry_does_not_know_is_a_host():
    answers = whole()
    answers["consul"]["members"].append(member("new"))
    node = merged(answers)[0]["new"]
    assert (node["address"], node["status"], node["sources"], node["state"], node["public_key"]) == (
        "fc00::9",
        "alive",
        ["consul"],
        "unknown",
        "",
    )


def test_a_peer_of_another_mesh_is_no_host_while_somebody_else_tells_the_members():
    answers = whole()
    del answers["registry"]["n3"], answers["kv"]["registry/n3"], answers["consul"]["members"][2]
    assert set(merged(answers)[0]) == {"n1", "n2"}


def test_the_newer_record_counts_whichever_source_has_it():
    for source, other in (("registry", "kv"), ("kv", "registry")):
        answers = whole()
        newer, older = record("n2", site="cellar", version=3), record("n2", site="attic", version=2)
        answers[source]["n2" if source == "registry" else "registry/n2"] = newer if source == "registry" else json.dumps(newer)
        answers[other]["n2" if other == "registry" else "registry/n2"] = older if other == "registry" else json.dumps(older)
        assert merged(answers)[0]["n2"]["site"] == "cellar"


def test_whoever_claims_the_key_of_another_node_is_left_out_and_named():
    answers = whole()
    thief = {**record("n1"), "name": "thief", "version": 99, "updated": "2020-01-01T00:00:00Z"}
    answers["kv"]["registry/thief"] = json.dumps(thief)
    nodes, warnings = merged(answers)
    assert set(nodes) == set(NAMES)
    assert warnings == ["the node thief was left out: it claims the key of n1"]
    # Without the file on the node, where the key's address really answers decides.
    del answers["registry"]
    assert merged(answers) == (merged({**whole(), "registry": {}})[0], warnings)


def test_a_member_that_claims_the_address_of_another_node_is_left_out_and_named():
    answers = whole()
    answers["consul"]["members"].append(member("thief", address=ADDRESS["n2"]))
    nodes, warnings = merged(answers)
    assert (set(nodes), warnings) == (set(NAMES), ["Consul: the member thief was left out: it claims the address of n2"])


def test_a_member_at_another_address_than_its_own_is_not_believed():
    answers = whole()
    answers["consul"]["members"][1]["address"] = "fc00::bad"
    del answers["cjdns"]
    node = merged(answers)[0]["n2"]
    assert (node["address"], node["reachable"], node["conflicts"]) == (ADDRESS["n2"], False, ["Consul has it at fc00::bad"])


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("member", "{{ lookup('pipe', 'id') }}", "the member \"{{ lookup('pipe', 'id') }}\" was left out"),
        ("member", "-oProxyCommand=id", "the member '-oProxyCommand=id' was left out"),
        ("member", "mesh", "the member 'mesh' was left out"),
        ("member", "x" * 500, "the member 'xxxxxx"),
        ("member", None, "the member None was left out"),
        ("kv", "garbage", "'registry/evil' was left out: its value is not JSON"),
        ("kv", "[" * 100_000, "'registry/evil' was left out: its value is not JSON"),
        ("kv", "[]", "'evil' was left out: it is not a JSON object"),
        ("kv", json.dumps(record("other")), "'evil' was left out: its name is not the one"),
        (
            "kv",
            json.dumps({**record("n3"), "name": "evil", "address": "fc00::1"}),
            "'evil' was left out: its address is not that of its public_key",
        ),
        ("kv", json.dumps({**record("n3"), "name": "evil", "version": True}), "'evil' was left out: it has no valid version"),
        ("kv", json.dumps({**record("n3"), "name": "evil", "site": "x" * 20_000}), "'evil' was left out: it is longer"),
        ("kv", json.dumps({**record("n3"), "name": "evil", "site": "a\nb"}), "'evil' was left out: it has no valid site"),
        (
            "kv",
            json.dumps({**record("n3"), "name": "evil", "ssh": {"user": "-oProxyCommand=id", "port": 22, "host_key": ""}}),
            "'evil' was left out: it has no valid ssh",
        ),
        (
            "kv",
            json.dumps(
                {**record("n3"), "name": "evil", "ssh": {"user": "root", "port": 22, "host_key": "ssh-rsa AAAAAAAAAAAAAAAAAAAA\n* x"}}
            ),
            "'evil' was left out: it has no valid ssh",
        ),
        ("kv", "null", "'evil' was left out: it is not a JSON object"),
        ("registry", None, "'evil' was left out: it is not a JSON object"),
        ("registry", 7, "'evil' was left out: it is not a JSON object"),
    ],
)
def test_what_cannot_be_true_is_left_out_named_and_takes_nothing_with_it(place, value, told):
    answers = whole()
    if place == "member":
        answers["consul"]["members"].append(member(value))
    elif place == "kv":
        answers["kv"]["registry/evil"] = value
    else:
        answers["registry"]["evil"] = value
    nodes, warnings = merged(answers)
    assert nodes == merged(whole())[0]
    assert len(warnings) == 1 and told in warnings[0] and len(warnings[0]) < 250


def test_a_source_that_tells_thousands_of_lies_cannot_drown_the_screen():
    answers = whole()
    answers["kv"].update({f"registry/evil-{number}": "" for number in range(5000)})
    nodes, warnings = merged(answers)
    assert set(nodes) == set(NAMES)
    assert len(warnings) == view.MOST_WARNINGS + 1 and warnings[-1] == "and 4950 more of the kind"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from([*NAMES, *KEYS.values(), *ADDRESS.values(), "ESTABLISHED"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["node", "peers", "members", "name", "address", "status", "role", "user", "state", "n1", "web", "registry/n1"])
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@given(st.dictionaries(st.sampled_from(["registry", "kv", "consul", "services", "cjdns"]), JSON))
def test_whatever_one_source_answers_the_nodes_of_the_others_stay(strange):
    # The file is believed over all others; what is damaged in it is checked above.
    strange.pop("registry", None)
    nodes, _warnings = merged({**whole(), **strange})
    assert set(NAMES) <= set(nodes)
    assert all(nodes[name]["address"] == ADDRESS[name] for name in NAMES)
