# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Three nodes as the plan sees them, and what can be wrong with them."""

from __future__ import annotations

import copy

from ansible_collections.vdloo.mesh.plugins.module_utils import digest, look, manifest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import public
from ansible_collections.vdloo.mesh.plugins.plugin_utils import plan
from fake_mesh import ADDRESS, KEYS

NODES = ("n1", "n2", "n3")
NOW = "2026-02-02T00:00:00Z"
ASKED = {"packages": []}
OWN_ROUTES: list = []
CONFIG = {"admin": {"bind": "127.0.0.1:11234"}, "interfaces": {"UDPInterface": [{"bind": "0.0.0.0:4321"}]}}
HANDOVER = {"managed": True, "addresses": ["127.0.0.1"], "spare": "", "domains": ["consul"], "options": [], "search": [], "probe_names": []}
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
    server = given.get("consul_server", "") or given.get("h2o_mesh_routes") or ""
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
    return {"wanted": asked, "packages": ASKED["packages"], "config": CONFIG, "routes": OWN_ROUTES, **HANDOVER}


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
        found["manifests"].update({role: observed(role, planned.get(role, {})) for role in plan.ROLES[1:]})
    return looks


def lines(looks: dict[str, dict], **changes) -> list[str]:
    return plan.make(looks, asked(**changes), render, NOW)["lines"]


def grouped(made: dict, group: str) -> list[str]:
    return [name for name, other in made["groups"] if other == group]


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
