# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import digest, settings
from ansible_collections.vdloo.mesh.plugins.plugin_utils import agreement
from ansible_collections.vdloo.mesh.plugins.plugin_utils.inventory_settings import Told
from hypothesis import given
from hypothesis import strategies as st

NOW = "2026-02-02T00:00:00Z"
LATER = "2026-02-03T00:00:00Z"
NODES = ("n1", "n2", "n3")
VARIABLES = st.dictionaries(st.sampled_from(["h2o_attempts", "h2o_http_port", "consul_config"]), st.integers(0, 2), max_size=3)


def told(variables: dict, withheld: dict | None = None) -> Told:
    return Told(variables, {name: (withheld or {}).get(name, {}) for name in variables})


def everywhere(**variables) -> dict:
    return {name: dict(variables) for name in NODES}


def record(hosts: dict, known: dict | None = None, by="laptop", servers=None, withheld=()) -> dict:
    return settings.update(known or {}, settings.collect(hosts, servers, withheld), NOW, by)


def looks(*kept: dict) -> dict:
    return {f"n{number}": {"mesh": {"settings": one}} for number, one in enumerate(kept, 1)}


def own(servers=(), few=False, build="") -> agreement.Inventory:
    return agreement.Inventory(False, settings.NO_DIGEST, list(servers), few, build)


def out_of_the_mesh(used: dict, few=False, build="") -> agreement.Inventory:
    return agreement.Inventory(True, digest.of(used), ["n1"], few, build)


def reach(kept, variables, inventory, withheld=None, earlier=None) -> agreement.Agreed:
    return agreement.reach(looks(*kept), told(variables, withheld), inventory, LATER, "here", earlier)


# ---------------------------------------------------------------- an inventory of the operator's own


def test_what_the_operator_sets_becomes_the_settings():
    agreed = reach([{}, {}], everywhere(h2o_attempts=2), own())
    assert (agreed.record["version"], agreed.record["by"], agreed.record["values"]["mesh"]) == (1, "here", {"h2o_attempts": 2})
    assert (agreed.changed, agreed.gone, agreed.frozen, agreed.lines, agreed.warnings) == ({}, {}, {}, [], [])


def test_the_same_settings_again_are_the_same_record():
    known = record(everywhere(h2o_attempts=2))
    assert reach([known, {}], everywhere(h2o_attempts=2), own()).record == known


def test_other_settings_are_a_new_version_and_it_is_said_whose_they_replace():
    known = record(everywhere(h2o_attempts=2, h2o_http_port=80), by="n5")
    agreed = reach([{}, known], everywhere(h2o_attempts=3, h2o_https_port=443), own(["n1"]))
    assert agreed.record["version"] == 2
    assert agreed.record["values"]["consul_servers"] == ["n1"]
    assert agreed.lines == [
        f"settings: h2o_attempts differs from what n5 set at {NOW}",
        f"settings: h2o_http_port is no longer set, unlike in what n5 set at {NOW}",
        f"settings: h2o_https_port is set, which it was not in what n5 set at {NOW}",
        f"settings: the group consul_servers differs from what n5 set at {NOW}",
    ]


def test_an_inventory_of_one_new_host_takes_the_settings_of_the_mesh_over():
    known = record(everywhere(h2o_attempts=2), servers=["n1"])
    agreed = reach([known], {"n9": {"h2o_http_port": 81}}, own(few=True))
    assert settings.for_host(agreed.record, "n1") == {"h2o_attempts": 2}
    assert agreed.changed == {"n9": {"h2o_attempts": 2}}
    assert agreed.record["values"]["consul_servers"] == ["n1"]


def test_a_secret_is_withheld_with_a_warning_that_names_it():
    kept = {name: {"consul_config": "is vaulted"} for name in NODES}
    agreed = reach([record(everywhere(consul_config={"a": 1}))], everywhere(), own(), withheld=kept)
    assert agreed.record["values"] == {**settings.NO_VALUES, "withheld": ["consul_config"]}
    assert agreed.frozen == {}
    assert len(agreed.warnings) == 1 and "consul_config of n1, n2, n3 is vaulted" in agreed.warnings[0]


