# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""New settings come in batches."""

from __future__ import annotations

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import digest, manifest
from ansible_collections.vdloo.mesh.plugins.module_utils import registry as records
from ansible_collections.vdloo.mesh.plugins.plugin_utils import plan
from planned import (
    ENDPOINTS,
    NODES,
    NOW,
    SETTINGS,
    asked,
    break_file,
    converged,
    keyed_look,
    lose_leader,
    out_of,
    remove_peer_from_file,
    render,
    role_manifest,
    stop_service,
    with_settings,
)

NEWER = {**SETTINGS, "version": 3, "values": {**SETTINGS["values"], "mesh": {"h2o_attempts": 3}}}


def changed_h2o(name: str, role: str, given: dict, facts: dict) -> dict:
    """The newer settings give h2o another file."""
    if role != "h2o":
        return render(name, role, given, facts)
    other = role_manifest(role, given)
    other["files"][0]["content"] = "newer"
    return {"wanted": manifest.wanted(other)}


def rolled_out(looks: dict, **changes) -> dict:
    return plan.make(looks, asked(**{"settings": NEWER, "by": "laptop", **changes}), changed_h2o, NOW)


def made_batches(looks: dict, **changes) -> list[list[str]]:
    return rolled_out(looks, **changes)["batches"]


def with_marks(looks: dict, *names: str, **changes) -> dict:
    for name in names:
        mark = {"by": "tower", "values": digest.of(NEWER["values"]), "stopped": "", "age": 10.0}
        looks[name]["mesh"]["rollout"] = {**mark, **changes}
    return looks


def test_new_settings_come_to_one_node_first_and_to_the_leader_late():
    made = rolled_out(with_settings(converged(), *NODES))
    assert made["rollout"]
    assert made["batches"] == [["n2"], ["n3"], ["n1"]]
    assert (made["lines"][0], made["trying"]) == ("canary: n2 first, then n3, then n1", list(NODES))
    assert [[name for name, group in made["groups"] if group == f"plan_{kind}_1"] for kind in ("batch", "witness")] == [["n2"], ["n3"]]
    assert (made["concerned"], made["settings_digest"]) == (list(NODES), digest.of(NEWER["values"]))


def test_a_repair_has_no_batches_however_many_nodes_it_is_for():
    looks = with_settings(converged(), *NODES)
    for name in NODES:
        looks[name]["manifests"]["h2o"]["files"]["/etc/h2o.conf"]["sha256"] = "0" * 64
    made = plan.make(looks, asked(settings=SETTINGS, by="laptop"), render, NOW)
    assert (made["rollout"], made["batches"]) == (False, [list(NODES)])
    assert not any(line.startswith("canary") for line in made["lines"])


def test_settings_that_some_node_keeps_are_proven_and_come_to_the_others_at_once():
    looks = with_settings(converged(), *NODES)
    looks["n3"]["mesh"]["settings"] = NEWER
    made = rolled_out(looks)
    assert (made["rollout"], made["unkept"], made["batches"]) == (False, False, [list(NODES)])


def test_a_mesh_that_keeps_no_settings_yet_is_set_up_at_once():
    made = rolled_out({name: keyed_look(name) for name in NODES})
    assert (made["rollout"], made["unkept"], made["batches"]) == (False, True, [list(NODES)])


def test_a_node_that_is_new_comes_with_the_last():
    looks = with_settings(converged(), "n1", "n2")
    found = keyed_look("n3")
    found["mesh"]["registry"] = looks["n1"]["mesh"]["registry"]
    looks["n3"] = found
    assert made_batches(looks) == [["n2"], ["n1", "n3"]]


def test_a_node_that_is_not_well_is_no_canary():
    looks = with_settings(converged(), *NODES)
    lose_leader(looks)
    assert made_batches(looks)[0] == ["n3"]


def test_the_node_that_a_run_starts_from_is_no_canary():
    hosts = {**asked().hosts, "n2": {"mesh_endpoints": ENDPOINTS["n2"], "ansible_connection": "local"}}
    assert made_batches(with_settings(converged(), *NODES), hosts=hosts)[0] == ["n3"]


def test_a_node_whose_links_change_comes_after_those_of_which_none_does():
    looks = with_settings(converged(), *NODES)
    looks["n2"]["cjdns"]["config"]["accepts"]["n9"] = "sha256:9"
    assert made_batches(looks)[0] == ["n3"]


def test_the_mesh_may_do_without_a_canary():
    made = rolled_out(with_settings(converged(), *NODES), canary=False)
    assert (made["rollout"], made["batches"]) == (False, [list(NODES)])


def test_what_concerns_one_host_is_no_matter_of_the_others():
    looks = with_settings(converged(), *NODES)
    own = {**SETTINGS, "version": 3, "values": {**SETTINGS["values"], "hosts": {"n2": {"h2o_attempts": 4}}}}
    assert plan.make(looks, asked(settings=own), render, NOW)["concerned"] == ["n2"]


def test_settings_concern_also_the_hosts_that_a_limited_run_leaves_out():
    looks = with_settings(converged(), *NODES)
    made = rolled_out({"n2": looks["n2"]}, outside=frozenset({"n1", "n3"}))
    assert (made["batches"], made["concerned"]) == ([["n2"]], list(NODES))


