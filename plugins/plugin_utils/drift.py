# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of a node is not as it should be, role by role: reasons in words, none for what is right. Pure."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.vdloo.mesh.plugins.module_utils import manifest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import public
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import dns

NOT_SET_UP = "is not set up yet"
# (host, role, variables that the play hands to the role, facts of the role) -> {"wanted": see manifest.wanted(), and other variables
# of the role}
Render = Callable[[str, str, dict, dict], dict]


def of_manifest(name: str, role: str, look: dict, given: dict, render: Render) -> list[str]:
    observed = look["manifests"].get(role)
    if observed is None:
        return [NOT_SET_UP]
    return manifest.drift(render(name, role, given, observed.get("facts") or {})["wanted"], observed)


def of_roles(
    name: str, look: dict, wanted: dict, looks: dict[str, dict], converges: bool, collection: str, render: Render
) -> dict[str, list[str]]:
    """All roles of a node that has its keys; `wanted` is what they are given, and `looks` are those at the nodes that it dials."""
    return {
        "node": of_node(name, look, converges, render),
        "cjdns": of_cjdns(name, look, wanted, looks, render),
        "consul": of_consul(name, look, wanted, looks, render),
        "dnsmasq": of_dnsmasq(name, look, render),
        "h2o": of_manifest(name, "h2o", look, wanted["h2o"], render),
        "converger": of_converger(name, look, converges, collection, render),
    }


def of_node(name: str, look: dict, converges: bool, render: Render) -> list[str]:
    system = look["system"]
    reasons = [text for text in (system.get("problem"), look["mesh"].get("problem")) if text]
    if not look["mesh"].get("generation"):
        reasons.append("belongs to no mesh yet")
    if converges and not system.get("ssh_key"):
        reasons.append("has no SSH key of its own")
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
    return reasons + of_manifest(name, "node", look, {}, render)


def of_cjdns(name: str, look: dict, wanted: dict, looks: dict[str, dict], render: Render) -> list[str]:
    reasons = of_manifest(name, "cjdns", look, {}, render)
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


def of_consul(name: str, look: dict, wanted: dict, looks: dict[str, dict], render: Render) -> list[str]:
    reasons = of_manifest(name, "consul", look, wanted["consul"], render)
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


def of_dnsmasq(name: str, look: dict, render: Render) -> list[str]:
    reasons = of_manifest(name, "dnsmasq", look, {}, render)
    if reasons == [NOT_SET_UP]:
        return reasons
    asked = render(name, "dnsmasq", {}, look["manifests"]["dnsmasq"].get("facts") or {})
    settings = {key: asked[key] for key in ("managed", "addresses", "spare", "options", "probe_names", "search")}
    settings["domains"] = dns.zones(asked["domains"])
    host = look["resolver"]
    if host["problem"]:
        return [*reasons, host["problem"]]
    if host["handed_over"] != settings["managed"]:
        reasons.append("the host's resolver is not handed over" if settings["managed"] else "the host's resolver is still handed over")
    return reasons + [f"the hand-over's setting {key} differs" for key in sorted(settings) if host["settings"].get(key) != settings[key]]


def of_registry(look: dict, registry: dict[str, dict]) -> list[str]:
    return [] if look["mesh"]["registry"] == registry else ["the registry differs"]


def of_settings(look: dict, settings: dict) -> list[str]:
    return ["those on the node differ"] if settings and look["mesh"].get("settings") != settings else []


def of_logins(look: dict, user: str, keys: dict[str, str]) -> list[str]:
    """`keys` are those of all members by name, which are to be let in as that user."""
    let_in = look["system"]["authorized"] if look["system"].get("authorized_user") == user else {}
    told = {
        "lacks": sorted(set(keys) - set(let_in)),
        "has another of": sorted(name for name in set(keys) & set(let_in) if keys[name] != let_in[name]),
        "still has": sorted(set(let_in) - set(keys)),
    }
    found = "; ".join(f"{how} {', '.join(names)}" for how, names in told.items() if names)
    return [f"the keys that may log in differ: {found}"] if found else []


def of_converger(name: str, look: dict, enabled: bool, collection: str, render: Render) -> list[str]:
    """`collection` is the build that the node is to have."""
    if "converger" not in look["manifests"] and not enabled:
        return []
    return of_manifest(name, "converger", look, {"converger_collection_sha256": collection}, render)


def converger_problem(look: dict) -> str:
    """Why the node cannot converge the mesh, as the role has found out; empty when it can."""
    return str((look["manifests"].get("converger") or {}).get("facts", {}).get("problem") or "")