# ---------------------------------------------------------------- the inventory plugin


def test_the_newest_settings_count_over_those_that_the_inventory_was_made_of():
    old = record(everywhere(h2o_attempts=1, h2o_http_port=80))
    new = record(everywhere(h2o_attempts=2), old)
    agreed = reach([old, new], everywhere(h2o_attempts=1, h2o_http_port=80), out_of_the_mesh(old))
    assert agreed.record == new
    assert agreed.changed == {name: {"h2o_attempts": 2} for name in NODES}
    assert agreed.gone == {name: ["h2o_http_port"] for name in NODES}
    assert agreed.lines == agreed.warnings == []


def test_what_the_user_set_beside_the_inventory_counts_over_the_newest():
    old = record(everywhere(h2o_attempts=1, h2o_http_port=80))
    new = record(everywhere(h2o_attempts=2, h2o_http_port=80), old)
    agreed = reach([old, new], everywhere(h2o_attempts=1, h2o_http_port=8080, consul_version="1.9"), out_of_the_mesh(old))
    assert agreed.record["version"] == 3
    assert agreed.record["values"]["mesh"] == {"h2o_attempts": 2, "h2o_http_port": 8080, "consul_version": "1.9"}
    assert agreed.changed == {name: {"h2o_attempts": 2} for name in NODES}


def test_a_part_of_the_mesh_changes_nothing_for_the_rest():
    known = record({"n1": {"h2o_attempts": 5}, "n2": {"h2o_attempts": 5}, **{f"n{number}": {"h2o_attempts": 1} for number in (3, 4, 5)}})
    mine = {"n1": {"h2o_attempts": 5, "h2o_http_port": 81}, "n2": {"h2o_attempts": 5}}
    agreed = reach([known], mine, out_of_the_mesh(known))
    assert settings.for_host(agreed.record, "n4") == {"h2o_attempts": 1}
    assert settings.for_host(agreed.record, "n1") == {"h2o_attempts": 5, "h2o_http_port": 81}


def test_an_inventory_made_of_settings_that_nobody_keeps_any_more_decides_nothing_and_says_so():
    known = record(everywhere(h2o_attempts=2))
    agreed = reach([known], everywhere(h2o_attempts=1), out_of_the_mesh({"version": 7}))
    assert agreed.record == known
    assert "h2o_attempts: run again, with --flush-cache" in agreed.warnings[0]
    assert reach([known], everywhere(h2o_attempts=2), out_of_the_mesh({"version": 7})).warnings == []


def test_who_listed_servers_is_remembered_where_the_group_means_something_else():
    known = record(everywhere(h2o_attempts=2), servers=["n2", "n3"])
    agreed = reach([known], everywhere(h2o_attempts=3), out_of_the_mesh(known))
    assert agreed.record["values"]["consul_servers"] == ["n2", "n3"]


def test_a_role_that_lacks_a_secret_is_left_alone_with_a_warning():
    known = record(everywhere(), withheld=["consul_config"])
    agreed = reach([known], everywhere(), out_of_the_mesh(known))
    assert agreed.record == known
    assert agreed.frozen == {name: {"consul": ["consul_config"]} for name in NODES}
    assert "the role consul is left alone on n1, n2, n3, as consul_config does not travel" in agreed.warnings[0]


def test_with_the_secret_beside_the_inventory_the_role_is_judged():
    known = record(everywhere(), withheld=["consul_config"])
    kept = {name: {"consul_config": "is vaulted"} for name in NODES}
    agreed = reach([known], everywhere(), out_of_the_mesh(known), withheld=kept)
    assert (agreed.record, agreed.frozen) == (known, {})
    agreed = reach([known], everywhere(consul_config=1), out_of_the_mesh(known))
    assert (agreed.record["values"]["withheld"], agreed.frozen) == ([], {})


