# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import copy
import json
import os
import tempfile

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf, identity, keys, public
from ansible_collections.vdloo.mesh.plugins.modules import cjdns_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PRIVATE = "0b4eed1835d708a79914a8925e8d5fff706a5258dfb4826f56d4c29eaec7abc5"
ADMIN_PASSWORD = "k" * 40
SETTINGS = {
    "admin": {"bind": "127.0.0.1:11234"},
    "interfaces": {"UDPInterface": [{"bind": "0.0.0.0:4321", "connectTo": {}}, {"bind": "[::]:4321", "connectTo": {}}]},
    "router": {"dnsSeeds": [], "interface": {"type": "TUNInterface"}},
    "version": 2,
}


def good_keys():
    """Keys of nodes, each with an address that cjdns takes."""
    found, number = [], 1
    while len(found) < 4:
        private = f"{number:064x}"
        number += 1
        try:
            found.append(identity.from_private(private).public_key)
        except keys.KeyFormatError:
            continue
    return found


KEYS = good_keys()
NAMES = st.sampled_from(["vps1", "vps2", "pi", "Pi", "nas", "phone"])
PASSWORDS = st.text("abc123", min_size=1, max_size=8)
ADDRESSES = st.sampled_from(["192.0.2.1:4321", "192.0.2.2:1", "[2001:db8::1]:4321", "[2001:db8::2]:1"])
DIALS = st.lists(
    st.fixed_dictionaries(
        {
            "name": NAMES,
            "address": ADDRESSES,
            "public_key": st.sampled_from(KEYS),
            "login": st.sampled_from(["", "me"]),
            "password": PASSWORDS,
        }
    ),
    unique_by=lambda peer: peer["address"],
    max_size=4,
)
ACCEPTS = st.lists(
    st.fixed_dictionaries({"user": NAMES, "password": PASSWORDS}),
    max_size=4,
    unique_by=(lambda entry: entry["user"], lambda entry: entry["password"]),
)
EXTRAS = st.sampled_from(
    [{}, {"router": {"supernodes": []}}, {"noBackground": 1}, {"authorizedPasswords": []}, {"admin": {"bind": "127.0.0.1:9"}}]
)


class Node:
    """A node's file system, and what cjdns_config does to it."""

    def __init__(self, folder: str):
        self.folder, self.path, self.identity = folder, os.path.join(folder, "cjdroute.conf"), os.path.join(folder, "cjdns")
        os.mkdir(self.identity)
        for name, text in (("identity.json", identity.from_private(PRIVATE).to_json()), ("admin-password", ADMIN_PASSWORD + "\n")):
            with open(os.path.join(self.identity, name), "w", encoding="ascii") as file:
                file.write(text)

    def describe(self) -> dict:
        return public.describe(self.path, self.identity)

    def apply(self, config: dict, dials: list[dict], accepts: list[dict], check: bool = False) -> dict:
        """Run the module as the role does; return its result."""
        entries = sorted(accepts, key=lambda entry: entry["user"].lower())
        arguments = {
            "config": json.dumps({"authorizedPasswords": entries, **config}),
            "peers": [{**dial, "password": dial.get("password")} for dial in dials],
            "path": self.path,
            "identity_directory": self.identity,
            "cjdroute": "/bin/true",
            "previous_path": os.path.join(self.identity, "previous"),
            "started_path": os.path.join(self.folder, "started"),
            "_ansible_check_mode": check,
        }
        results = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cjdns_config.AnsibleModule, "exit_json", lambda _self, **result: results.append(result))
            # What the daemon says of a configuration is no matter here.
            patch.setattr(cjdns_config.AnsibleModule, "run_command", lambda _self, *_args, **_options: (0, "", ""))
            patch.setattr(cjdns_config.AnsibleModule, "fail_json", lambda _self, **result: pytest.fail(str(result)))
            with patch_module_args(arguments):
                cjdns_config.main()
        return results[0]


@pytest.fixture
def node(tmp_path):
    return Node(str(tmp_path))


