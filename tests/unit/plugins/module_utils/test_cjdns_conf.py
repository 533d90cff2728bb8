# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import copy
import json

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf
from hypothesis import given
from hypothesis import strategies as st

KEY = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"
OTHER_KEY = "u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k"
PASSWORD = "r62c36to13p5ua5vc5a9xfiqge58rdi0"
CONFIG = {
    "admin": {"bind": "127.0.0.1:11234"},
    "authorizedPasswords": [{"user": "phone", "password": "one"}, {"user": "nas", "password": "two"}],
    "interfaces": {"UDPInterface": [{"bind": "0.0.0.0:4321", "connectTo": {}}, {"bind": "[::]:4321", "connectTo": {}}]},
    "router": {"dnsSeeds": [], "interface": {"type": "TUNInterface"}},
    "security": [{"setuser": "nobody", "keepNetAdmin": 1}],
    "version": 2,
}


def peer(**changes):
    return {"name": "vps1", "address": "192.0.2.1:4321", "public_key": KEY, "password": PASSWORD, "login": None, **changes}


def changed(path, value):
    """CONFIG with one value changed; the path is written as cjdroute.conf nests it."""
    config = copy.deepcopy(CONFIG)
    *parents, last = path
    place = config
    for key in parents:
        place = place[key]
    place[last] = value
    return config


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("192.0.2.1:4321", (4, "192.0.2.1", 4321)),
        ("[2001:db8::1]:1", (6, "2001:db8::1", 1)),
        ("[fd00::1]:65535", (6, "fd00::1", 65535)),
    ],
)
def test_a_literal_endpoint_is_split(text, parts):
    assert conf.split_endpoint(text) == parts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("vps.example.org:4321", "no host names"),
        ("localhost:4321", "no host names"),
        ("192.0.2.1", "IP:PORT"),
        ("192.0.2.1:", "IP:PORT"),
        ("192.0.2.1:0", "from 1 to 65535"),
        ("192.0.2.1:65536", "from 1 to 65535"),
        ("192.0.2.1:+80", "from 1 to 65535"),
        ("192.0.2.1:80 ", "from 1 to 65535"),
        ("192.0.2.256:80", "no host names"),
        ("2001:db8::1:4321", "in brackets"),
        ("[192.0.2.1]:4321", "in brackets"),
        ("[fe80::1%eth0]:4321", "zone|no host names"),
        ("0.0.0.0:4321", "not the address of one machine"),
        ("[ff02::1]:4321", "not the address of one machine"),
        ("[fc00::1]:4321", "overlay address"),
        ("", "IP:PORT"),
    ],
)
def test_any_other_endpoint_is_refused_with_advice(text, reason):
    with pytest.raises(conf.ConfError, match=reason):
        conf.split_endpoint(text)


def test_good_peers_pass():
    peers = [peer(), peer(name="vps2", address="[2001:db8::1]:4321", public_key=OTHER_KEY, login="nas")]
    assert conf.check_peers(peers) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"address": "vps.example.org:4321"}, "address 'vps.example.org:4321' cannot be used: cjdns takes no host names"),
        ({"public_key": "abc.k"}, "public_key 'abc.k' cannot be used: a public key has 52 characters"),
        ({"public_key": OTHER_KEY}, "a node cannot be its own peer"),
        ({"public_key": OTHER_KEY.upper().replace(".K", ".k")}, "a node cannot be its own peer"),
        ({"password": ""}, "password is empty"),
        ({"password": 'a"b'}, "password holds a character that cjdns cannot read"),
        ({"name": "café"}, "name holds a character that cjdns cannot read"),
        ({"login": "a\\b"}, "login holds a character that cjdns cannot read"),
    ],
)
def test_a_bad_peer_is_named_with_what_is_wrong(changes, reason):
    bad = peer(**changes)
    problems = conf.check_peers([bad], OTHER_KEY)
    assert len(problems) == 1
    assert problems[0].startswith(f"cjdns_peers, {bad['name']}: ")
    assert reason in problems[0]


def test_two_peers_cannot_have_one_address():
    problems = conf.check_peers([peer(), peer(name="vps2", public_key=OTHER_KEY)])
    assert problems == ["cjdns_peers, vps2: address 192.0.2.1:4321 is also that of vps1: keep one of the two"]


def test_each_peer_goes_to_the_interface_of_its_family():
    placed = conf.place_peers(CONFIG, [peer(), peer(name="vps2", address="[2001:db8::1]:4321", login="nas")])
    four, six = placed["interfaces"]["UDPInterface"]
    assert four["connectTo"] == {"192.0.2.1:4321": {"password": PASSWORD, "peerName": "vps1", "publicKey": KEY}}
    assert six["connectTo"] == {"[2001:db8::1]:4321": {"login": "nas", "password": PASSWORD, "peerName": "vps2", "publicKey": KEY}}
    assert CONFIG["interfaces"]["UDPInterface"][0]["connectTo"] == {}, "the configuration given is left as it was"
    assert conf.check(placed) == []


def test_the_order_of_the_peers_does_not_show():
    peers = [peer(name=f"p{number}", address=f"192.0.2.{number}:4321") for number in range(1, 9)]
    assert conf.dump(conf.place_peers(CONFIG, peers)) == conf.dump(conf.place_peers(CONFIG, peers[::-1]))


def test_a_peer_without_an_interface_is_refused():
    config = changed(["interfaces", "UDPInterface"], [{"bind": "0.0.0.0:4321"}])
    with pytest.raises(conf.ConfError, match="vps2: .* is IPv6, but .* no UDP interface for it"):
        conf.place_peers(config, [peer(name="vps2", address="[2001:db8::1]:4321")])