@given(base=VARIABLES, newest=VARIABLES)
def test_an_inventory_without_a_part_of_the_users_never_changes_the_settings(base, newest):
    old = record(everywhere(**base))
    new = record(everywhere(**newest), old)
    agreed = reach([old, new], everywhere(**base), out_of_the_mesh(old))
    assert agreed.record == settings.merge(old, new)
    for name in NODES:
        seen = {**{key: value for key, value in base.items() if key not in agreed.gone.get(name, [])}, **agreed.changed.get(name, {})}
        assert seen == settings.for_host(agreed.record, name)


# ---------------------------------------------------------------- what the nodes keep


def test_two_edits_apart_are_reported_and_one_of_them_counts():
    first = record(everywhere(h2o_attempts=1))
    here, there = record(everywhere(h2o_attempts=2), first, by="laptop"), record(everywhere(h2o_attempts=3), first, by="n5")
    agreed = reach([here, there, here], everywhere(h2o_attempts=2), out_of_the_mesh(here))
    assert agreed.record == settings.merge(here, there)
    assert len(agreed.warnings) == 1 and "laptop" in agreed.warnings[0] and "n5" in agreed.warnings[0]


@pytest.mark.parametrize("damaged", [{"version": 0}, {"version": 9, "values": "x"}])
def test_damaged_settings_of_one_node_are_left_out_with_a_warning(damaged):
    known = record(everywhere(h2o_attempts=2))
    agreed = reach([damaged, known], everywhere(h2o_attempts=2), own())
    assert agreed.record == known
    assert len(agreed.warnings) == 1 and agreed.warnings[0].startswith("the settings that n1 keeps were left out: they have no valid")


def test_an_earlier_plan_of_the_run_is_not_judged_again():
    known = record(everywhere(h2o_attempts=2, h2o_http_port=80))
    earlier = record(everywhere(h2o_attempts=3), known)
    # What was gone has the default of the role by now.
    agreed = reach([known], everywhere(h2o_attempts=3, h2o_http_port=80), out_of_the_mesh(known), earlier=earlier)
    assert agreed.record == earlier
    assert agreed.gone == {name: ["h2o_http_port"] for name in NODES}
    assert agreed.lines == agreed.warnings == []


# ---------------------------------------------------------------- the build of the collection

ONE, OTHER = "1" * 64, "2" * 64


def test_the_build_that_an_operator_runs_is_the_one_of_the_mesh():
    first = reach([{}], everywhere(h2o_attempts=2), own(build=ONE)).record
    assert first["values"]["collection"] == ONE
    assert settings.problem(first) == ""
    agreed = reach([first], everywhere(h2o_attempts=2), own(build=OTHER))
    assert (agreed.record["version"], agreed.record["values"]["collection"]) == (2, OTHER)
    assert agreed.lines == [f"settings: the build of the collection differs from what here set at {LATER}"]


def test_the_inventory_plugin_of_an_operator_brings_a_build_as_well():
    first = reach([{}], everywhere(h2o_attempts=2), own(build=ONE)).record
    agreed = reach([first], everywhere(h2o_attempts=2), out_of_the_mesh(first, build=OTHER))
    assert agreed.record["values"] == {**first["values"], "collection": OTHER}


def test_the_copy_on_a_node_never_goes_before():
    first = reach([{}], everywhere(h2o_attempts=2), own(build=ONE)).record
    assert reach([first], everywhere(h2o_attempts=2), out_of_the_mesh(first)).record == first
    users = {**everywhere(h2o_attempts=2), "n1": {"h2o_attempts": 3}}
    assert reach([first], users, out_of_the_mesh(first)).record["values"]["collection"] == ONE


def test_a_build_that_is_none_is_no_setting():
    record_of = reach([{}], everywhere(h2o_attempts=2), own(build=ONE)).record
    for wrong in ("x", ONE.upper().replace("1", "G"), 1, None, ["a"]):
        assert "values" in settings.problem({**record_of, "values": {**record_of["values"], "collection": wrong}})
