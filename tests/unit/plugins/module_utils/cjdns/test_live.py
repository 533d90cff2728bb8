# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import copy

import cjdroutes
import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import live
from hypothesis import given
from hypothesis import strategies as st

double = cjdroutes.double
SECRET = "a-secret-that-nobody-may-see"


def make_key():
    return double.key_text(double.public_of(double.generate_key()))


def config_of(users=(), dials=(), **changes):
    """A configuration with an IPv4, an IPv6 and another IPv4 interface. Dials are (interface, endpoint, entry)."""
    interfaces = [{"bind": bind, "connectTo": {}} for bind in ("0.0.0.0:1", "[::]:1", "0.0.0.0:2")]
    for number, endpoint, entry in dials:
        interfaces[number]["connectTo"][endpoint] = entry
    return {
        "privateKey": "0" * 64,
        "authorizedPasswords": [{"user": user, "password": password} for user, password in dict(users).items()],
        "admin": {"bind": "127.0.0.1:11234", "password": "admin-secret"},
        "interfaces": {"UDPInterface": interfaces},
        **changes,
    }


KEYS = [make_key() for _key in range(3)]
STRANGERS = [make_key() for _key in range(2)]
PLACES = [(0, "192.0.2.1:1"), (0, "192.0.2.2:1"), (1, "[2001:db8::1]:1"), (2, "192.0.2.1:1")]
USERS = ["ada", "bob", "cyd"]
words, passwords = st.sampled_from(["vps", "nas"]), st.sampled_from(["red-secret", "blue-secret"])
entries = st.builds(
    lambda key, password, name, login: {"publicKey": key, "password": password, "peerName": name, **({"login": login} if login else {})},
    st.sampled_from(KEYS),
    passwords,
    words,
    st.sampled_from(["", "me"]),
)
configs = st.builds(
    lambda users, dials: config_of(users, [(*place, entry) for place, entry in dials.items()]),
    st.dictionaries(st.sampled_from(USERS), passwords),
    st.dictionaries(st.sampled_from(PLACES), entries),
)


class Daemon:
    """As much of a daemon as the steps change: passwords by user, dialled links by place, and accepted links."""

    def __init__(self, config):
        parts = live.split(config)
        self.users = {user: {password} for user, password in parts.users.items()}
        self.dialled = {(dial.interface, dial.endpoint): dial.credentials() for dial in parts.dials.values()}
        self.accepted = []  # (key, user, interface, endpoint)

    def peers(self):
        links = [(credentials[0], "named", False, *place) for place, credentials in self.dialled.items()]
        links += [(key, user, True, *place) for key, user, *place in self.accepted]
        return [dict(zip(("public_key", "user", "incoming", "interface", "endpoint"), link)) for link in links]

    def disconnect(self, key):
        self.dialled = {place: credentials for place, credentials in self.dialled.items() if credentials[0] != key}
        self.accepted = [link for link in self.accepted if link[0] != key]

    def do(self, step):
        first, *more = step.arguments
        if step.call == "unauthorize":
            del self.users[first]
        elif step.call == "authorize":
            self.users.setdefault(first, set()).add(more[0])
        elif step.call == "disconnect":
            assert step.times == sum(peer["public_key"] == first for peer in self.peers()) > 0
            self.disconnect(first)
        else:
            key, password, login, _name, number = more
            assert (number, first) not in self.dialled, "two links at one place"
            self.dialled[number, first] = (key, password, login)


@st.composite
def daemons(draw, started):
    """A daemon that was started with a configuration, and what happened to it since; beside it what strangers have there."""
    daemon = Daemon(started)
    for key in draw(st.sets(st.sampled_from(KEYS))):
        daemon.disconnect(key)
    for user in draw(st.sets(st.sampled_from(USERS))):
        daemon.users.pop(user, None)
    sources = st.one_of(st.just((0, "198.51.100.7:999")), st.sampled_from(PLACES))
    came = st.tuples(st.sampled_from(KEYS), st.sampled_from([*USERS, "guest"]), sources)
    daemon.accepted = [(key, user, *place) for key, user, place in draw(st.lists(came, max_size=3, unique=True))]
    daemon.users["guest"] = {"guest-password"}
    strangers = {(0, "203.0.113.9:1"): (STRANGERS[0], "theirs", "")}
    daemon.dialled.update(strangers)
    daemon.accepted.append((STRANGERS[1], "guest", 0, "203.0.113.10:1"))
    return daemon


