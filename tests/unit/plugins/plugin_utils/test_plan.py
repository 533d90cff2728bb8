# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from ansible_collections.vdloo.mesh.plugins.module_utils import digest, look, manifest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import public
from ansible_collections.vdloo.mesh.plugins.plugin_utils import plan
from fake_mesh import ADDRESS, KEYS

NODES = ("n1", "n2", "n3")
NOW = "2026-02-02T00:00:00Z"
ASKED = {"packages": []}
CONFIG = {"admin": {"bind": "127.0.0.1:11234"}, "interfaces": {"UDPInterface": [{"bind": "0.0.0.0:4321"}]}}
HANDOVER = {"managed": True, "addresses": ["127.0.0.1"], "domains": ["consul"], "options": [], "probe_names": []}
ENDPOINTS = {"n1": ["192.0.2.1:4321"], "n2": ["192.0.2.2:4321"], "n3": []}
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
    return plan.Asked(**{"hosts": hosts, "policy": "elect", "listed": [], **changes})


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
    return {"config": config, "dials": {}, "accepts": accepts, "problem": ""}


def new_look(_name: str) -> dict:
    found = copy.deepcopy(look.NOTHING)
    found["system"].update(tun=True, ipv6=True, iproute=True, arch="x86_64", ssh_user="root", ssh_port=22)
    return found


def keyed_look(name: str) -> dict:
    found = new_look(name)
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
        found["cjdns"]["config"] = described(name, planned)
        found["consul"] = {
            "bootstrapped": "mesh",
            "leader": f"[{ADDRESS['n1']}]:8300",
            "members": [{"name": other, "address": ADDRESS[other], "alive": True, "server": True} for other in NODES],
            "raft": [{"name": other, "address": ADDRESS[other], "voter": True, "leader": other == "n1"} for other in NODES],
            "servers": {other: {"healthy": True, "since": NOW} for other in NODES},
            "tolerance": 1,
            "registry": {other: digest.of(record)[: look.DIGEST_CHARS] for other, record in made["registry"].items()},
            "converged": dict.fromkeys(NODES, NOW),
            "problem": "",
        }
        found["resolver"] = {"settings": {**HANDOVER, "unit": "x"}, "handed_over": True, "manager": "static", "problem": ""}
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
    assert grouped(plan.make(looks, asked(), render, NOW), "drift_cjdns") == list(NODES)


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
    assert {group for _name, group in made["groups"]} == {"plan_prepare", "plan_new", "drift_node"}


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
