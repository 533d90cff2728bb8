# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import re
from functools import reduce

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import registry as records
from hypothesis import given
from hypothesis import strategies as st

KEY = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"


def record(name="vps1", **changes):
    return {
        "name": name,
        "public_key": KEY,
        "address": "fcea::1",
        "overlay": "cjdns",
        "endpoints": [],
        "zones": [],
        "site": "",
        "server_eligible": True,
        "state": "member",
        "version": 1,
        "updated": "2026-01-01T00:00:00Z",
        **changes,
    }


@pytest.mark.parametrize(
    ("written", "address", "zone"),
    [
        ("192.0.2.1:4321", "192.0.2.1:4321", "public"),
        ("[2001:DB8::1]:80", "[2001:db8::1]:80", "public"),
        ({"address": "10.0.0.1:1", "zone": "home"}, "10.0.0.1:1", "home"),
    ],
)
def test_an_endpoint_is_read_as_it_is_written(written, address, zone):
    assert records.parse_endpoint(written) == {"address": address, "zone": zone}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("example.org:4321", "host name"),
        ("192.0.2.1", "literal IP:PORT"),
        ("192.0.2.300:1", "literal IP:PORT"),
        ("2001:db8::1:4321", "literal IP:PORT"),
        ("192.0.2.1:0", "port"),
        ("192.0.2.1:70000", "port"),
        ("127.0.0.1:4321", "no other node can dial"),
        ("[::]:4321", "no other node can dial"),
        (4321, "not an endpoint"),
        ({"address": "192.0.2.1:1", "zoen": "home"}, "not an endpoint"),
        ({"address": "192.0.2.1:1", "zone": "Home Sweet"}, "zone"),
    ],
)
def test_a_malformed_endpoint_is_refused_with_the_reason(written, told):
    with pytest.raises(ValueError, match=told):
        records.parse_endpoint(written)


@given(st.text() | st.integers() | st.dictionaries(st.text(), st.text()) | st.none())
def test_an_endpoint_is_read_or_refused_and_never_crashes(value):
    try:
        endpoint = records.parse_endpoint(value)
    except ValueError:
        return
    assert records.parse_endpoint(endpoint) == endpoint


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        ({"vps1.example.org": {}}, "host vps1.example.org: the name is not a DNS label"),
        ({"-vps": {}}, "not a DNS label"),
        ({"mesh": {}}, "host mesh: this name is taken"),
        (
            {"a": {"ansible_host": "192.0.2.1"}, "b": {"ansible_host": "192.0.2.1"}},
            "host b: ansible_host 192.0.2.1, port 22, is also that of host a",
        ),
        ({"a": {"mesh_endpoints": ["vps:1"]}}, "host a: mesh_endpoints: 'vps:1' is not a literal IP:PORT"),
        ({"a": {"mesh_endpoints": "192.0.2.1:1"}}, "host a: mesh_endpoints: '192.0.2.1:1' is not a list"),
        ({"a": {"mesh_zones": ["Home Net"]}}, "host a: mesh_zones: 'Home Net' is not a name"),
        ({"a": {"mesh_site": 3}}, "host a: mesh_site: 3 is not one line"),
        (
            {"a": {"mesh_endpoints": ["192.0.2.1:1"]}, "b": {"mesh_endpoints": ["192.0.2.1:1"]}},
            "host b: mesh_endpoints: 192.0.2.1:1 in zone public is also that of host a",
        ),
    ],
)
def test_an_inventory_problem_names_the_host_and_the_variable(hosts, told):
    assert any(told in line for line in records.inventory_problems(hosts))


def test_names_that_differ_only_in_case_are_the_same_node():
    assert any(
        "host vps: host VPS has the same name" in line
        for line in records.inventory_problems({"vps": {}, "VPS": {"ansible_host": "192.0.2.9"}})
    )


