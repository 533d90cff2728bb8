# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run has to do: from what the look found and what the inventory asks for. Pure, but for the function that renders manifests.

A look is the answer of the module node_info, without a part that did not answer in time other than its "problem".
"""

from __future__ import annotations

import typing

from ansible_collections.vdloo.mesh.plugins.module_utils import digest, peering, quorum, routes
from ansible_collections.vdloo.mesh.plugins.module_utils import look as looking
from ansible_collections.vdloo.mesh.plugins.module_utils import registry as records
from ansible_collections.vdloo.mesh.plugins.module_utils import settings as settings_records
from ansible_collections.vdloo.mesh.plugins.module_utils.converger.membership import WATCHES
from ansible_collections.vdloo.mesh.plugins.plugin_utils import drift as drifts
from ansible_collections.vdloo.mesh.plugins.plugin_utils import membership, rollout

# In the order in which they are applied.
ROLES = ("node", "cjdns", "consul", "dnsmasq", "h2o", "converger")
# What every node keeps of the mesh as a whole.
RECORDS = ("registry", "settings")
AFTER_UNITS = ["cjdns.service"]


class Asked(typing.NamedTuple):
    """What the inventory asks for."""

    hosts: dict[str, dict]  # variables of all hosts of the group mesh, as those of registry.py that take variables read them
    policy: str  # consul_server_policy
    listed: list[str]  # hosts of the group consul_servers
    settings: dict  # the record that counts; see settings.py
    from_mesh: bool  # the inventory tells what some node knew, and nobody asks for it
    frozen: dict[str, dict[str, list[str]]]  # for each host, the roles that are left alone, and the variables that are missing for them
    convergers: set[str]  # hosts that are to converge the mesh by themselves
    collection: str  # the SHA-256 of the build of this collection that runs
    by: str = ""  # the machine that plans
    canary: bool = True  # mesh_canary
    outside: frozenset[str] = frozenset()  # hosts of the group mesh that the run is not to touch
    joining: frozenset[str] = frozenset()  # hosts that are to be members, also if they have left
    leaving: membership.Leaving = membership.Leaving()


class PlanError(Exception):
    """Why there is no plan; one line for each problem, with what to do."""


def make(looks: dict[str, dict], asked: Asked, render: drifts.Render, now: str, final: bool = True) -> dict[str, typing.Any]:
    """Make the plan: {registry, settings, servers, promotions, keeper, seeds, new, hosts: {name: plan of the host}, changing, rollout, unkept,
    settings_digest, concerned, trying, batches, groups, lines, warnings}.

    Without `final`, a mesh with nodes that lack keys gets none yet but for what these need first: their keys, which all others have to know.
    """
    sound, warnings = _sound(looks)
    known = records.merge(*sound)
    looks, more = _without_departed(looks, known, asked)
    warnings += more
    problems = _inventory_problems(asked, known) + membership.joining_problems(asked.joining & set(looks), known)
    if asked.leaving.names:
        problems += membership.leaving_problems(asked.leaving, known, looks)
    if problems:
        raise PlanError("\n".join(problems))
    generations = {look["mesh"]["generation"]: name for name, look in sorted(looks.items()) if look["mesh"].get("generation")}
    if len(generations) > 1:
        raise PlanError(_two_meshes(looks))
    new = sorted(name for name, look in looks.items() if not look["mesh"].get("generation") or not look["cjdns"].get("public_key"))
    keyless = {*new, *(name for name, look in looks.items() if name in asked.convergers and not look["system"].get("ssh_key"))}
    registry, more = _updated(known, sound, looks, asked, now)
    warnings += more
    for name in sorted(asked.leaving.names):
        registry = records.depart(registry, name, asked.leaving.state, now)
    problems = records.identity_problems(registry)
    if problems:
        raise PlanError("\n".join(problems))
    seeds = sorted({name for look in looks.values() for name in look["mesh"].get("seeds") or []})
    nodes = _voting(looks, asked, registry)
    election = _elect(looks, asked, registry, seeds, nodes)
    problem = membership.quorum_problem(asked.leaving, nodes, election["servers"])
    if problem and asked.leaving.is_orderly and not membership.has_begun(asked.leaving, known):
        raise PlanError(problem)
    warnings += [problem] if problem else []
    plan: dict[str, typing.Any] = {
        "registry": registry,
        "settings": asked.settings,
        # Who has left and votes still is to vote no more.
        "servers": [name for name in election["servers"] if registry.get(name, {}).get("state", "member") == "member"],
        "promotions": [step["name"] for step in election["steps"] if step["change"] == "promote"],
        "keeper": membership.keeper(asked.leaving, looks),
        "seeds": seeds or election["servers"],
        "new": new,
        "warnings": warnings + election["refused"] + election["warnings"],
        "hosts": {},
    }
    drift: dict[str, dict[str, list[str]]] = {
        name: {"node": drifts.of_node(name, look, name in asked.convergers, render)} for name, look in looks.items()
    }
    waiting = sorted(keyless) if keyless and not final else []
    if not waiting:
        members = {name: record for name, record in registry.items() if record["state"] == "member"}
        links = peering.links(list(members.values()))
        mesh_routes, more = routes.united(members)
        plan["warnings"] += more
        overridden = []
        keys = {name: record["ssh"]["key"] for name, record in members.items() if record.get("ssh", {}).get("key")}
        for name, look in looks.items():
            wanted = plan["hosts"][name] = _wanted(name, registry, plan, links, looks)
            # Who does not converge the mesh need not hear of who joins and leaves.
            wanted["consul"]["consul_watches"] = WATCHES if name in asked.convergers else []
            wanted["h2o"] = {"h2o_mesh_routes": mesh_routes}
            if name in asked.leaving.names:
                drift[name] = {"node": [], "registry": drifts.of_registry(look, registry)}
                continue
            if name in new:
                drift[name].update({role: [drifts.NOT_SET_UP] for role in ROLES[1:] if role != "converger" or name in asked.convergers})
                continue
            overridden.append((name, _overridden(name, look, wanted["h2o"], render)))
            user = registry[name]["ssh"]["user"]
            logins = drifts.of_logins(look, user, keys)
            if logins:
                wanted["logins"] = {"user": user, "keys": keys}
            drift[name].update(
                drifts.of_roles(name, look, wanted, looks, name in asked.convergers, asked.collection, render),
                registry=drifts.of_registry(look, registry) + logins,
                settings=drifts.of_settings(look, asked.settings),
            )
        plan["warnings"] += [
            f"the route {place} is not that of the service {service} on {', '.join(name for name, found in overridden if (place, service) in found)}: "
            "h2o_routes has another for this host and path, which counts more"
            for place, service in sorted({place for _name, found in overridden for place in found})
        ]
    plan["warnings"] += [
        f"{name} does not converge the mesh by itself: {problem}"
        for name, problem in ((name, drifts.converger_problem(looks[name])) for name in sorted(asked.convergers & set(looks)))
        if problem
    ]
    settled = {name for name, look in looks.items() if look["mesh"].get("settings") and known.get(name, {}).get("state") == "member"}
    plan.update(_trial(looks, asked, settled))
    busy = _busy(looks, asked, plan)
    plan["warnings"] += [
        f"{name} is left alone: {mark['by']} is trying other settings there, since {mark['age']:.0f} s" for name, mark in busy.items()
    ]
    for name in looks:
        frozen = [*ROLES] if name in busy else sorted(asked.frozen.get(name, {}))
        drift[name].update({role: [] for role in frozen})
        if frozen:
            plan["hosts"].setdefault(name, {})["frozen"] = frozen
        plan["hosts"].setdefault(name, {})["drift"] = {role: reasons for role, reasons in drift[name].items() if reasons}
    plan["changing"] = sorted(name for name in looks if any(drift[name].get(role) for role in ROLES))
    candidates = _candidates(settled, looks, asked, plan, election["steps"]) if plan["rollout"] and not waiting else []
    plan["trying"] = sorted(candidate.name for candidate in candidates)
    # Whoever is new, or only has to be repaired, has nothing to try.
    others = [] if waiting else [name for name in plan["changing"] if name not in plan["trying"]]
    plan["batches"] = rollout.batches(candidates, others)
    plan["groups"] = _groups(looks, plan, drift, waiting)
    plan["lines"] = [rollout.line(plan["batches"])] if candidates else []
    plan["lines"] += [
        f"{name}: {role}: {reason}" for name in sorted(looks) for role in (*RECORDS, *ROLES) for reason in drift[name].get(role, [])
    ] + [f"consul: {step['change']} {step['name']}: {step['why']}" for step in election["steps"]]
    return plan


def _trial(looks: dict[str, dict], asked: Asked, settled: set[str]) -> dict[str, typing.Any]:
    """Whether the settings are new to the mesh, and whom they concern: {rollout, unkept, settings_digest, concerned}.

    A mesh that is being set up keeps none yet, and has nothing to lose.
    """
    kept = [look["mesh"]["settings"] for look in looks.values() if look["mesh"].get("settings")]
    sound = [record for record in kept if not settings_records.problem(record)]
    new = asked.settings not in sound
    before = settings_records.merge(*sound)
    concerned = [
        name
        for name in sorted({*looks, *asked.outside})
        if before and settings_records.seen_by(before, name) != settings_records.seen_by(asked.settings, name)
    ]
    # A node that joins, or comes back, has settings of its own, which are nothing new to the others. They have to let it in before it can be well.
    tried = settled.intersection(concerned)
    return {
        "rollout": bool(asked.canary and new and tried),
        "unkept": bool(asked.settings and new),
        "settings_digest": digest.of(asked.settings.get("values", {})),
        "concerned": concerned,
    }


def _busy(looks: dict[str, dict], asked: Asked, plan: dict) -> dict[str, dict]:
    """Nodes that somebody else tries settings on. Raises PlanError where this run would try its own beside them, or anew what was stopped."""
    busy = rollout.busy(looks, asked.by, plan["settings_digest"])
    if not plan["rollout"]:
        return busy
    if busy:
        name, mark = next(iter(busy.items()))
        raise PlanError(
            f"{mark['by']} is trying other settings right now, since {mark['age']:.0f} s on {name}: run again when it is through, and look then at what "
            f"it changed. If it has died, its mark on the nodes is void {rollout.MARK_S / 60:.0f} minutes after it was made. Nothing was changed"
        )
    stopped = [name for name, look in sorted(looks.items()) if rollout.was_stopped(look, plan["settings_digest"])]
    recent = [name for name in stopped if 0 <= looks[name]["mesh"]["rollout"]["age"] < rollout.STOPPED_S]
    if asked.from_mesh and recent:
        raise PlanError(
            f"the settings that are set beside the inventory of {asked.by} were stopped on {recent[0]} ({looks[recent[0]]['mesh']['rollout']['stopped']}): "
            f"repair them there. As they are they are tried again an hour after that. Nothing was changed"
        )
    return busy


def _candidates(settled: set[str], looks: dict[str, dict], asked: Asked, plan: dict, steps: list[dict]) -> list[rollout.Candidate]:
    """The nodes on which the new settings are tried."""
    raft = {peer["name"]: peer for look in looks.values() for peer in look["consul"].get("raft") or []}
    servers = {member["name"] for look in looks.values() for member in look["consul"].get("members") or [] if member["server"]}
    votes = {step["name"]: {"promote": 2, "demote": 3}[step["change"]] for step in steps}
    candidates = []
    for name, look in sorted(looks.items()):
        drift = {role: reasons for role, reasons in plan["hosts"][name]["drift"].items() if role in ROLES}
        if name not in plan["concerned"] or name not in settled:
            continue
        if not (drift or rollout.is_suspect(look, drift, plan["settings_digest"])):
            continue
        candidates.append(
            rollout.Candidate(
                name,
                tried=rollout.was_stopped(look, plan["settings_digest"]),
                settled=rollout.is_settled(look, drift),
                ill=bool(rollout.ailments(look)),
                agrees=votes.get(name, int(_links_change(look, plan["hosts"][name]))),
                local=asked.hosts[name].get("ansible_connection") == "local",
                leader=bool(raft.get(name, {}).get("leader")),
                server=name in servers,
            )
        )
    return candidates


def _links_change(look: dict, wanted: dict) -> bool:
    links = look["cjdns"]["config"]
    dials = {peer.get("public_key") for peer in (links.get("dials") or {}).values()}
    return dials != {dial["public_key"] for dial in wanted["dials"]} or set(links.get("accepts") or {}) != set(wanted["accepts"])


def _inventory_problems(asked: Asked, known: dict[str, dict]) -> list[str]:
    problems = records.inventory_problems(asked.hosts)
    # Whoever was listed on another machine may have left since, or not answer now.
    strangers = sorted(set(asked.listed) - set(asked.hosts) - set(known)) if not asked.from_mesh else []
    if strangers:
        problems.append(f"group consul_servers: {', '.join(strangers)} is not in the group mesh: add it there, or take it out here")
    if problems or asked.from_mesh:
        # A part of a mesh that was cut in two has to be repaired all the same.
        return problems
    return peering.problems([records.describe(name, variables) for name, variables in sorted(asked.hosts.items())])


def _two_meshes(looks: dict[str, dict]) -> str:
    said: dict[str, list[str]] = {}
    for name, look in sorted(looks.items()):
        if look["mesh"].get("generation"):
            said.setdefault(look["mesh"]["generation"], []).append(name)
    return (
        f"The nodes of this run belong to {len(said)} meshes ({'; '.join(', '.join(names) for names in said.values())}). "
        "Two meshes are never merged: keep the nodes of one in the inventory. Nothing was changed."
    )


def _sound(looks: dict[str, dict]) -> tuple[list[dict[str, dict]], list[str]]:
    """The registries of the nodes, and what of them was left out: one damaged file must not keep the mesh from being repaired."""
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
    return sound, warnings


def _without_departed(looks: dict[str, dict], known: dict[str, dict], asked: Asked) -> tuple[dict[str, dict], list[str]]:
    """Nodes that have left the mesh, while the inventory still has them: nobody comes back by oversight."""
    gone = {name for name in looks if name in known and known[name]["state"] != "member"} - asked.joining - asked.leaving.names
    return {name: look for name, look in looks.items() if name not in gone}, [
        f"{name} answers, and the registry says {known[name]['state']}: it is left alone. "
        "Take it out of your inventory, or take it in again with vdloo.mesh.join"
        for name in sorted(gone)
    ]


def _updated(
    known: dict[str, dict], sound: list[dict[str, dict]], looks: dict[str, dict], asked: Asked, now: str
) -> tuple[dict[str, dict], list[str]]:
    """The registry with what the inventory and the nodes of this run say of themselves, and what of that was left out."""
    registry, warnings = known, []
    for name, look in sorted(looks.items()):
        if not look["cjdns"].get("public_key") or name in asked.leaving.names:
            continue
        access = look["system"]
        if asked.hosts[name].get("ansible_connection") == "local":
            # Whoever ran this on the node itself came there in a way of his own.
            access = {**access, "ssh_user": "", "ssh_port": 0}
        variables = {**asked.hosts[name], "node_access": access}
        told = {
            **_described(name, asked, known, sound),
            **records.access(variables, registry.get(name)),
            "public_key": look["cjdns"]["public_key"],
            "address": look["cjdns"]["address"],
            "overlay": "cjdns",
            "state": "member",
        }
        if name not in asked.convergers:
            # Who never logs in anywhere is not let in anywhere.
            told["ssh"].pop("key", None)
        answers, more = _routes_of(look, known.get(name, {}))
        warnings += [f"{name}: {text}" for text in more]
        registry = records.update(registry, {**told, **({"routes": answers} if answers else {})}, now)
    return registry, warnings


def _routes_of(look: dict, known: dict) -> tuple[list[dict], list[str]]:
    """The routes of the services that a node publishes; those of its record where the look did not get to its manifests."""
    if "consul" not in look["manifests"]:
        return known.get("routes", []), []
    return routes.told([observed.get("facts") for observed in look["manifests"].values()])


def _overridden(name: str, look: dict, given: dict, render: drifts.Render) -> list[tuple[str, str]]:
    """The routes of services that the operator gives to something else on a node: pairs of place and service."""
    if not given["h2o_mesh_routes"] or "h2o" not in look["manifests"]:
        return []
    own = render(name, "h2o", given, look["manifests"]["h2o"].get("facts") or {})["routes"]
    counting = {routes.place_of(route): (route.get("service"), route.get("port")) for route in own if isinstance(route, dict)}
    return [
        (routes.shown(route), route["service"])
        for route in given["h2o_mesh_routes"]
        if counting.get(routes.place_of(route), (route["service"], route["port"])) != (route["service"], route["port"])
    ]


def _described(name: str, asked: Asked, known: dict[str, dict], sound: list[dict[str, dict]]) -> dict[str, typing.Any]:
    """What the inventory says of a node. Out of the mesh itself it says what a node knew, which may be old: only what no node knew is the user's."""
    told = records.describe(name, asked.hosts[name])
    if not asked.from_mesh or name not in known:
        return told
    if asked.hosts[name].get("mesh_state") == "unknown":
        return {field: known[name][field] for field in told}
    ever = [registry[name] for registry in sound if name in registry]
    return {field: known[name][field] if any(record[field] == said for record in ever) else said for field, said in told.items()}


