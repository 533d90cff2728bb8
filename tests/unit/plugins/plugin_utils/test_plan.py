# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import public
from ansible_collections.vdloo.mesh.plugins.module_utils.converger.membership import WATCHES
from ansible_collections.vdloo.mesh.plugins.plugin_utils import plan
from fake_mesh import ADDRESS, KEYS
from planned import (
    ASKED,
    AT_HOME,
    ENDPOINTS,
    NODES,
    NOW,
    SETTINGS,
    SSH_KEY,
    asked,
    break_file,
    change_probe,
    converged,
    grouped,
    hand_back,
    hang,
    keyed_look,
    lines,
    lose_leader,
    lose_record,
    lose_tun,
    new_look,
    out_of,
    remove_live_peer,
    remove_peer_from_file,
    render,
    stand_alone,
    stop_service,
    with_settings,
)


def test_a_converged_mesh_has_an_empty_plan():
    made = plan.make(converged(), asked(), render, NOW)
    assert made["lines"] == []
    assert (made["groups"], made["new"]) == ([], [])
    assert made["servers"] == list(NODES)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (break_file, ["n2: h2o: /etc/h2o.conf differs"]),
        (stop_service, ["n3: dnsmasq: dnsmasq.service does not run"]),
        (remove_live_peer, ["n1: cjdns: cjdns is yet to connect to n2"]),
        (lose_leader, ["n2: consul: sees no leader"]),
        (stand_alone, ["n2: consul: is alone"]),
        (hand_back, ["n1: dnsmasq: the host's resolver is not handed over"]),
        (change_probe, ["n1: dnsmasq: the hand-over's setting probe_names differs"]),
        (lose_tun, ["n1: node: /dev/net/tun is missing"]),
        (lose_record, ["n1: registry: the registry differs"]),
        (hang, ["n2: consul: the agent does not answer: no answer within 6 s"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_plan_names_what_differs_and_nothing_else(change, told):
    looks = converged()
    change(looks)
    made = plan.make(looks, asked(), render, NOW)
    assert made["lines"] == told
    assert grouped(made, "plan_publish") == list(NODES)


def test_a_package_that_was_not_asked_for_before_is_named(monkeypatch):
    looks = converged()
    monkeypatch.setitem(ASKED, "packages", ["htop"])
    assert lines(looks) == [f"{name}: node: htop was not asked for before" for name in NODES]


def test_a_peer_that_is_not_in_the_file_is_named_and_its_listener_is_asked():
    looks = converged()
    remove_peer_from_file(looks)
    made = plan.make(looks, asked(), render, NOW)
    assert len(made["lines"]) == 1
    assert made["lines"][0].startswith("n3: cjdns: n1")
    # n3 is not dialled, so it has nothing to tell.
    assert grouped(made, "plan_tell") == ["n1", "n2"]


def test_a_password_that_the_listener_would_not_give_is_drift_on_both_ends():
    looks = converged()
    looks["n1"]["cjdns"]["derived"] = public.derived("d" * 64, list(KEYS.values()))
    made = plan.make(looks, asked(), render, NOW)
    assert [name for name in NODES if "cjdns" in made["hosts"][name]["drift"]] == list(NODES)


def test_a_node_that_was_not_reached_keeps_its_place_and_its_password():
    looks = converged()
    del looks["n1"]
    made = plan.make(looks, asked(hosts={name: {"mesh_endpoints": ENDPOINTS[name]} for name in looks}), render, NOW)
    assert made["lines"] == []
    assert set(made["registry"]) == set(NODES)
    assert made["servers"] == list(NODES)


def test_a_run_of_one_node_plans_nothing_for_the_others():
    looks = converged()
    alone = {"n2": looks["n2"]}
    break_file(alone)
    made = plan.make(alone, asked(hosts={"n2": {"mesh_endpoints": ENDPOINTS["n2"]}}), render, NOW)
    assert made["lines"] == ["n2: h2o: /etc/h2o.conf differs"]
    assert list(made["hosts"]) == ["n2"]


def test_new_nodes_get_their_keys_before_the_rest_is_planned():
    looks = converged()
    looks["n3"] = new_look("n3")
    made = plan.make(looks, asked(), render, NOW, final=False)
    assert made["new"] == ["n3"]
    # And one that has the secrets, to hand them out.
    assert grouped(made, "plan_prepare") == ["n1", "n3"]
    assert grouped(made, "plan_new") == ["n3"]
    assert {group for _name, group in made["groups"]} == {"plan_prepare", "plan_new"}


def test_a_new_mesh_is_founded_by_the_nodes_that_are_to_be_servers():
    made = plan.make({name: new_look(name) for name in NODES}, asked(), render, NOW, final=False)
    assert grouped(made, "plan_prepare") == grouped(made, "plan_new") == list(NODES)
    assert made["seeds"] == made["servers"]
    assert len(made["servers"]) == 3


def test_whoever_was_to_start_consul_still_does_after_a_run_that_was_killed():
    looks = {name: keyed_look(name) for name in NODES}
    for found in looks.values():
        found["mesh"]["seeds"] = ["n1"]
    made = plan.make(looks, asked(), render, NOW)
    assert made["servers"] == ["n1"]
    assert [made["hosts"][name]["consul"]["consul_bootstrap_expect"] for name in NODES] == [1, 0, 0]


def test_a_mesh_bootstraps_once_whoever_of_its_nodes_remembers():
    looks = {name: keyed_look(name) for name in NODES}
    looks["n2"]["consul"]["bootstrapped"] = "mesh"
    made = plan.make(looks, asked(), render, NOW)
    assert [made["hosts"][name]["consul"]["consul_bootstrap_expect"] for name in NODES] == [0, 0, 0]


def test_two_meshes_are_refused():
    looks = converged()
    looks["n3"]["mesh"]["generation"] = "two"
    with pytest.raises(plan.PlanError, match=r"belong to 2 meshes \(n1, n2; n3\)"):
        plan.make(looks, asked(), render, NOW)


@pytest.mark.parametrize(
    ("hosts", "listed", "told"),
    [
        ({"N1": {}}, [], "host N1: the name is not a DNS label"),
        ({"n1": {"mesh_server_eligible": "maybe"}}, [], "host n1: mesh_server_eligible: 'maybe' is neither true nor false"),
        (
            {"n1": {"mesh_endpoints": ["n1.example.org:4321"]}},
            [],
            "host n1: mesh_endpoints: 'n1.example.org:4321' is not a literal IP:PORT",
        ),
        ({}, ["n1", "n7"], "group consul_servers: n7 is not in the group mesh"),
        (AT_HOME, [], "the mesh would fall into 2 parts"),
    ],
)
def test_a_bad_inventory_is_refused_also_for_hosts_that_did_not_answer(hosts, listed, told):
    looks = converged()
    with pytest.raises(plan.PlanError, match=told):
        plan.make(looks, asked(hosts={**asked().hosts, "n3": {"mesh_zones": ["home"]}, **hosts}, listed=listed), render, NOW)


def test_the_example_inventory_is_sound():
    hosts = yaml.safe_load((Path(__file__).resolve().parents[4] / "inventory" / "hosts.example.yml").read_text())["mesh"]["hosts"]
    looks = {name: new_look(name) for name in hosts}
    assert plan.make(looks, asked(hosts=hosts), render, NOW, final=False)["new"] == sorted(hosts)


def test_two_nodes_with_one_key_are_refused():
    looks = converged()
    looks["n2"]["cjdns"].update(public_key=KEYS["n1"], address=ADDRESS["n1"])
    with pytest.raises(plan.PlanError, match="nodes n1 and n2 have the same key"):
        plan.make(looks, asked(), render, NOW)


def test_a_damaged_record_of_one_node_is_left_out_with_a_warning():
    looks = converged()
    looks["n1"]["mesh"]["registry"] = {**looks["n1"]["mesh"]["registry"], "n2": {"name": "n2"}, "{{ x }}": None}
    made = plan.make(looks, asked(), render, NOW)
    assert made["lines"] == ["n1: registry: the registry differs"]
    assert len(made["warnings"]) == 2


def test_a_new_endpoint_is_told_to_all_by_a_new_version():
    looks = converged()
    hosts = {**asked().hosts, "n1": {"mesh_endpoints": ["192.0.2.9:4321"]}}
    made = plan.make(looks, asked(hosts=hosts), render, NOW)
    assert made["registry"]["n1"]["version"] == 2
    assert grouped(made, "drift_registry") == list(NODES)


def test_a_store_without_a_record_or_a_node_that_was_never_noted_as_converged_is_published():
    for change in (lambda store: store["registry"].pop("n2"), lambda store: store["converged"].pop("n2")):
        looks = converged()
        for found in looks.values():
            change(found["consul"])
        made = plan.make(looks, asked(), render, NOW)
        assert made["lines"] == []
        assert {group for _name, group in made["groups"]} == {"plan_publish"}


def test_how_to_log_in_is_what_the_node_told_or_what_was_known():
    looks = converged()
    for found in looks.values():
        found["system"].update(ssh_user="", ssh_port=0)
    assert lines(looks) == []
    looks["n1"]["system"].update(ssh_user="admin", ssh_port=2222)
    made = plan.make(looks, asked(), render, NOW)
    assert made["registry"]["n1"]["ssh"]["user"] == "admin"


# ---------------------------------------------------------------- settings, and who may log in


def test_settings_are_told_to_the_nodes_that_keep_others_and_to_no_more():
    made = plan.make(with_settings(converged(), "n1", "n3"), asked(settings=SETTINGS), render, NOW)
    assert made["lines"] == ["n2: settings: those on the node differ"]
    assert (made["settings"], grouped(made, "drift_settings"), grouped(made, "drift_registry")) == (SETTINGS, ["n2"], [])
    assert made["changing"] == []
    assert plan.make(with_settings(converged(), *NODES), asked(settings=SETTINGS), render, NOW)["groups"] == []


def test_a_store_with_other_settings_is_published():
    looks = with_settings(converged(), *NODES)
    looks["n1"]["consul"]["settings"] = "other"
    made = plan.make(looks, asked(settings=SETTINGS), render, NOW)
    assert made["lines"] == []
    assert {group for _name, group in made["groups"]} == {"plan_publish"}


def test_a_key_that_may_not_log_in_is_named_and_only_that_node_is_told():
    looks = converged()
    del looks["n1"]["system"]["authorized"]["n3"]
    looks["n2"]["system"]["authorized"].update(n1="", n9=SSH_KEY["n1"])
    made = plan.make(looks, asked(), render, NOW)
    assert made["lines"] == [
        "n1: registry: the keys that may log in differ: lacks n3",
        "n2: registry: the keys that may log in differ: has another of n1; still has n9",
    ]
    assert grouped(made, "drift_registry") == ["n1", "n2"]
    assert made["hosts"]["n1"]["logins"] == {"user": "root", "keys": SSH_KEY}
    assert "logins" not in made["hosts"]["n3"]


def test_when_the_nodes_are_to_log_in_as_another_user_that_one_is_told():
    looks = converged()
    looks["n1"]["system"].update(ssh_user="admin")
    made = plan.make(looks, asked(), render, NOW)
    assert made["hosts"]["n1"]["logins"] == {"user": "admin", "keys": SSH_KEY}
    assert "logins" not in made["hosts"]["n2"]


def test_whoever_starts_a_run_on_the_node_itself_does_not_become_its_user():
    looks = converged()
    looks["n1"]["system"].update(ssh_user="somebody", ssh_port=22222)
    hosts = {**asked().hosts, "n1": {"mesh_endpoints": ENDPOINTS["n1"], "ansible_connection": "local"}}
    assert lines(looks, hosts=hosts) == []


@pytest.mark.parametrize("state", ["left", "revoked"])
def test_the_key_of_a_node_that_went_lets_nobody_in(state):
    looks = converged()
    hosts = {name: {"mesh_endpoints": ENDPOINTS[name]} for name in ("n1", "n2")}
    gone = {**looks["n1"]["mesh"]["registry"]["n3"], "state": state, "version": 9}
    del looks["n3"]
    looks["n1"]["mesh"]["registry"] = {**looks["n1"]["mesh"]["registry"], "n3": gone}
    made = plan.make(looks, asked(hosts=hosts), render, NOW)
    assert sorted(made["hosts"]["n2"]["logins"]["keys"]) == ["n1", "n2"]


def test_the_key_of_a_node_that_was_not_reached_stays():
    looks = converged()
    del looks["n3"]
    assert plan.make(looks, asked(hosts={name: {"mesh_endpoints": ENDPOINTS[name]} for name in looks}), render, NOW)["lines"] == []


def test_a_node_without_a_key_of_its_own_gets_one_before_the_rest_is_planned():
    looks = converged()
    looks["n3"]["system"]["ssh_key"] = ""
    break_file(looks)
    made = plan.make(looks, asked(), render, NOW, final=False)
    assert made["lines"] == ["n3: node: has no SSH key of its own"]
    assert (made["new"], grouped(made, "plan_new"), grouped(made, "plan_prepare")) == ([], ["n3"], ["n3"])
    looks["n3"]["system"]["ssh_key"] = SSH_KEY["n1"]
    made = plan.make(looks, asked(), render, NOW, final=True)
    # And that is told to all.
    assert grouped(made, "drift_registry") == list(NODES)
    assert made["batches"] == [["n2"]]
    assert grouped(made, "plan_new") == []


def test_a_role_that_cannot_be_judged_is_left_alone():
    looks = converged()
    break_file(looks)
    stop_service(looks)
    assert lines(looks, frozen={"n2": {"h2o": ["h2o_tls"]}}) == ["n3: dnsmasq: dnsmasq.service does not run"]


# ---------------------------------------------------------------- an inventory out of the mesh itself


def moved(looks: dict) -> dict:
    """n1 was given another endpoint and site, and n3 was off and did not hear of it; the registry of before."""
    before = looks["n3"]["mesh"]["registry"]
    changed = {"endpoints": [{"address": "192.0.2.9:4321", "zone": "public"}], "site": "attic", "version": 2}
    for name in ("n1", "n2"):
        looks[name]["mesh"]["registry"] = {**before, "n1": {**before["n1"], **changed}}
    return before


def test_what_a_node_that_was_off_remembers_changes_nothing():
    looks = converged()
    before = moved(looks)
    made = plan.make(looks, asked(hosts=out_of(before), from_mesh=True), render, NOW)
    assert made["registry"] == looks["n1"]["mesh"]["registry"]
    assert grouped(made, "drift_registry") == ["n3"]


def test_what_the_user_set_beside_such_an_inventory_counts_and_nothing_else_of_it():
    looks = converged()
    before = moved(looks)
    made = plan.make(looks, asked(hosts=out_of(before, n1={"mesh_zones": ["home"]}), from_mesh=True), render, NOW)
    newest = looks["n1"]["mesh"]["registry"]["n1"]
    assert made["registry"]["n1"] == {**newest, "zones": ["home"], "version": 3, "updated": NOW}


def test_a_node_of_which_the_inventory_knows_no_more_than_that_it_lives_keeps_its_record():
    looks = converged()
    nothing = {"mesh_endpoints": [], "mesh_server_eligible": True, "mesh_state": "unknown"}
    assert lines(looks, hosts=dict.fromkeys(NODES, nothing), from_mesh=True) == []


def test_a_node_that_left_is_not_taken_in_by_one_that_did_not_hear_of_it():
    looks = converged()
    before = looks["n1"]["mesh"]["registry"]
    looks["n1"]["mesh"]["registry"] = {**before, "n3": {**before["n3"], "state": "left", "version": 9}}
    made = plan.make(looks, asked(hosts=out_of(before), from_mesh=True), render, NOW)
    assert made["registry"]["n3"]["state"] == "left"
    assert sorted(made["hosts"]) == ["n1", "n2"]
    assert made["warnings"][0].startswith("n3 answers, and the registry says left: it is left alone")
    # Neither does an inventory that still has it; only who says so takes it in again.
    assert plan.make(looks, asked(), render, NOW)["registry"]["n3"]["state"] == "left"
    back = plan.make(looks, asked(joining=frozenset({"n3"})), render, NOW)
    assert (back["registry"]["n3"]["state"], back["registry"]["n3"]["version"]) == ("member", 10)


def test_a_part_of_a_mesh_that_was_cut_in_two_is_repaired():
    looks = converged()
    hosts = out_of(looks["n3"]["mesh"]["registry"])
    alone = {"n3": looks["n3"]}
    made = plan.make(alone, asked(hosts={"n3": hosts["n3"]}, from_mesh=True, listed=["n1", "n7"], policy="listed"), render, NOW)
    assert "n7 is listed as a server but is no node of the mesh" in "".join(made["warnings"])
    assert set(made["registry"]) == set(NODES)


def test_those_that_converge_the_mesh_are_told_by_consul_who_joins_and_leaves():
    made = plan.make(converged(), asked(convergers={"n1", "n2"}), render, NOW)
    told = {name: made["hosts"][name]["consul"]["consul_watches"] for name in NODES}
    assert told == {"n1": WATCHES, "n2": WATCHES, "n3": []}


def test_a_node_that_is_no_converger_and_never_was_lacks_nothing():
    looks = converged()
    for found in looks.values():
        del found["manifests"]["converger"]
    assert [line for line in lines(looks, convergers={"n2"}) if "converger:" in line] == ["n2: converger: is not set up yet"]


def test_why_a_node_cannot_converge_the_mesh_is_told_each_time():
    looks = converged()
    looks["n3"]["manifests"]["converger"]["facts"] = {"problem": "its Python is 3.9: 3.11 is the least"}
    made = plan.make(looks, asked(), render, NOW)
    assert made["lines"] == []
    assert made["warnings"] == ["n3 does not converge the mesh by itself: its Python is 3.9: 3.11 is the least"]


def test_who_does_not_converge_the_mesh_is_let_in_nowhere():
    looks = converged()
    made = plan.make(looks, asked(convergers={"n1"}), render, NOW)
    assert [name for name, record in made["registry"].items() if "key" in record["ssh"]] == ["n1"]
    assert {name: made["hosts"][name]["logins"]["keys"] for name in NODES} == dict.fromkeys(NODES, {"n1": SSH_KEY["n1"]})
    looks["n2"]["system"]["ssh_key"] = ""
    assert not any("SSH key" in line for line in lines(looks, convergers={"n1"}))