def test_a_sound_inventory_has_no_problem():
    hosts = {
        "vps1": {"ansible_host": "192.0.2.1", "mesh_endpoints": ["192.0.2.1:4321"], "mesh_site": "cloud"},
        "pi": {"ansible_host": "192.0.2.2", "mesh_zones": ["home"]},
        "nat-a": {"ansible_host": "192.0.2.3", "ansible_port": 2201},
        "nat-b": {"ansible_host": "192.0.2.3", "ansible_port": 2202},
    }
    assert records.inventory_problems(hosts) == []


def test_two_members_with_one_key_are_told_of():
    registry = {"a": record("a"), "b": record("b")}
    assert "nodes a and b have the same key" in records.identity_problems(registry)[0]
    assert records.identity_problems({"a": record("a"), "b": record("b", state="left")}) == []


any_record = st.builds(
    record,
    site=st.sampled_from(["", "home", "cloud"]),
    state=st.sampled_from(["member", "left", "revoked"]),
    version=st.integers(1, 3),
    updated=st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
)
any_registry = st.dictionaries(st.sampled_from(["a", "b", "c"]), any_record).map(
    lambda found: {name: {**value, "name": name} for name, value in found.items()}
)


@given(any_registry, any_registry, any_registry)
def test_merging_is_commutative_associative_and_idempotent(a, b, c):
    assert records.merge(a, b) == records.merge(b, a)
    assert records.merge(records.merge(a, b), c) == records.merge(a, records.merge(b, c)) == records.merge(a, b, c)
    assert records.merge(a, a) == records.merge(a) == a


@given(any_registry, any_registry)
def test_a_revoked_node_cannot_come_back(a, b):
    merged = records.merge(a, b)
    for registry in (a, b):
        for name, value in registry.items():
            if value["state"] == "revoked":
                assert merged[name]["state"] == "revoked"


@given(st.lists(any_registry, min_size=1, max_size=5), st.randoms())
def test_any_order_of_exchanges_ends_in_the_same_registry(registries, random):
    shuffled = list(registries)
    random.shuffle(shuffled)
    assert reduce(records.merge, registries, {}) == reduce(records.merge, shuffled, {})


def test_an_unchanged_node_leaves_the_registry_as_it_is():
    registry = {"vps1": record()}
    told = {key: value for key, value in record().items() if key not in ("version", "updated")}
    assert records.update(registry, told, "2026-05-05T00:00:00Z") is registry


def test_a_changed_node_gets_the_next_version():
    told = {key: value for key, value in record(site="home").items() if key not in ("version", "updated")}
    updated = records.update({"vps1": record()}, told, "2026-05-05T00:00:00Z")
    assert updated["vps1"] == record(site="home", version=2, updated="2026-05-05T00:00:00Z")


def test_an_update_does_not_bring_a_revoked_node_back():
    registry = {"vps1": record(state="revoked")}
    told = {key: value for key, value in record().items() if key not in ("version", "updated")}
    assert records.update(registry, told, "2026-05-05T00:00:00Z") is registry


SOUND = {
    **record(address="fcea:4775:eacd:7c3b:6fbc:c02b:43d6:53e1"),
    "arch": "x86_64",
    "ssh": {"user": "root", "port": 22, "host_key": ""},
}


