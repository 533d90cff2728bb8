# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run has to do: from what the look found and what the inventory asks for. Pure, but for the function that renders manifests.

A look is the answer of the module node_info, without a part that did not answer in time other than its "problem".
"""

from __future__ import annotations

import typing
from collections.abc import Callable

from ansible_collections.vdloo.mesh.plugins.module_utils import digest, manifest, peering, quorum
from ansible_collections.vdloo.mesh.plugins.module_utils import look as looking
from ansible_collections.vdloo.mesh.plugins.module_utils import registry as records
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import public
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import dns

# In the order in which they are applied.
ROLES = ("node", "cjdns", "consul", "dnsmasq", "h2o")
AFTER_UNITS = ["cjdns.service"]
NOT_SET_UP = "is not set up yet"


class Asked(typing.NamedTuple):
    """What the inventory asks for."""

    hosts: dict[str, dict]  # variables of all hosts of the group mesh, as those of registry.py that take variables read them
    policy: str  # consul_server_policy
    listed: list[str]  # hosts of the group consul_servers


# (host, role, variables that the play hands to the role, facts of the role) -> {"wanted": see manifest.wanted(), and other variables
# of the role}
Render = Callable[[str, str, dict, dict], dict]


class PlanError(Exception):
    """Why there is no plan; one line for each problem, with what to do."""


def make(looks: dict[str, dict], asked: Asked, render: Render, now: str, final: bool = True) -> dict[str, typing.Any]:
    """Make the plan: {registry, servers, seeds, new, hosts: {name: plan of the host}, groups, lines, warnings}.

    Without `final`, a mesh with new nodes gets none yet but for what these need first: their keys, which all others have to know.
    """
    problems = _inventory_problems(asked)
    if problems:
        raise PlanError("\n".join(problems))
    generations = {look["mesh"]["generation"]: name for name, look in sorted(looks.items()) if look["mesh"].get("generation")}
    if len(generations) > 1:
        raise PlanError(_two_meshes(looks))
    new = sorted(name for name, look in looks.items() if not look["mesh"].get("generation") or not look["cjdns"].get("public_key"))
    known, warnings = _merged(looks)
    registry = _updated(known, looks, asked, now)
    problems = records.identity_problems(registry)
    if problems:
        raise PlanError("\n".join(problems))
    seeds = sorted({name for look in looks.values() for name in look["mesh"].get("seeds") or []})
    election = _elect(looks, asked, registry, seeds)
    plan: dict[str, typing.Any] = {
        "registry": registry,
        "servers": election["servers"],
        "seeds": seeds or election["servers"],
        "new": new,
        "warnings": warnings + election["refused"] + election["warnings"],
        "hosts": {},
    }
    drift: dict[str, dict[str, list[str]]] = {name: {"node": _node_drift(name, look, render)} for name, look in looks.items()}
    if not new or final:
        links = peering.links([record for record in registry.values() if record["state"] == "member"])
        for name, look in looks.items():
            wanted = plan["hosts"][name] = _wanted(name, registry, plan, links, looks)
            if name in new:
                drift[name].update({role: [NOT_SET_UP] for role in ROLES[1:]})
                continue
            drift[name].update(
                registry=["the registry differs"] if look["mesh"]["registry"] != registry else [],
                cjdns=_cjdns_drift(name, look, wanted, looks, render),
                consul=_consul_drift(name, look, wanted, looks, render),
                dnsmasq=_dnsmasq_drift(name, look, render),
                h2o=_manifest_drift(name, "h2o", look, {}, render),
            )
    for name in looks:
        plan["hosts"].setdefault(name, {})["drift"] = {role: reasons for role, reasons in drift[name].items() if reasons}
    plan["groups"] = _groups(looks, plan, drift, registry, waiting=bool(new) and not final)
    plan["lines"] = [
        f"{name}: {role}: {reason}" for name in sorted(looks) for role in ("registry", *ROLES) for reason in drift[name].get(role, [])
    ] + [f"consul: {step['change']} {step['name']}: {step['why']}" for step in election["steps"]]
    return plan


def _inventory_problems(asked: Asked) -> list[str]:
    problems = records.inventory_problems(asked.hosts)
    strangers = sorted(set(asked.listed) - set(asked.hosts))
    if strangers:
        problems.append(f"group consul_servers: {', '.join(strangers)} is not in the group mesh: add it there, or take it out here")
    return problems or peering.problems([records.describe(name, variables) for name, variables in sorted(asked.hosts.items())])


def _two_meshes(looks: dict[str, dict]) -> str:
    said: dict[str, list[str]] = {}
    for name, look in sorted(looks.items()):
        if look["mesh"].get("generation"):
            said.setdefault(look["mesh"]["generation"], []).append(name)
    return (
        f"The nodes of this run belong to {len(said)} meshes ({'; '.join(', '.join(names) for names in said.values())}). "
        "Two meshes are never merged: keep the nodes of one in the inventory. Nothing was changed."
    )


def _merged(looks: dict[str, dict]) -> tuple[dict[str, dict], list[str]]:
    """All that the nodes know, and what of it was left out: one damaged file must not keep the mesh from being repaired."""
    warnings, sound = [], []
    seen: dict[str, dict] = {}
    for name, look in sorted(looks.items()):
        kept, problems = records.sift(look["mesh"].get("registry") or {}, seen)
        seen.update(kept)
        sound.append(kept)
        warnings += [
            f"the registry of {name} holds a record under {records.shown(other)} that was left out: {why}"
            for other, why in problems.items()
        ]
    return records.merge(*sound), warnings


def _updated(registry: dict[str, dict], looks: dict[str, dict], asked: Asked, now: str) -> dict[str, dict]:
    """The registry with what the inventory and the nodes of this run say of themselves."""
    for name, look in sorted(looks.items()):
        if not look["cjdns"].get("public_key"):
            continue
        variables = {**asked.hosts[name], "node_access": look["system"]}
        told = {
            **records.describe(name, variables),
            **records.access(variables, registry.get(name)),
            "public_key": look["cjdns"]["public_key"],
            "address": look["cjdns"]["address"],
            "overlay": "cjdns",
            "state": "member",
        }
        registry = records.update(registry, told, now)
    return registry


def _is_bootstrapped(looks: dict[str, dict]) -> bool:
    return any(look["consul"].get("bootstrapped") or look["consul"].get("raft") for look in looks.values())


def _elect(looks: dict[str, dict], asked: Asked, registry: dict[str, dict], seeds: list[str]) -> dict[str, typing.Any]:
    """Who is to vote, and by which steps; see quorum.elect()."""
    if seeds and not _is_bootstrapped(looks):
        # Their number was written down when the mesh was founded: whoever takes part in the one bootstrap was decided then.
        return {"servers": [name for name in seeds if name in registry or name in looks], "steps": [], "refused": [], "warnings": []}
    alive = {member["name"] for look in looks.values() for member in look["consul"].get("members") or [] if member["alive"]}
    servers = {member["name"] for look in looks.values() for member in look["consul"].get("members") or [] if member["server"]}
    led = [look["consul"] for _name, look in sorted(looks.items()) if look["consul"].get("raft")]
    raft = {peer["name"]: peer for peer in led[0]["raft"]} if led else {}
    # Of two that see the servers, the one that sees a leader knows of their health.
    health = next((look["consul"]["servers"] for _name, look in sorted(looks.items()) if look["consul"].get("servers")), {})
    described = {**{name: records.describe(name, asked.hosts[name]) for name in looks if name not in registry}, **registry}
    nodes = [
        {
            "name": name,
            "site": record["site"],
            "eligible": record.get("server_eligible", True),
            "reachable": name in looks,
            "alive": name in looks or name in alive,
            "server": name in servers,
            "voter": bool(raft.get(name, {}).get("voter")),
            "healthy": bool(health.get(name, {}).get("healthy")),
            "since": health.get(name, {}).get("since", ""),
            "leader": bool(raft.get(name, {}).get("leader")),
            "bootstrapped": bool(looks[name]["consul"]["bootstrapped"]) if name in looks else False,
        }
        for name, record in sorted(described.items())
        if record.get("state", "member") == "member"
    ]
    return quorum.elect(nodes, asked.policy, asked.listed)


def _wanted(name: str, registry: dict[str, dict], plan: dict, links: list[dict], looks: dict[str, dict]) -> dict[str, typing.Any]:
    """What the roles of one host are given."""
    seeds = plan["seeds"]
    own = registry.get(name, {})
    members = {other: record for other, record in registry.items() if record["state"] == "member"}
    return {
        "address": own.get("address", ""),
        "public_key": own.get("public_key", ""),
        "dials": [
            {
                "name": link["listener"],
                "address": link["address"],
                "public_key": registry[link["listener"]]["public_key"],
                "login": name,
            }
            for link in links
            if link["dialler"] == name
        ],
        "accepts": [link["dialler"] for link in links if link["listener"] == name],
        "diallers": [registry[link["dialler"]]["public_key"] for link in links if link["listener"] == name],
        "consul": {
            "consul_server": name in plan["servers"],
            "consul_bootstrap_expect": len(seeds) if name in seeds and not _is_bootstrapped(looks) else 0,
            "consul_bind_address": own.get("address", ""),
            "consul_retry_join": sorted(members[other]["address"] for other in {*seeds, *plan["servers"]} & set(members) - {name}),
            "consul_after_units": AFTER_UNITS,
        },
    }


def _manifest_drift(name: str, role: str, look: dict, given: dict, render: Render) -> list[str]:
    observed = look["manifests"].get(role)
    if observed is None:
        return [NOT_SET_UP]
    return manifest.drift(render(name, role, given, observed.get("facts") or {})["wanted"], observed)


def _node_drift(name: str, look: dict, render: Render) -> list[str]:
    system = look["system"]
    reasons = [text for text in (system.get("problem"), look["mesh"].get("problem")) if text]
    if not look["mesh"].get("generation"):
        reasons.append("belongs to no mesh yet")
    if not system.get("tun"):
        reasons.append("/dev/net/tun is missing")
    if not system.get("ipv6"):
        reasons.append("IPv6 is off for new interfaces")
    if not system.get("iproute"):
        reasons.append("ip is not installed")
    managed = look["manifests"].get("node")
    if managed is not None:
        packages = render(name, "node", {}, managed["facts"])["packages"]
        reasons += [f"{package} was not asked for before" for package in packages if package not in managed["facts"].get("packages", [])]
    return reasons + _manifest_drift(name, "node", look, {}, render)


def _cjdns_drift(name: str, look: dict, wanted: dict, looks: dict[str, dict], render: Render) -> list[str]:
    reasons = _manifest_drift(name, "cjdns", look, {}, render)
    if reasons == [NOT_SET_UP]:
        return reasons
    facts = look["manifests"]["cjdns"].get("facts") or {}
    config = render(name, "cjdns", {}, facts)["config"]
    own = look["cjdns"]
    dials = []
    for dial in wanted["dials"]:
        # A listener that was not reached tells no password: its dialler keeps the one that it has.
        told = looks.get(dial["name"], {}).get("cjdns", {}).get("derived", {}).get(own["public_key"])
        dials.append({**dial, "password_digest": told} if told else dial)
    accepts = [
        {"user": user, "password_digest": own["derived"].get(key)} if own["derived"].get(key) else {"user": user}
        for user, key in zip(wanted["accepts"], wanted["diallers"])
    ]
    return reasons + public.drift(own["config"], config, dials, accepts) + own["pending"]


def _consul_drift(name: str, look: dict, wanted: dict, looks: dict[str, dict], render: Render) -> list[str]:
    reasons = _manifest_drift(name, "consul", look, wanted["consul"], render)
    if reasons:
        return reasons
    seen = look["consul"]
    if seen["problem"] and not seen["members"]:
        return [f"the agent does not answer: {seen['problem']}"]
    alive = {member["name"] for member in seen["members"] if member["alive"]}
    if not seen["leader"]:
        reasons.append("sees no leader")
    elif not seen["bootstrapped"]:
        reasons.append("has not noted that there is a leader")
    if name not in alive:
        reasons.append("does not see itself alive")
    if len(alive) < 2 <= len(looks):
        reasons.append("is alone")
    if seen["raft"] and wanted["consul"]["consul_server"] != (name in {peer["name"] for peer in seen["raft"]}):
        reasons.append("is no raft peer yet" if wanted["consul"]["consul_server"] else "is still a raft peer")
    return reasons


def _dnsmasq_drift(name: str, look: dict, render: Render) -> list[str]:
    reasons = _manifest_drift(name, "dnsmasq", look, {}, render)
    if reasons == [NOT_SET_UP]:
        return reasons
    asked = render(name, "dnsmasq", {}, look["manifests"]["dnsmasq"].get("facts") or {})
    settings = {key: asked[key] for key in ("managed", "addresses", "options", "probe_names")}
    settings["domains"] = [asked["domain"], *map(dns.reverse_domain, asked["networks"])]
    host = look["resolver"]
    if host["problem"]:
        return [*reasons, host["problem"]]
    if host["handed_over"] != settings["managed"]:
        reasons.append("the host's resolver is not handed over" if settings["managed"] else "the host's resolver is still handed over")
    return reasons + [f"the hand-over's setting {key} differs" for key in sorted(settings) if host["settings"].get(key) != settings[key]]


def _groups(looks: dict[str, dict], plan: dict, drift: dict[str, dict], registry: dict[str, dict], waiting: bool) -> list[list[str]]:
    """Which nodes the plays of a run are for: pairs of a node and a group. None for a mesh in which there is nothing to do."""
    found = [[name, f"drift_{role}"] for name in sorted(looks) for role in ("registry", *ROLES) if drift[name].get(role)]
    givers = [name for name in sorted(looks) if looks[name]["mesh"].get("generation")]
    # Somebody has to hand the mesh's secrets to those who are new.
    prepare = {*plan["new"], *(givers[:1] if plan["new"] else []), *(name for name in looks if drift[name]["node"])}
    found += [[name, "plan_prepare"] for name in sorted(prepare)]
    if waiting:
        return found + [[name, "plan_new"] for name in plan["new"]]
    changing = {name for name in looks if drift[name].get("cjdns")}
    # A listener tells the passwords of all its links when one of them may change.
    found += [
        [name, "plan_tell"]
        for name in sorted(looks)
        if plan["hosts"][name]["diallers"] and (name in changing or changing & set(plan["hosts"][name]["accepts"]))
    ]
    return found + ([[name, "plan_publish"] for name in sorted(looks)] if found or _is_outdated(looks, registry) else [])


def _is_outdated(looks: dict[str, dict], registry: dict[str, dict]) -> bool:
    """Whether the copy in Consul's store, or what it says of when nodes were converged, is out of date."""
    stores = [look["consul"] for look in looks.values() if look["consul"].get("leader")]
    if not stores:
        return False
    kept, converged = stores[0]["registry"], stores[0]["converged"]
    return bool(set(looks) - set(converged)) or any(
        kept.get(name) != digest.of(record)[: looking.DIGEST_CHARS] for name, record in registry.items()
    )