def told(entries: list[dict]) -> list[dict]:
    """The same without the passwords, but for their digests."""
    return [
        {**{key: value for key, value in entry.items() if key != "password"}, "password_digest": public.digest(entry["password"])}
        for entry in entries
    ]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(DIALS, ACCEPTS, EXTRAS, DIALS, ACCEPTS, EXTRAS, st.booleans(), st.data())
def test_no_drift_is_told_exactly_when_the_module_would_change_nothing(dials, accepts, extra, dials2, accepts2, extra2, same, data):
    with tempfile.TemporaryDirectory() as folder:
        node = Node(folder)
        node.apply({**SETTINGS, **extra}, dials, accepts)
        assert public.drift(node.describe(), {**SETTINGS, **extra}, told(dials), told(accepts)) == []
        # As often as not all stays but for one part.
        if same:
            part = data.draw(st.sampled_from(["dials", "accepts", "extra"]))
            dials2 = dials2 if part == "dials" else dials
            accepts2 = accepts2 if part == "accepts" else accepts
            extra2 = extra2 if part == "extra" else extra
        # A listener that was not asked: the module gets no password, the plan no digest.
        unknown = data.draw(st.sets(st.sampled_from(KEYS)))
        asked = [{key: value for key, value in dial.items() if key != "password" or dial["public_key"] not in unknown} for dial in dials2]
        foreseen = [dict(entry) for entry in told(dials2)]
        for dial in foreseen:
            if dial["public_key"] in unknown:
                del dial["password_digest"]
        reasons = public.drift(node.describe(), {**SETTINGS, **extra2}, foreseen, told(accepts2))
        assert bool(reasons) == node.apply({**SETTINGS, **extra2}, asked, accepts2, check=True)["changed"], reasons
        for secret in {entry["password"] for entry in dials + accepts if len(entry["password"]) > 5}:
            assert secret not in json.dumps([node.describe(), reasons])


DIAL = {"name": "vps1", "address": "192.0.2.1:4321", "public_key": KEYS[0], "login": "", "password": "a-link-password"}
ACCEPT = {"user": "pi", "password": "a-password-of-pi"}


@pytest.mark.parametrize(
    ("config", "dials", "accepts", "reason"),
    [
        ({"noBackground": 1}, [DIAL], [ACCEPT], "cjdroute.conf, noBackground differs"),
        ({}, [], [ACCEPT], "vps1 at 192.0.2.1:4321 is dialled, but is no peer any more"),
        ({}, [DIAL, {**DIAL, "name": "vps2", "address": "192.0.2.9:1"}], [ACCEPT], "vps2 at 192.0.2.9:1 is not dialled"),
        ({}, [{**DIAL, "password": "another"}], [ACCEPT], "vps1 at 192.0.2.1:4321 is dialled with another name, key, login or password"),
        ({}, [DIAL], [], "pi is accepted, but is no peer any more"),
        ({}, [DIAL], [ACCEPT, {"user": "nas", "password": "x"}], "nas is not accepted"),
        ({}, [DIAL], [{**ACCEPT, "password": "another"}], "pi is accepted with another password"),
        ({"publicKey": KEYS[0]}, [DIAL], [ACCEPT], "cjdns_config must not set publicKey: the node has an identity of its own"),
        ({"interfaces": {}}, [], [ACCEPT], "cjdroute.conf, interfaces.UDPInterface differs"),
        ({"version": 2.0}, [DIAL], [ACCEPT], "the configuration of cjdns differs"),
    ],
)
def test_what_differs_is_named(node, config, dials, accepts, reason):
    node.apply(SETTINGS, [DIAL], [ACCEPT])
    reasons = public.drift(node.describe(), {**SETTINGS, **config}, told(dials), told(accepts))
    assert reason in reasons
    assert not any(secret in str(reasons) for secret in (DIAL["password"], ACCEPT["password"]))


def test_a_wish_that_cannot_be_fulfilled_is_a_reason_and_no_exception(node):
    node.apply(SETTINGS, [DIAL], [ACCEPT])
    for config, dial in (({**SETTINGS, "interfaces": []}, DIAL), (SETTINGS, {**DIAL, "address": "vps.example.org:1"})):
        assert public.drift(node.describe(), config, told([dial]), told([ACCEPT]))