def steps_for(daemon, started, wished):
    return live.plan(live.split(started), live.split(wished), daemon.peers(), sorted(daemon.users))


def check(daemon, wished, was):
    parts = live.split(wished)
    assert daemon.users == {**{user: {password} for user, password in parts.users.items()}, "guest": {"guest-password"}}
    dials = {(dial.interface, dial.endpoint): dial.credentials() for dial in parts.dials.values()}
    dials[0, "203.0.113.9:1"] = (STRANGERS[0], "theirs", "")
    assert {place: credentials for place, credentials in daemon.dialled.items() if dials.get(place) != credentials} == {}
    # What is not dialled has come in by itself.
    came = {link[0] for link in daemon.accepted}
    assert {credentials[0] for place, credentials in dials.items() if place not in daemon.dialled} <= came
    assert (STRANGERS[1], "guest", 0, "203.0.113.10:1") in daemon.accepted
    assert {link for link in daemon.accepted if link[1] in was.users and link[1] not in parts.users} == set()


@given(st.data(), configs, configs)
def test_the_plan_leads_to_the_file_and_leaves_strangers_and_the_unchanged_alone(data, started, wished):
    daemon = data.draw(daemons(started))
    old, new = live.split(started), live.split(wished)
    steps = steps_for(daemon, started, wished)
    ended = {user for user, password in old.users.items() if new.users.get(user) != password}
    changed = {link[0] for link in daemon.accepted if link[1] in ended}
    for place in {*old.dials, *new.dials}:
        pair = [parts.dials.get(place) for parts in (old, new)]
        if None in pair or pair[0].credentials() != pair[1].credentials():
            changed |= {dial.public_key for dial in pair if dial}
    dropped = {step.arguments[0] for step in steps if step.call == "disconnect"}
    assert dropped <= changed
    for step in steps:
        daemon.do(step)
    check(daemon, wished, old)
    assert steps_for(daemon, wished, wished) == []


@given(st.data(), configs, configs)
def test_a_plan_that_was_stopped_leads_there_as_well_when_it_is_made_again(data, started, wished):
    daemon = data.draw(daemons(started))
    steps = steps_for(daemon, started, wished)
    for step in steps[: data.draw(st.integers(0, len(steps)))]:
        daemon.do(step)
    for step in steps_for(daemon, started, wished):
        daemon.do(step)
    check(daemon, wished, live.split(started))
    assert steps_for(daemon, wished, wished) == []


@given(configs, configs)
def test_peers_and_passwords_need_no_restart(started, wished):
    assert live.restart_places(started, wished) == []


def entry_of(key=KEYS[0], password="red-secret", **changes):
    return {"publicKey": key, "password": password, "peerName": "vps", **changes}


def outgoing(endpoint="192.0.2.1:1", key=KEYS[0], interface=0, **changes):
    return {"public_key": key, "user": "vps", "incoming": False, "interface": interface, "endpoint": endpoint, **changes}


def words_of(started, wished, peers=(), listed=()):
    return [step.words for step in live.plan(live.split(started), live.split(wished), list(peers), list(listed))]


ONE = config_of({"pi": "red-secret"}, [(0, "192.0.2.1:1", entry_of())])


def test_the_words_of_a_plan_tell_names_and_places():
    wished = config_of({"nas": "red-secret"}, [(0, "192.0.2.2:1", {**entry_of(KEYS[1]), "peerName": "vps2"})])
    pi = {**outgoing("198.51.100.7:9", KEYS[2]), "incoming": True, "user": "pi"}
    assert words_of(ONE, wished, [outgoing(), pi], ["Local Peers", "pi"]) == [
        "stop accepting pi",
        *(f"disconnect {name}" for _key, name in sorted([(KEYS[0], "vps"), (KEYS[2], "pi")])),
        "accept nas",
        "dial vps2 at 192.0.2.2:1",
    ]


