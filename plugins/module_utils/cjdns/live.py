# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What to tell a running daemon so that it has another configuration: pure functions, data in, steps out.

Peers and passwords can be changed while the daemon runs; everything else only by a start. An entry of a peer or a password that is out of
the ordinary (no user, restricted to an address, more keys than the usual) counts as everything else.
"""

from __future__ import annotations

import ipaddress
import json
from typing import NamedTuple

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf, keys


class Dial(NamedTuple):
    """A peer to dial. `interface` is the place of its interface in UDPInterface, from 0."""

    interface: int
    endpoint: str
    public_key: str
    password: str
    login: str
    name: str

    def credentials(self) -> tuple:
        """What a link is made with; the name is for people only."""
        return self.public_key, self.password, self.login

    def words(self) -> str:
        return f"{self.name or self.public_key} at {self.endpoint}"


class Parts(NamedTuple):
    """A configuration, taken apart: passwords by user, dials by place, and the rest, which only a start can change."""

    users: dict
    dials: dict
    rest: dict


class Step(NamedTuple):
    """One change: in words, as a call of admin.Client, and how often it may have to be made (some releases drop one link at a time)."""

    words: str
    call: str
    arguments: tuple
    times: int = 1


def place_of(endpoint: str):
    """What an endpoint means, as (IP version, address, port); None for a text that is none."""
    try:
        version, host, port = conf.split_endpoint(endpoint)
    except conf.ConfError:
        return None
    return version, ipaddress.ip_address(host), port


# ---------------------------------------------------------------- taking a configuration apart


def _split_users(entries: list) -> tuple[dict, list]:
    names = [entry.get("user") if isinstance(entry, dict) else None for entry in entries]
    users, others = {}, []
    for name, entry in zip(names, entries):
        plain = isinstance(entry, dict) and set(entry) == {"user", "password"} and all(isinstance(value, str) for value in entry.values())
        if plain and name and entry["password"] and names.count(name) == 1:
            users[name] = entry["password"]
        else:
            others.append(entry)
    return users, others


def _dial(number: int, interface: dict, endpoint: str, entry) -> Dial | None:
    """An entry of connectTo that can be dialled with one call; None for any other."""
    place = place_of(endpoint)
    if place is None or not isinstance(entry, dict) or not set(entry) <= set(conf.CONNECT_KEYS):
        return None
    if not all(isinstance(value, str) for value in entry.values()) or not entry.get("password"):
        return None
    if place[0] != conf.bind_family(interface):
        return None
    public_key = entry.get("publicKey", "").lower()
    try:
        keys.validate_public_key(public_key)
    except keys.KeyFormatError:
        return None
    return Dial(number, endpoint, public_key, entry["password"], entry.get("login", ""), entry.get("peerName", ""))


def _split_dials(number: int, interface: dict) -> tuple[dict, dict]:
    dials, others = {}, {}
    places = [place_of(endpoint) for endpoint in interface.get("connectTo", {})]
    for endpoint, entry in interface.get("connectTo", {}).items():
        dial = _dial(number, interface, endpoint, entry)
        if dial is not None and places.count(place_of(endpoint)) == 1:
            dials[(number, *place_of(endpoint))] = dial
        else:
            others[endpoint] = entry
    return dials, others


def split(config: dict) -> Parts:
    """Take a configuration apart. What is not of the expected shape is part of the rest."""
    rest = json.loads(json.dumps(config))
    users, dials = {}, {}
    entries = rest.setdefault("authorizedPasswords", [])
    if isinstance(entries, list):
        users, rest["authorizedPasswords"] = _split_users(entries)
    interfaces = rest.get("interfaces")
    if isinstance(interfaces, dict) and isinstance(interfaces.get("UDPInterface"), dict):
        interfaces["UDPInterface"] = [interfaces["UDPInterface"]]
    for number, interface in enumerate(udp_interfaces(rest)):
        if isinstance(interface, dict) and isinstance(interface.get("connectTo", {}), dict):
            found, interface["connectTo"] = _split_dials(number, interface)
            dials.update(found)
    return Parts(users, dials, rest)


def udp_interfaces(rest: dict) -> list:
    """The entries of UDPInterface, in the order in which the daemon numbers them."""
    interfaces = rest.get("interfaces")
    entries = interfaces.get("UDPInterface") if isinstance(interfaces, dict) else None
    return entries if isinstance(entries, list) else []


def differences(one, two, where: str = "") -> list[str]:
    """The places at which two configurations differ, without what is there."""
    if isinstance(one, dict) and isinstance(two, dict):
        found = []
        for key in sorted({*one, *two}):
            place = f"{where}.{key}" if where else key
            found += differences(one[key], two[key], place) if key in one and key in two else [place]
        return found
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return [place for number, pair in enumerate(zip(one, two)) for place in differences(*pair, f"{where}[{number}]")]
    return [] if one == two else [where]


def restart_places(present: dict, wished: dict) -> list[str]:
    """The places that differ and that only a start can change; empty when the way from one to the other needs none."""
    return differences(split(present).rest, split(wished).rest)


# ---------------------------------------------------------------- planning


def _is_at(peer: dict, place: tuple, public_key: str) -> bool:
    """Whether a link is dialled at the place of an interface; with the right key also when the daemon is too old to tell."""
    told = place_of(peer["endpoint"])
    if told is None:
        return not peer["endpoint"] and not peer["incoming"] and peer["public_key"] == public_key
    return told == place[1:] and peer["interface"] in (-1, place[0])


def _is_linked(peers: list[dict], place: tuple, wished: dict) -> bool:
    """Whether nothing needs to be done about a peer that has long been dialled.

    It has a link of any kind, but for those that it has at its other places: a run that was stopped may have made those alone.
    """
    public_key = wished[place].public_key
    others = [other for other, dial in wished.items() if dial.public_key == public_key and other != place]
    return any(
        peer["incoming"] or _is_at(peer, place, public_key) or not any(_is_at(peer, other, public_key) for other in others)
        for peer in peers
        if peer["public_key"] == public_key
    )


def _plan_links(started: dict, wished: dict, peers: list[dict], drops: set[str]) -> tuple[set[str], set[tuple]]:
    """The keys whose links are to be dropped, and the places to dial. Dropping is by key only, so it can ask for more of both."""
    kept = {place for place, dial in wished.items() if place in started and dial.credentials() == started[place].credentials()}
    drops = set(drops)
    for place, dial in started.items():
        if place not in kept:
            drops.update(
                peer["public_key"]
                for peer in peers
                if not peer["incoming"] and peer["public_key"] == dial.public_key and _is_at(peer, place, dial.public_key)
            )
    dials = {place for place in wished if place not in kept or not _is_linked(peers, place, wished)}
    while True:
        dials.update(place for place, dial in wished.items() if dial.public_key in drops)
        # The daemon must not have two links at one place. Where somebody else comes in from there, it is for him to end that.
        blocking = {
            peer["public_key"]
            for peer in peers
            for place in dials
            if _is_at(peer, place, wished[place].public_key) and (not peer["incoming"] or peer["public_key"] == wished[place].public_key)
        }
        if blocking <= drops:
            return drops, dials
        drops |= blocking


def plan(started: Parts, wished: Parts, peers: list[dict], listed: list[str]) -> list[Step]:
    """The steps from what a daemon was started with, and has now, to what it is to have.

    `peers` and `listed` are what admin.Client tells: its links, and the users that it lets in. Users and links that neither configuration
    knows are left alone. Passwords are taken away first, so that nobody who is dropped comes back with an old one.
    """
    new = [user for user in wished.users if user not in started.users]
    ended = {user for user, password in started.users.items() if wished.users.get(user) != password}
    admitted = [user for user in wished.users if user in new or user in ended or user not in listed]
    guests = {peer["public_key"] for peer in peers if peer["incoming"] and peer["user"] in ended}
    drops, dials = _plan_links(started.dials, wished.dials, peers, guests)

    names = {peer["public_key"]: peer["user"] for peer in peers if peer["user"]}
    names.update({dial.public_key: dial.name for parts in (started, wished) for dial in parts.dials.values() if dial.name})
    steps = [Step(f"stop accepting {user}", "unauthorize", (user,)) for user in sorted({*ended, *new} & set(listed))]
    for key in sorted(drops):
        count = sum(peer["public_key"] == key for peer in peers)
        steps.append(Step(f"disconnect {names.get(key, key)}", "disconnect", (key,), count))
    steps += [Step(f"accept {user}", "authorize", (user, wished.users[user])) for user in sorted(admitted)]
    for dial in sorted((wished.dials[place] for place in dials), key=lambda dial: (dial.name, dial.endpoint)):
        call = (dial.endpoint, dial.public_key, dial.password, dial.login, dial.name, dial.interface)
        steps.append(Step(f"dial {dial.words()}", "connect", call))
    return steps


def interface_problem(steps: list[Step], rest: dict, told: list[dict]) -> str:
    """Why the steps cannot dial over the interfaces that the daemon tells of; empty when they can."""
    binds = {interface["number"]: interface["bind"] for interface in told}
    for number in sorted({step.arguments[-1] for step in steps if step.call == "connect"}):
        wished, bind = str(udp_interfaces(rest)[number].get("bind", "")), binds.get(number, "")
        port = wished.rpartition(":")[2]
        if not bind or bind.startswith("[") != wished.startswith("[") or (port not in ("", "0") and bind.rpartition(":")[2] != port):
            return f"interface {number} of the running cjdns is {bind or 'not there'}, not {wished or 'one that is bound to no address'}"
    return ""