def test_an_unknown_password_is_kept_but_an_unknown_user_is_missed(node):
    node.apply(SETTINGS, [DIAL], [ACCEPT])
    dial = {key: value for key, value in DIAL.items() if key != "password"}
    assert public.drift(node.describe(), SETTINGS, [dial], [{"user": "pi"}]) == []
    assert public.drift(node.describe(), SETTINGS, [dial], [{"user": "pi"}, {"user": "nas"}]) == ["nas is not accepted"]


def test_what_is_told_of_a_node_holds_no_secret_and_all_the_rest(node):
    node.apply(SETTINGS, [DIAL], [ACCEPT])
    described = node.describe()
    assert described["problem"] == ""
    assert described["dials"] == {
        "192.0.2.1:4321": {"public_key": KEYS[0], "password": public.digest("a-link-password"), "login": "", "peer_name": "vps1"}
    }
    assert described["accepts"] == {"pi": public.digest("a-password-of-pi")}
    assert described["config"]["admin"] == {"bind": "127.0.0.1:11234", "password": public.digest(ADMIN_PASSWORD)}
    for secret in (PRIVATE, ADMIN_PASSWORD, DIAL["password"], ACCEPT["password"]):
        assert secret not in json.dumps(described)


def test_a_secret_at_any_depth_and_of_any_type_is_hidden():
    hidden = public.without_secrets(
        {"a": [{"password": 12345, "privateKey": "geheim"}], "password": {"deep": "geheim"}, "b": 12345, "c": {"password": ""}}
    )
    assert hidden["b"] == 12345
    assert hidden["c"] == {"password": ""}
    assert "geheim" not in json.dumps(hidden)
    assert hidden["a"][0]["password"] not in (12345, public.digest("12345"))


def spoil(node, how):
    with open(node.path, encoding="ascii") as file:
        config = json.load(file)
    texts = {
        "compact": json.dumps(config),
        "not JSON": "{",
        "odd": conf.dump({**config, "interfaces": []}),
        "binary": None,
        "other key": conf.dump({**config, "publicKey": KEYS[0]}),
        "other password": conf.dump({**config, "admin": {**config["admin"], "password": "x"}}),
    }
    with open(node.path, "wb") as file:
        file.write(b"\xff\xfe" if texts[how] is None else texts[how].encode())


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("compact", "is not written as the role writes it"),
        ("not JSON", "is no configuration of cjdns"),
        ("odd", "is no configuration of cjdns"),
        ("binary", "cannot be read"),
        ("other key", "does not have the identity"),
        ("other password", "does not have the admin password"),
    ],
)
def test_a_file_that_will_be_written_anew_in_any_case_is_told(node, how, problem):
    node.apply(SETTINGS, [DIAL], [ACCEPT])
    spoil(node, how)
    described = node.describe()
    assert problem in described["problem"]
    assert public.drift(described, SETTINGS, told([DIAL]), told([ACCEPT])) == [described["problem"]]


def test_a_missing_file_a_damaged_identity_and_loose_modes_are_told(node):
    assert "is missing" in node.describe()["problem"]
    node.apply(SETTINGS, [], [])
    os.chmod(node.path, 0o644)
    assert "is not for root alone" in node.describe()["problem"]
    os.chmod(node.path, 0o600)
    os.unlink(os.path.join(node.identity, "admin-password"))
    assert "does not hold an identity and an admin password" in node.describe()["problem"]
    with open(os.path.join(node.identity, "identity.json"), "w", encoding="ascii") as file:
        file.write("{}")
    assert "cannot be read" in node.describe()["problem"]


def test_the_digests_of_a_listener_are_those_of_the_passwords_that_it_gives():
    secret = "0123456789abcdef" * 4
    assert public.derived(secret, KEYS[:2]) == {key: public.digest(keys.link_password(secret, key)) for key in KEYS[:2]}
    assert secret not in str(public.derived(secret, KEYS))


def test_the_comparison_changes_nothing_that_it_is_given(node):
    node.apply(SETTINGS, [DIAL], [ACCEPT])
    given_things = (node.describe(), copy.deepcopy(SETTINGS), told([DIAL]), told([ACCEPT]))
    before = copy.deepcopy(given_things)
    public.drift(*given_things)
    assert given_things == before