def test_another_name_or_another_way_to_write_an_address_is_no_change():
    started = config_of({}, [(1, "[2001:db8::1]:1", entry_of())])
    wished = config_of({}, [(1, "[2001:DB8:0::1]:1", {**entry_of(KEYS[0].upper()[:-1] + "k"), "peerName": "other"})])
    assert words_of(started, wished, [outgoing("[2001:db8:0:0:0:0:0:1]:1", interface=1)]) == []


def test_a_user_that_was_let_in_by_hand_gets_the_password_of_the_file_and_keeps_its_link():
    wished = config_of({"pi": "red-secret", "nas": "red-secret"}, [(0, "192.0.2.1:1", entry_of())])
    nas = {**outgoing("198.51.100.7:9", KEYS[2]), "incoming": True, "user": "nas"}
    assert words_of(ONE, wished, [outgoing(), nas], ["pi", "nas"]) == ["stop accepting nas", "accept nas"]


def test_what_was_dialled_by_hand_where_the_file_dials_now_is_dialled_with_the_password_of_the_file():
    wished = config_of({}, [(0, "192.0.2.1:1", entry_of())])
    assert words_of(config_of(), wished, [outgoing(key=KEYS[1], user="theirs")]) == ["disconnect theirs", "dial vps at 192.0.2.1:1"]
    assert words_of(config_of(), wished, [outgoing()]) == ["disconnect vps", "dial vps at 192.0.2.1:1"]


def test_a_peer_that_is_dialled_does_not_suffer_from_a_user_of_the_same_name():
    wished = config_of({}, [(0, "192.0.2.1:1", entry_of())])
    assert words_of(ONE, wished, [outgoing(user="pi")], ["pi"]) == ["stop accepting pi"]


def test_a_peer_that_is_no_longer_dialled_may_come_in_from_there():
    wished = config_of({"pi": "red-secret"})
    pi = {**outgoing(), "incoming": True, "user": "pi"}
    assert words_of(ONE, wished, [pi], ["pi"]) == []


def test_a_peer_with_two_places_is_dialled_at_the_one_that_a_stopped_run_left_out():
    both = config_of({}, [(0, "192.0.2.1:1", entry_of()), (0, "192.0.2.2:1", entry_of())])
    assert words_of(both, both, [outgoing()]) == ["dial vps at 192.0.2.2:1"]
    # A link that is neither of these was made by somebody, who may have ended them.
    assert words_of(both, both, [outgoing("192.0.2.3:1")]) == []
    assert words_of(both, both, [{**outgoing(), "incoming": True}]) == []


def test_a_daemon_that_does_not_tell_where_it_dials_is_judged_by_the_key():
    untold = [outgoing("", interface=-1), outgoing("", KEYS[1], interface=-1)]
    assert words_of(ONE, ONE, untold, ["pi"]) == []
    wished = config_of({"pi": "red-secret"}, [(0, "192.0.2.1:1", entry_of(password="blue-secret"))])
    assert words_of(ONE, wished, untold, ["pi"]) == ["disconnect vps", "dial vps at 192.0.2.1:1"]


def changed(path, value):
    """ONE with another value at a place."""
    config = copy.deepcopy(ONE)
    *parts, last = path
    inner = config
    for part in parts:
        inner = inner[part]
    inner[last] = value
    return config


UDP = ("interfaces", "UDPInterface")