def test_another_build_of_the_collection_concerns_all():
    looks = with_settings(converged(), *NODES)
    built = {**SETTINGS, "version": 3, "values": {**SETTINGS["values"], "collection": "d" * 64}}
    made = plan.make(looks, asked(settings=built), render, NOW)
    assert (made["rollout"], made["concerned"], made["batches"]) == (True, list(NODES), [])


def test_a_repair_leaves_a_node_alone_on_which_somebody_tries_settings():
    looks = with_marks(with_settings(converged(), *NODES), "n2", "n3")
    break_file(looks)
    looks["n3"]["mesh"]["rollout"]["age"] = 901.0
    stop_service(looks)
    made = plan.make(looks, asked(settings=SETTINGS, by="n1"), render, NOW)
    assert (made["batches"], made["lines"]) == ([["n3"]], ["n3: dnsmasq: dnsmasq.service does not run"])
    assert made["warnings"] == ["n2 is left alone: tower is trying other settings there, since 10 s"]
    assert made["hosts"]["n2"]["frozen"] == list(plan.ROLES)


def test_of_two_who_bring_settings_at_once_the_second_is_told_to_wait():
    looks = with_marks(with_settings(converged(), *NODES), "n2", values="other")
    with pytest.raises(plan.PlanError, match=r"tower is trying other settings right now, since 10 s on n2.*Nothing was changed"):
        rolled_out(looks)
    # The same machine may try again what it broke off.
    assert rolled_out(with_marks(looks, "n2", by="laptop", values="other"))["batches"]


def test_settings_that_were_stopped_are_not_tried_again_and_again_by_a_run_that_nobody_started():
    looks = with_marks(with_settings(converged(), *NODES), "n2", stopped="n2 is not well")
    hosts = out_of(looks["n1"]["mesh"]["registry"])
    with pytest.raises(plan.PlanError, match=r"inventory of laptop were stopped on n2 \(n2 is not well\)"):
        rolled_out(looks, hosts=hosts, from_mesh=True)
    later = with_marks(looks, "n2", stopped="n2 is not well", age=3601.0)
    assert rolled_out(later, hosts=hosts, from_mesh=True)["batches"]
    # Whoever has an inventory of his own may, and another node tells whether it was the node or the settings.
    assert made_batches(looks)[0] == ["n3"]


def test_a_node_that_is_not_well_with_settings_that_were_stopped_is_the_first_to_show_that_it_is_now():
    looks = with_marks(with_settings(converged(), *NODES), "n1", stopped="n1 is not well")
    looks["n1"]["manifests"]["h2o"] = {"facts": {}, **changed_h2o("n1", "h2o", {}, {})["wanted"]}
    for entry in looks["n1"]["manifests"]["h2o"]["services"].values():
        entry.update(since=1.0, restart=[], reload=[])
    looks["n1"]["resolver"]["answers"] = False
    assert made_batches(looks) == [["n1"], ["n2"], ["n3"]]


def test_a_node_that_joins_with_variables_of_its_own_is_no_rollout():
    looks = with_settings(converged(), "n1", "n2")
    remove_peer_from_file(looks)
    own = {**SETTINGS, "version": 3, "values": {**SETTINGS["values"], "hosts": {"n3": {"dnsmasq_probe_names": ["a"]}}}}
    made = plan.make(looks, asked(settings=own), render, NOW)
    assert (made["concerned"], made["rollout"], made["batches"]) == (["n3"], False, [["n3"]])


def test_a_node_that_comes_back_with_its_old_settings_is_no_rollout():
    looks = with_settings(converged(), *NODES)
    remove_peer_from_file(looks)
    gone = records.depart(looks["n1"]["mesh"]["registry"], "n3", "left", NOW)
    for name in ("n1", "n2"):
        looks[name]["mesh"]["registry"] = gone
    own = {**SETTINGS, "version": 3, "values": {**SETTINGS["values"], "hosts": {"n3": {"h2o_attempts": 4}}}}
    made = plan.make(looks, asked(settings=own, joining=frozenset({"n3"})), render, NOW)
    assert made["registry"]["n3"]["state"] == "member"
    assert (made["concerned"], made["rollout"], made["batches"]) == (["n3"], False, [["n3"]])


def test_who_only_has_to_be_repaired_waits_for_no_verdict_of_its_own():
    looks = with_settings(converged(), *NODES)
    stop_service(looks)
    own = {**SETTINGS, "version": 3, "values": {**SETTINGS["values"], "hosts": {"n1": {"h2o_attempts": 4}}}}
    break_one = {**role_manifest("h2o", {}), "services": []}

    def only_n1(name: str, role: str, given: dict, facts: dict) -> dict:
        return {"wanted": manifest.wanted(break_one)} if (name, role) == ("n1", "h2o") else render(name, role, given, facts)

    made = plan.make(looks, asked(settings=own), only_n1, NOW)
    assert (made["rollout"], made["concerned"], made["batches"]) == (True, ["n1"], [["n1"], ["n3"]])