def test_a_good_configuration_passes():
    assert conf.check(CONFIG) == []


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (changed(["noBackground"], True), "noBackground is true: cjdns knows no booleans, write 1 or 0"),
        (changed(["router", "dnsSeeds"], None), "router.dnsSeeds has no value"),
        (changed(["security", 0, "keepNetAdmin"], 1.5), "security[0].keepNetAdmin has a fraction"),
        (changed(["version"], -1), "version is -1"),
        (changed(["version"], 2**63), f"version is {2**63}"),
        (changed(["admin", "bind"], 'a"b'), "admin.bind holds a character"),
        (changed(["admin", "bind"], "a\\x41"), "admin.bind holds a character"),
        (changed(["admin", "bind"], "a\r"), "admin.bind holds a character"),
        (changed(["router", "é"], 1), "the key 'é' in router holds a character"),
        (changed(["admin"], {}), "admin.bind is missing"),
        (changed(["admin", "password"], "x" * 54), "admin.password has more than 53 characters"),
        (changed(["interfaces"], []), "interfaces is not a dict"),
        (changed(["interfaces", "UDPInterface", 0], "x"), "UDPInterface[0] is not a dict"),
        (changed(["authorizedPasswords"], ["x"]), "authorizedPasswords[0] is not a dict"),
        (changed(["authorizedPasswords", 1, "password"], ""), "cjdns_authorized_passwords, nas: password is empty"),
        (changed(["authorizedPasswords", 1, "password"], "one"), "nas: the password is also that of phone"),
        (changed(["authorizedPasswords", 1, "user"], "phone"), "phone: the user is named twice"),
        (
            changed(["interfaces", "UDPInterface", 1, "connectTo"], {"192.0.2.1:1": {"publicKey": KEY, "password": "x"}}),
            "is IPv4, but this",
        ),
        (changed(["interfaces", "UDPInterface", 0, "connectTo"], {"web:1": {"publicKey": KEY, "password": "x"}}), "no host names"),
        (changed(["interfaces", "UDPInterface", 0, "connectTo"], {"192.0.2.1:1": {"publicKey": KEY}}), "password is missing"),
        (changed(["interfaces", "UDPInterface", 0, "connectTo"], {"192.0.2.1:1": {"password": "x"}}), "publicKey None cannot be used"),
        (
            changed(["interfaces", "UDPInterface", 0, "connectTo"], {"192.0.2.1:1": {"publicKey": KEY, "password": "x", "gpg": "y"}}),
            "gpg is not one of login, password, peerName, publicKey",
        ),
    ],
)
def test_what_the_daemon_would_die_of_is_found(config, reason):
    problems = conf.check(config)
    assert len(problems) == 1
    assert reason in problems[0]


def test_an_entry_is_as_long_as_the_request_that_cjdns_sends():
    entry = {"login": "nas", "password": PASSWORD, "peerName": "vps1", "publicKey": KEY}
    request = (
        "d2:aq28:UDPInterface_beginConnection4:argsd7:address14:192.0.2.1:432115:interfaceNumberi10e5:login3:nas"
        f"8:password32:{PASSWORD}8:peerName4:vps19:publicKey54:{KEY}e"
        f"6:cookie10:17000000004:hash64:{'0' * 64}1:q4:auth4:txid16:{'0' * 16}e"
    )
    assert conf.connect_request_length("192.0.2.1:4321", entry) == len(request)


def test_an_entry_too_long_for_the_daemon_is_refused_one_byte_over():
    room = conf.REQUEST_LIMIT - conf.connect_request_length("192.0.2.1:4321", conf_entry("n" * 100)) + 100
    for length, fits in ((room, True), (room + 1, False)):
        problems = conf.check(conf.place_peers(CONFIG, [peer(name="n" * length)]))
        assert (problems == []) is fits
    assert "1 bytes too long for cjdns: use a shorter name" in problems[0]


def conf_entry(name):
    return {"password": PASSWORD, "peerName": name, "publicKey": KEY}


def test_secrets_are_found_and_masked_wherever_they_are():
    config = conf.place_peers(dict(CONFIG, privateKey="5" * 64), [peer()])
    config["admin"]["password"] = "adminsecret"
    secrets = {"5" * 64, "adminsecret", "one", "two", PASSWORD}
    assert conf.secrets(config) == secrets
    text = conf.dump(conf.masked(config, {"one", "5" * 64}))
    assert not any(secret in text for secret in secrets - {"one", "two"})
    shown = json.loads(text)
    assert [entry["password"] for entry in shown["authorizedPasswords"]] == ["(secret)", "(new secret)"]
    assert shown["privateKey"] == "(secret)"
    assert conf.mask_text("key adminsecret of adminsecret2", {"adminsecret", "adminsecret2", ""}) == "key (secret) of (secret)"


def test_a_key_is_found_between_comments_but_not_inside_them():
    text = '{ // "privateKey": "old"\n /* "privateKey":\n "older" */ "privateKey" :\n "new", "url": "http://x" }'
    assert conf.private_key_of(text) == "new"
    assert conf.private_key_of('{ // "privateKey": "old"\n}') is None
    with pytest.raises(conf.ConfError, match="more than one"):
        conf.private_key_of('{"privateKey": "a", "privateKey": "b"}')


@given(st.recursive(st.integers(0, 9) | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_stripping_comments_leaves_json_as_it_means(value):
    assert json.loads(conf.strip_comments(json.dumps(value))) == value