@pytest.mark.parametrize(
    ("wished", "places"),
    [
        (changed(("admin", "bind"), "127.0.0.1:1"), ["admin.bind"]),
        (changed(("admin", "password"), SECRET), ["admin.password"]),
        (changed(("privateKey",), SECRET), ["privateKey"]),
        (changed(("router",), {"dnsSeeds": []}), ["router"]),
        (changed((*UDP, 1, "bind"), "[::]:2"), ["interfaces.UDPInterface[1].bind"]),
        (changed((*UDP, 1, "beacon"), 2), ["interfaces.UDPInterface[1].beacon"]),
        (changed(UDP, ONE["interfaces"]["UDPInterface"][:2]), ["interfaces.UDPInterface"]),
        (changed(UDP, ONE["interfaces"]["UDPInterface"][::-1]), [f"interfaces.UDPInterface[{at}].bind" for at in (0, 2)]),
        # Entries that no call can change, or that could not be found again.
        (changed(("authorizedPasswords",), [{"password": SECRET}]), ["authorizedPasswords"]),
        (changed(("authorizedPasswords", 0, "ipv6"), "fc00::1"), ["authorizedPasswords"]),
        (changed(("authorizedPasswords",), [{"user": "pi", "password": SECRET}] * 2), ["authorizedPasswords"]),
        (changed((*UDP, 0, "connectTo", "vps.example.com:1"), entry_of()), ["interfaces.UDPInterface[0].connectTo.vps.example.com:1"]),
        (changed((*UDP, 0, "connectTo", "[2001:db8::1]:1"), entry_of()), ["interfaces.UDPInterface[0].connectTo.[2001:db8::1]:1"]),
        (changed((*UDP, 0, "connectTo", "192.0.2.9:1"), entry_of(contact="x")), ["interfaces.UDPInterface[0].connectTo.192.0.2.9:1"]),
        (changed((*UDP, 0, "connectTo", "192.0.2.9:1"), entry_of(password="")), ["interfaces.UDPInterface[0].connectTo.192.0.2.9:1"]),
        (changed((*UDP, 0, "connectTo", "192.0.2.9:1"), entry_of(key="x.k")), ["interfaces.UDPInterface[0].connectTo.192.0.2.9:1"]),
        (changed((*UDP, 0, "connectTo"), [SECRET]), ["interfaces.UDPInterface[0].connectTo"]),
    ],
)
def test_everything_else_needs_a_restart_and_only_its_place_is_told(wished, places):
    assert live.restart_places(ONE, wished) == places
    assert live.restart_places(wished, wished) == []


json_values = st.recursive(
    st.one_of(st.integers(), st.text(max_size=3), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)


@given(
    st.sampled_from(
        [
            ("authorizedPasswords",),
            ("authorizedPasswords", 0),
            ("interfaces",),
            UDP,
            (*UDP, 0),
            (*UDP, 0, "connectTo"),
            (*UDP, 0, "connectTo", "192.0.2.1:1"),
            (*UDP, 0, "connectTo", "192.0.2.1:1", "publicKey"),
        ]
    ),
    json_values,
)
def test_a_configuration_of_any_shape_can_be_taken_apart_and_is_like_itself(path, value):
    odd = changed(path, value)
    assert live.restart_places(odd, odd) == []
    live.plan(live.split(odd), live.split(odd), [], [])


def test_an_interface_alone_is_as_good_as_a_list_of_one():
    single = changed(UDP, ONE["interfaces"]["UDPInterface"][0])
    listed = changed(UDP, ONE["interfaces"]["UDPInterface"][:1])
    assert live.split(single) == live.split(listed)


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ([{"number": 0, "bind": "0.0.0.0:1"}], ""),
        ([{"number": 0, "bind": "0.0.0.0:9"}], "interface 0 of the running cjdns is 0.0.0.0:9, not 0.0.0.0:1"),
        ([{"number": 0, "bind": "[::]:1"}], "interface 0 of the running cjdns is [::]:1, not 0.0.0.0:1"),
        ([{"number": 1, "bind": "0.0.0.0:1"}], "interface 0 of the running cjdns is not there, not 0.0.0.0:1"),
    ],
)
def test_the_interface_to_dial_over_is_that_of_the_file(told, problem):
    steps = live.plan(live.split(config_of()), live.split(ONE), [], [])
    assert live.interface_problem(steps, ONE, told) == problem
    assert live.interface_problem([], ONE, told) == ""