def _is_bootstrapped(looks: dict[str, dict]) -> bool:
    return any(look["consul"].get("bootstrapped") or look["consul"].get("raft") for look in looks.values())


def _elect(looks: dict[str, dict], asked: Asked, registry: dict[str, dict], seeds: list[str], nodes: list[dict]) -> dict[str, typing.Any]:
    """Who is to vote, and by which steps; see quorum.elect()."""
    if seeds and not _is_bootstrapped(looks):
        # Their number was written down when the mesh was founded: whoever takes part in the one bootstrap was decided then.
        return {"servers": [name for name in seeds if name in registry or name in looks], "steps": [], "refused": [], "warnings": []}
    listed = [name for name in asked.listed if registry.get(name, {}).get("state", "member") == "member"]
    return quorum.elect(nodes, asked.policy, listed)


def _voting(looks: dict[str, dict], asked: Asked, registry: dict[str, dict]) -> list[dict]:
    """The nodes as quorum.elect() takes them: all members, and who has left while it still has a vote."""
    alive = {member["name"] for look in looks.values() for member in look["consul"].get("members") or [] if member["alive"]}
    servers = {member["name"] for look in looks.values() for member in look["consul"].get("members") or [] if member["server"]}
    led = [look["consul"] for _name, look in sorted(looks.items()) if look["consul"].get("raft")]
    raft = {peer["name"]: peer for peer in led[0]["raft"]} if led else {}
    # Of two that see the servers, the one that sees a leader knows of their health.
    health = next((look["consul"]["servers"] for _name, look in sorted(looks.items()) if look["consul"].get("servers")), {})
    described = {**{name: records.describe(name, asked.hosts[name]) for name in looks if name not in registry}, **registry}
    return [
        {
            "name": name,
            "site": record["site"],
            "eligible": record.get("server_eligible", True) and record.get("state", "member") == "member",
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
        if record.get("state", "member") == "member" or raft.get(name, {}).get("voter")
    ]


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


def _groups(looks: dict[str, dict], plan: dict, drift: dict[str, dict], waiting: list[str]) -> list[list[str]]:
    """Which nodes the plays of a run are for: pairs of a node and a group. None for a mesh in which there is nothing to do."""
    if waiting:
        givers = [name for name in sorted(looks) if looks[name]["mesh"].get("generation")]
        # Somebody has to hand the mesh's secrets to those who are new.
        prepare = {*waiting, *(givers[:1] if plan["new"] else [])}
        return [[name, "plan_prepare"] for name in sorted(prepare)] + [[name, "plan_new"] for name in waiting]
    found = [[name, f"drift_{role}"] for name in sorted(looks) for role in RECORDS if drift[name].get(role)]
    idle = [name for name in sorted(looks) if not any(name in batch for batch in plan["batches"])]
    for number, batch in enumerate(plan["batches"]):
        found += [[name, f"plan_batch_{number + 1}"] for name in batch]
        found += [[name, f"plan_witness_{number + 1}"] for name in [rollout.witness(number, plan["batches"], idle)] if name]
    changing = {name for name in looks if drift[name].get("cjdns")}
    # A listener tells the passwords of all its links when one of them may change.
    found += [
        [name, "plan_tell"]
        for name in sorted(looks)
        if plan["hosts"][name]["diallers"] and (name in changing or changing & set(plan["hosts"][name]["accepts"]))
    ]
    return found + ([[name, "plan_publish"] for name in sorted(looks)] if found or _is_outdated(looks, plan) else [])


def _is_outdated(looks: dict[str, dict], plan: dict) -> bool:
    """Whether the copy in Consul's store, or what it says of when nodes were converged, is out of date."""
    stores = [look["consul"] for look in looks.values() if look["consul"].get("leader")]
    if not stores:
        return False
    kept, converged = stores[0]["registry"], stores[0]["converged"]
    if plan["settings"] and stores[0].get("settings") != digest.of(plan["settings"])[: looking.DIGEST_CHARS]:
        return True
    return bool(set(looks) - set(converged)) or any(
        kept.get(name) != digest.of(record)[: looking.DIGEST_CHARS] for name, record in plan["registry"].items()
    )
