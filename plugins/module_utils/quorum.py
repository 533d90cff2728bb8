# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who votes: the Consul servers of a mesh, and in which order they change.

Pure: data in, data out; nothing of Ansible.
"""

from __future__ import annotations

# More voters make every write slower and the loss of the majority no less likely.
MOST_SERVERS = 5
# Above that the leader is busy with its followers.
MOST_SENSIBLE = 7
NEVER_BACK = "If they never come back: docs/quorum.md, peers.json"
POLICIES = ("elect", "all", "listed")


def majority(voters: int) -> int:
    """How many of so many voters must be well for a quorum."""
    return voters // 2 + 1


def elect(nodes: list[dict], policy: str, listed: list[str]) -> dict:
    """Choose the servers, and the steps from those of now to those; the same for any order of `nodes`. Raises ValueError for an unknown policy.

    A node is {"name", "site" (empty: unknown), "eligible", "reachable" (it answers this run), "alive" (reachable, or gossip says so),
    "server" (its agent or its configuration), "voter" (a raft peer with a vote), "healthy" (autopilot), "leader"} and, where known,
    "bootstrapped" (it has seen a leader before) and "since" (autopilot's StableSince: of two voters too many the later one goes).

    Returns {"servers": names, "steps": [{"change": "promote" or "demote", "name", "why"}], "refused": texts, "warnings": texts}. `servers`
    are those of after the steps, sorted. For a mesh without voters they are its seeds, and there are no steps. The steps are to be done one by
    one, each when all voters are well. A voter that is dead has a step for the reader only: autopilot removes it, once its substitute votes.
    """
    if policy not in POLICIES:
        raise ValueError(f"consul_server_policy is {policy!r}: write one of {', '.join(POLICIES)}")
    nodes = sorted(nodes, key=lambda node: node["name"])
    voters = [node for node in nodes if node["voter"]]
    present = [node["name"] for node in nodes if node["voter"] or node["server"]]
    if not voters:
        away = _out_of_reach(nodes)
        return _answer(present, refused=[away]) if away else _seeds(nodes, policy, listed)
    lost = _lost(voters)
    if lost:
        return _answer(present, refused=[lost])
    choice = {"elect": _elected, "all": _all, "listed": _listed}[policy](nodes, voters, listed)
    if not choice["chosen"]:
        return _answer(present, refused=choice["refused"])
    return _change(nodes, voters, **choice)


def departure_problem(nodes: list[dict], names: set[str], servers: list[str]) -> str:
    """Say why these nodes cannot leave; empty when the voters that stay can do without them.

    `servers` are those that elect() chose while the nodes that are to leave were not eligible. A voter that leaves gives its vote back, so that
    the others need no more than the majority of their own.
    """
    staying = [node for node in nodes if (node["voter"] or node["name"] in servers) and node["name"] not in names]
    if not any(node["voter"] and node["name"] in names for node in nodes):
        return ""
    if not staying:
        return "no other node is a voter or can become one: let one join that is eligible (mesh_server_eligible), and run again"
    ill = [node["name"] for node in staying if not (_well(node) if node["voter"] else node["alive"])]
    if len(staying) - len(ill) < majority(len(staying)):
        return f"the {len(staying)} voters that stay would have no quorum: {_text(ill)} {_are(ill)} not well. Repair that first"
    return ""


def _answer(names, steps=(), refused=(), warnings=()) -> dict:
    return {"servers": sorted(names), "steps": list(steps), "refused": list(refused), "warnings": list(warnings)}


def _out_of_reach(nodes: list[dict]) -> str:
    """Tell that a mesh is there of which no voter is seen: whoever is made a server then starts a second quorum."""
    old = [node["name"] for node in nodes if node.get("bootstrapped")]
    if not old:
        return ""
    gone = [node for node in nodes if node["server"]]
    return (
        f"no voter can be seen, so no server is changed, as others would start a second mesh: {_text(old)} saw a leader before; "
        + (_needs(gone) if gone else "it needs the servers back that it had")
        + f". {NEVER_BACK}"
    )


def _lost(voters: list[dict]) -> str:
    """Tell what a mesh without a quorum needs; empty when it has one."""
    if sum(_well(node) for node in voters) >= majority(len(voters)):
        return ""
    return f"the quorum is lost, so no server is changed: {_needs(voters)}. {NEVER_BACK}"


def _needs(servers_of_now: list[dict]) -> str:
    dead = [node["name"] for node in servers_of_now if not node["alive"]]
    ill = [node["name"] for node in servers_of_now if node["alive"] and not node["healthy"]]
    return (
        f"it needs {majority(len(servers_of_now))} of {', '.join(node['name'] for node in servers_of_now)} back"
        + (f"; {_text(dead)} {_are(dead)} not alive" if dead else "")
        + (f"; {_text(ill)} {_are(ill)} alive but not healthy" if ill else "")
    )


def _seeds(nodes: list[dict], policy: str, listed: list[str]) -> dict:
    """Choose the servers that start a new mesh, out of those that answer."""
    refused, warnings = [], []
    usable = [node for node in nodes if node["eligible"] and node["reachable"]]
    if policy == "listed":
        refused = _unusable(nodes, listed)
        usable = [node for node in usable if node["name"] in listed]
    if not usable:
        refused.append("no new mesh can start: no node that may be a server answers")
    chosen = usable if policy != "elect" else _fill([], usable, _odd(len(usable)))
    if policy != "elect":
        warnings = _warn_number(len(chosen))
    return _answer((node["name"] for node in chosen), refused=refused, warnings=warnings)


def _elected(nodes: list[dict], voters: list[dict], _listed_names: list[str]) -> dict:
    """Choose 1, 3 or 5. Those who vote stay; so the number never shrinks because somebody is away, and two stay two."""
    kept = [node for node in voters if node["alive"] and node["eligible"]]
    ready = [node for node in nodes if _ready(node)]
    if len(voters) == 2 and len(kept) + len(ready) < 3:
        return {
            "chosen": voters,
            "warnings": [
                f"2 voters, {_text([node['name'] for node in voters])}, tolerate no loss: a third node that is eligible is needed"
            ],
        }
    size = _odd(max(len(kept) + len(ready), sum(node["eligible"] for node in voters)))
    if size < 3:
        size = _odd(max(size, len(voters)))
    while len(kept) > size:
        kept.remove(max(kept, key=lambda node: _dispensable(node, kept)))
    chosen = _fill(kept, ready, size)
    # Who must go keeps its seat until there is somebody for it; a voter that answers before one that is dead.
    chosen += sorted(
        (node for node in voters if not node["eligible"] and node["alive"]), key=lambda node: (not node["leader"], node["name"])
    )
    chosen += sorted((node for node in voters if not node["alive"]), key=lambda node: (not node["eligible"], node["name"]))
    chosen = chosen[:size]
    moved = _spread(chosen, ready)
    return {"chosen": moved or chosen, "reason": "its site has most of the votes" if moved else f"{len(chosen)} voters are enough"}


def _spread(chosen: list[dict], ready: list[dict]) -> list[dict]:
    """Move one vote out of a site that has most of them, when that makes the largest share smaller and nothing else changes."""
    sites = _sites(chosen)
    most = max(sites, key=lambda site: (sites[site], site))
    elsewhere = [node for node in ready if node not in chosen and sites.get(node["site"], 0) + 1 < sites[most]]
    givers = [node for node in chosen if node["site"] == most and node["reachable"]]
    settled = all(node["voter"] and _well(node) and node["eligible"] for node in chosen)
    # Nodes without a site may be anywhere.
    if not (most and sites[most] * 2 > len(chosen) and elsewhere and givers and settled):
        return []
    giver = max(givers, key=lambda node: _dispensable(node, chosen))
    return _fill([node for node in chosen if node is not giver], elsewhere, len(chosen))


def _all(nodes: list[dict], voters: list[dict], _listed_names: list[str]) -> dict:
    chosen = [node for node in nodes if node["eligible"] and (node["voter"] or _ready(node))]
    refused = [] if chosen else ["every node would lose its vote: no node is eligible to be a server"]
    return {"chosen": chosen, "refused": refused, "warnings": _warn_number(len(chosen))}


def _listed(nodes: list[dict], voters: list[dict], listed: list[str]) -> dict:
    if not listed:
        return {"chosen": [], "refused": ["consul_server_policy is listed, but no server is listed: name some in the group consul_servers"]}
    wanted = set(listed)
    chosen = [node for node in nodes if node["name"] in wanted and (node["voter"] or _ready(node))]
    # As long as somebody who is listed is missing, others keep the seats.
    others = sorted(
        (node for node in voters if node["alive"] and node["name"] not in wanted), key=lambda node: (not node["leader"], node["name"])
    )
    chosen += others[: len(wanted) - len(chosen)]
    return {
        "chosen": chosen,
        "refused": _unusable(nodes, listed),
        "warnings": _warn_number(len(wanted)),
        "reason": "it is not listed",
    }


def _unusable(nodes: list[dict], listed: list[str]) -> list[str]:
    """Say of each listed server that cannot be one why not."""
    known = {node["name"]: node for node in nodes}
    found = []
    for name in sorted(set(listed)):
        node = known.get(name)
        if node is None:
            found.append(f"{name} is listed as a server but is no node of the mesh: add it to the group mesh, or take it off the list")
        elif not node["eligible"]:
            found.append(
                f"{name} is listed as a server but is not eligible" + (": it only keeps the vote that it has" if node["voter"] else "")
            )
        elif not node["voter"] and not _ready(node):
            found.append(f"{name} is listed as a server but does not answer: it becomes one in a run that reaches it")
        elif node["voter"] and not node["alive"]:
            found.append(f"{name} is listed as a server but is not alive: bring it back, or list another one in its place")
    return found


def _change(nodes: list[dict], voters: list[dict], chosen: list[dict], refused=(), warnings=(), reason="") -> dict:
    """Order the steps to the chosen ones, and leave out each that the others could not do without."""
    refused, held = list(refused), []
    seated = {node["name"] for node in chosen}
    joining = [node for node in chosen if not node["voter"]]
    leaving = sorted(
        (node for node in voters if node["name"] not in seated), key=lambda node: (node["alive"], node["leader"], node["name"])
    )
    idle = [node for node in nodes if node["server"] and not node["voter"] and node["alive"] and node["name"] not in seated]
    votes = {node["name"]: _well(node) for node in voters}

    steps = []
    for index, node in enumerate(joining):
        place = f"takes the place of {leaving[index]['name']}" if index < len(leaving) else f"one of {len(chosen)} voters"
        steps.append(_step("promote", node, f"{place} (site {node['site']})" if node["site"] else place))
        votes[node["name"]] = True
    for node in idle:
        if node["reachable"]:
            steps.append(_step("demote", node, f"it has no vote, and {len(chosen)} others are the servers"))
        else:
            refused.append(f"{node['name']} stays a server until a run reaches it, and may get a vote that it is not to have")
    for node in leaving:
        why = "it is not eligible" if not node["eligible"] else reason or "it is not to vote"
        rest = {name: well for name, well in votes.items() if name != node["name"]}
        if not node["alive"]:
            steps.append(_step("demote", node, "it is not alive: nothing is done on it, autopilot removes its vote"))
            votes = rest
        elif not node["reachable"]:
            refused.append(f"{node['name']} keeps its vote until a run reaches it, though {why}")
            held.append(node)
        elif not _enough(rest, len(chosen)):
            ill = [name for name, well in rest.items() if not well]
            refused.append(
                f"{node['name']} keeps its vote, though {why}: the {len(rest)} other voters could not do without it;"
                f" it needs {_text(ill) or 'another voter'} to be well"
            )
            held.append(node)
        else:
            steps.append(_step("demote", node, why))
            votes = rest
    return _answer((node["name"] for node in chosen + held), steps, refused, warnings)


def _enough(votes: dict[str, bool], wanted: int) -> bool:
    """Whether these voters have a quorum and tolerate a loss, or as much as the wanted number of them can."""
    spare = sum(votes.values()) - majority(len(votes))
    return spare >= min(1, wanted - majority(wanted))


def _fill(chosen: list[dict], ready: list[dict], size: int) -> list[dict]:
    """Add nodes up to the size: who is a server already, then where the fewest votes are, then by name."""
    chosen, ready = list(chosen), [node for node in ready if node not in chosen]
    while ready and len(chosen) < size:
        sites = _sites(chosen)
        best = min(ready, key=lambda node: (not node["server"], sites.get(node["site"], 0), node["name"]))
        ready.remove(best)
        chosen.append(best)
    return chosen


def _dispensable(node: dict, among: list[dict]) -> tuple:
    """Order voters by how well the others can do without: the largest goes.

    One that no run reaches cannot be changed, and the leader costs an election. Who is stable for less time is who has returned to a mesh that
    replaced it; by the minute, as all are stable for about the same time under a new leader.
    """
    since = str(node.get("since") or "")[: len("2026-01-01T00:00")]
    return (node["reachable"], not node["leader"], since, _sites(among)[node["site"]], node["name"])


def _ready(node: dict) -> bool:
    """Whether a node without a vote can get one: a run must reach it to make it a server."""
    return bool(not node["voter"] and node["eligible"] and node["alive"] and (node["reachable"] or node["server"]))


def _well(node: dict) -> bool:
    return bool(node["alive"] and node["healthy"])


def _sites(nodes: list[dict]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node["site"]] = counts.get(node["site"], 0) + 1
    return counts


def _odd(number: int) -> int:
    number = min(number, MOST_SERVERS)
    return number if number % 2 or not number else number - 1


def _warn_number(number: int) -> list[str]:
    found = []
    if number and not number % 2:
        found.append(f"{number} servers tolerate no more losses than {number - 1}: an odd number is better")
    if number > MOST_SENSIBLE:
        found.append(f"{number} servers make every write slower: {MOST_SERVERS} are enough for any mesh")
    return found


def _step(change: str, node: dict, why: str) -> dict:
    return {"change": change, "name": node["name"], "why": why}


def _text(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
