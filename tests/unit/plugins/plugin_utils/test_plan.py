# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from ansible_collections.vdloo.mesh.plugins.module_utils import digest, look, manifest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import public
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import membership
from ansible_collections.vdloo.mesh.plugins.plugin_utils import plan
from fake_mesh import ADDRESS, KEYS

NODES = ("n1", "n2", "n3")
NOW = "2026-02-02T00:00:00Z"
ASKED = {"packages": []}
CONFIG = {"admin": {"bind": "127.0.0.1:11234"}, "interfaces": {"UDPInterface": [{"bind": "0.0.0.0:4321"}]}}
HANDOVER = {"managed": True, "addresses": ["127.0.0.1"], "domains": ["consul"], "options": [], "probe_names": []}
ENDPOINTS = {"n1": ["192.0.2.1:4321"], "n2": ["192.0.2.2:4321"], "n3": []}
SSH_KEY = {name: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5" + letter * 48 for name, letter in zip(NODES, "BCD")}
SECRET = {name: letter * 64 for name, letter in zip(NODES, "abc")}


# Nobody outside of home dials in there, and n7 has nobody else.
AT_HOME = {
    **{
        name: {"mesh_endpoints": [{"address": address, "zone": "home"} for address in ENDPOINTS[name]], "mesh_zones": ["home"]}
        for name in ("n1", "n2")
    },
    "n7": {},
}


def asked(**changes) -> plan.Asked:
    hosts = {name: {"mesh_endpoints": ENDPOINTS[name]} for name in NODES}
    nothing = {
        "policy": "elect",
        "listed": [],
        "settings": {},
        "from_mesh": False,
        "frozen": {},
        "convergers": set(NODES),
        "collection": "c" * 64,
    }
    return plan.Asked(**{"hosts": hosts, **nothing, **changes})


def role_manifest(role: str, given: dict) -> dict:
    server = given.get("consul_server", "")
    path = f"/etc/{role}.conf"
    return {
        "directories": [],
        "files": [
            {"path": path, "content": f"{role} {server}", "mode": "0644", "owner": "root", "group": "root"},
            {"path": f"/etc/{role}.secret", "secret": True, "mode": "0600"},
        ],
        "programs": [],
        "services": [{"name": f"{role}.service", "restart": [path], "reload": []}],
    }


def render(_name: str, role: str, given: dict, _facts: dict) -> dict:
    asked = manifest.wanted(role_manifest(role, given))
    handover = {key: value for key, value in HANDOVER.items() if key != "domains"}
    return {
        "wanted": asked,
        "packages": ASKED["packages"],
        "config": CONFIG,
        "domain": "consul",
        "networks": [],
        **handover,
    }


def observed(role: str, given: dict) -> dict:
    """What the node would show of a role that is as it should be."""
    found = manifest.wanted(role_manifest(role, {**given, "consul_gossip_key": "the real key"}))
    for service in found["services"].values():
        service.update(since=1.0, restart=[], reload=[])
    return {"facts": {}, **found}


def described(name: str, planned: dict) -> dict:
    """The configuration of cjdns with exactly the planned links."""
    dials = {
        dial["address"]: {
            "publicKey": dial["public_key"],
            "password": public.derived(SECRET[dial["name"]], [KEYS[name]])[KEYS[name]],
            "login": name,
            "peerName": dial["name"],
        }
        for dial in planned["dials"]
    }
    users = [
        {"password": public.derived(SECRET[name], [key])[key], "user": user} for user, key in zip(planned["accepts"], planned["diallers"])
    ]
    interface = {"bind": "0.0.0.0:4321", **({"connectTo": dials} if dials else {})}
    config = {
        "admin": {"bind": "127.0.0.1:11234", "password": "sha256:0"},
        "authorizedPasswords": users,
        "interfaces": {"UDPInterface": [interface]},
        "ipv6": ADDRESS[name],
        "publicKey": KEYS[name],
    }
    accepts = {user["user"]: user["password"] for user in users}
    dialled = {endpoint: {"public_key": dial["publicKey"]} for endpoint, dial in dials.items()}
    return {"config": config, "dials": dialled, "accepts": accepts, "problem": ""}


def new_look(_name: str) -> dict:
    found = copy.deepcopy(look.NOTHING)
    found["system"].update(tun=True, ipv6=True, iproute=True, arch="x86_64", ssh_user="root", ssh_port=22)
    return found


def keyed_look(name: str) -> dict:
    found = new_look(name)
    found["system"].update(ssh_key=SSH_KEY[name])
    found["mesh"].update(generation="one", seeds=list(NODES))
    found["cjdns"].update(public_key=KEYS[name], address=ADDRESS[name], derived=public.derived(SECRET[name], list(KEYS.values())))
    found["manifests"] = {"node": observed("node", {})}
    return found


def converged() -> dict[str, dict]:
    """Looks at a mesh that is as it should be."""
    looks = {name: keyed_look(name) for name in NODES}
    made = plan.make(looks, asked(), render, NOW)
    for name, found in looks.items():
        planned = made["hosts"][name]
        found["mesh"]["registry"] = made["registry"]
        found["system"].update(authorized_user="root", authorized=dict(SSH_KEY))
        found["cjdns"]["config"] = described(name, planned)
        found["cjdns"]["established"] = [KEYS[other] for other in NODES if other != name]
        found["consul"] = {
            "bootstrapped": "mesh",
            "leader": f"[{ADDRESS['n1']}]:8300",
            "members": [{"name": other, "address": ADDRESS[other], "alive": True, "server": True} for other in NODES],
            "raft": [{"name": other, "address": ADDRESS[other], "voter": True, "leader": other == "n1"} for other in NODES],
            "servers": {other: {"healthy": True, "since": NOW} for other in NODES},
            "tolerance": 1,
            "settings": "",
            "registry": {other: digest.of(record)[: look.DIGEST_CHARS] for other, record in made["registry"].items()},
            "converged": dict.fromkeys(NODES, NOW),
            "problem": "",
        }
        found["resolver"] = {
            "settings": {**HANDOVER, "unit": "x"},
            "handed_over": True,
            "manager": "static",
            "answers": True,
            "problem": "",
        }
        found["manifests"].update({role: observed(role, planned["consul"] if role == "consul" else {}) for role in plan.ROLES[1:]})
    return looks


def lines(looks: dict[str, dict], **changes) -> list[str]:
    return plan.make(looks, asked(**changes), render, NOW)["lines"]


def grouped(made: dict, group: str) -> list[str]:
    return [name for name, other in made["groups"] if other == group]


def test_a_converged_mesh_has_an_empty_plan():
    made = plan.make(converged(), asked(), render, NOW)
    assert made["lines"] == []
    assert (made["groups"], made["new"]) == ([], [])
    assert made["servers"] == list(NODES)


def break_file(looks):
    looks["n2"]["manifests"]["h2o"]["files"]["/etc/h2o.conf"]["sha256"] = "0" * 64


def stop_service(looks):
    looks["n3"]["manifests"]["dnsmasq"]["services"]["dnsmasq.service"]["running"] = False


def remove_live_peer(looks):
    looks["n1"]["cjdns"]["pending"] = ["cjdns is yet to connect to n2"]


def remove_peer_from_file(looks):
    config = looks["n3"]["cjdns"]["config"]["config"]
    config["interfaces"]["UDPInterface"][0]["connectTo"].pop("192.0.2.1:4321")


def lose_leader(looks):
    looks["n2"]["consul"].update(leader="", raft=[])


def stand_alone(looks):
    looks["n2"]["consul"]["members"] = [member for member in looks["n2"]["consul"]["members"] if member["name"] == "n2"]


def hand_back(looks):
    looks["n1"]["resolver"]["handed_over"] = False


def change_probe(looks):
    looks["n1"]["resolver"]["settings"]["probe_names"] = ["example.net"]


def lose_tun(looks):
    looks["n1"]["system"]["tun"] = False


def lose_record(looks):
    looks["n1"]["mesh"]["registry"] = {name: record for name, record in looks["n1"]["mesh"]["registry"].items() if name != "n2"}


def hang(looks):
    looks["n2"]["consul"] = {**look.NOTHING["consul"], "problem": "no answer within 6 s"}


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

SETTINGS = {
    "version": 2,
    "updated": NOW,
    "by": "laptop",
    "values": {"mesh": {"h2o_attempts": 2}, "hosts": {}, "consul_servers": None, "withheld": []},
    "ancestors": [],
}


def with_settings(looks: dict, *names: str) -> dict:
    for name in names:
        looks[name]["mesh"]["settings"] = SETTINGS
    for found in looks.values():
        found["consul"]["settings"] = digest.of(SETTINGS)[: look.DIGEST_CHARS]
    return looks


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


def out_of(registry: dict, **changes) -> dict:
    """What the inventory plugin says of the nodes of a registry."""
    return {
        name: {
            "mesh_endpoints": record["endpoints"],
            "mesh_zones": record["zones"],
            "mesh_site": record["site"],
            "mesh_server_eligible": record["server_eligible"],
            "mesh_state": record["state"],
            **changes.get(name, {}),
        }
        for name, record in registry.items()
    }


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
    # An inventory of the operator's own takes it in again.
    assert plan.make(looks, asked(), render, NOW)["registry"]["n3"]["state"] == "member"


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
    assert told == {"n1": membership.WATCHES, "n2": membership.WATCHES, "n3": []}


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


# ---------------------------------------------------------------- new settings come in batches

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
    assert (made["rollout"], made["batches"]) == (False, [list(NODES)])


def test_a_mesh_that_keeps_no_settings_yet_is_set_up_at_once():
    made = rolled_out({name: keyed_look(name) for name in NODES})
    assert (made["rollout"], made["batches"]) == (False, [list(NODES)])


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


def test_who_only_has_to_be_repaired_waits_for_no_verdict_of_its_own():
    looks = with_settings(converged(), *NODES)
    stop_service(looks)
    own = {**SETTINGS, "version": 3, "values": {**SETTINGS["values"], "hosts": {"n1": {"h2o_attempts": 4}}}}
    break_one = {**role_manifest("h2o", {}), "services": []}

    def only_n1(name: str, role: str, given: dict, facts: dict) -> dict:
        return {"wanted": manifest.wanted(break_one)} if (name, role) == ("n1", "h2o") else render(name, role, given, facts)

    made = plan.make(looks, asked(settings=own), only_n1, NOW)
    assert (made["rollout"], made["concerned"], made["batches"]) == (True, ["n1"], [["n1"], ["n3"]])