def test_a_record_of_this_version_an_older_and_a_newer_one_are_sound():
    older = {field: value for field, value in SOUND.items() if field not in ("arch", "ssh")}
    for one in (SOUND, older, {**SOUND, "colour": "green"}):
        assert records.record_problem("vps1", one) == ""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "vps2"}, "not the one that it is kept under"),
        ({"public_key": "u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k"}, "address is not that of its public_key"),
        ({"public_key": "0" * 52 + ".k"}, "public_key is none"),
        ({"address": "fcea::1%eth0"}, "no valid address|not that of its"),
        ({"endpoints": [{"address": "host:1", "zone": "public"}]}, "no valid endpoints"),
        ({"endpoints": ["192.0.2.1:4321"]}, "no valid endpoints"),
        ({"state": "dead"}, "no valid state"),
        ({"version": 0}, "no valid version"),
        ({"updated": "yesterday"}, "no valid updated"),
        ({"zones": "home", "site": None}, "no valid zones, site"),
        ({"arch": "{{ x }}"}, "no valid arch"),
        ({"ssh": {"user": "root", "port": 0, "host_key": ""}}, "no valid ssh"),
        ({"ssh": {"user": "root", "port": 22, "host_key": "", "key": ""}}, "no valid ssh"),
        ({"ssh": {"user": "root", "port": 22, "host_key": "", "key": "ssh-ed25519 AAAA\nssh-rsa evil"}}, "no valid ssh"),
        ({"ssh": {"user": "root", "port": 22, "host_key": "", "key": 'command="evil" ssh-ed25519 ' + "A" * 68}}, "no valid ssh"),
        ({"extra": object()}, "not plain JSON"),
    ],
)
def test_a_record_that_cannot_be_true_says_why(changes, told):
    assert re.search(told, records.record_problem("vps1", {**SOUND, **changes}))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.sampled_from(sorted(SOUND)), ANYTHING)
def test_whatever_is_in_a_field_the_record_is_judged_and_never_raises(field, value):
    assert isinstance(records.record_problem("vps1", {**SOUND, field: value}), str)


@given(ANYTHING, ANYTHING)
def test_whatever_is_called_a_record_is_judged(name, value):
    assert records.record_problem(name, value)


def test_a_nodes_own_key_is_what_it_told_or_what_was_known():
    key, other = "ssh-ed25519 " + "A" * 68, "ssh-ed25519 " + "B" * 68
    assert "key" not in records.access({}, None)["ssh"]
    assert records.access({"node_access": {"ssh_key": key}}, None)["ssh"]["key"] == key
    known = {"ssh": {"user": "root", "port": 22, "host_key": "", "key": key}}
    assert records.access({"node_access": {"ssh_key": ""}}, known)["ssh"]["key"] == key
    assert records.access({"node_access": {"ssh_key": "no key"}}, known)["ssh"]["key"] == key
    assert records.access({"node_access": {"ssh_key": other}}, known)["ssh"]["key"] == other


@given(
    st.lists(st.sampled_from(["site", "endpoint"]), max_size=20),
    st.lists(st.sampled_from(["site", "endpoint"]), max_size=20),
    st.sampled_from(["left", "revoked"]),
)
def test_no_concurrent_change_brings_a_node_back_that_went(before, meanwhile, state):
    def changed(registry, changes, now):
        for number, change in enumerate(changes):
            told = {key: value for key, value in registry["vps1"].items() if key not in ("version", "updated")}
            told[{"site": "site", "endpoint": "arch"}[change]] = f"{now}-{number}"
            registry = records.update(registry, told, "2026-01-09T00:00:00Z")
        return registry

    known = changed({"vps1": record()}, before, "before")
    gone = records.depart(known, "vps1", state, "2026-01-02T00:00:00Z")
    # Runs that have not heard of it go on changing the record they know, and later.
    stale = changed(known, meanwhile, "meanwhile")
    merged = records.merge(stale, gone)
    assert merged == gone
    assert records.merge(gone, stale) == merged
    assert records.depart(merged, "vps1", state, "2026-01-10T00:00:00Z") == merged


def test_a_node_that_left_is_a_member_again_by_one_more_change_and_a_revoked_one_never():
    gone = records.depart({"vps1": record()}, "vps1", "left", "2026-01-02T00:00:00Z")
    told = {key: value for key, value in record().items() if key not in ("version", "updated")}
    back = records.update(gone, told, "2026-01-03T00:00:00Z")
    assert records.merge(gone, back)["vps1"]["state"] == "member"
    revoked = records.depart(back, "vps1", "revoked", "2026-01-04T00:00:00Z")
    assert records.update(revoked, told, "2026-01-05T00:00:00Z") == revoked
    assert records.depart(revoked, "vps1", "left", "2026-01-05T00:00:00Z") == revoked
