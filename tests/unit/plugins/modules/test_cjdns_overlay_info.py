# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible_collections.vdloo.mesh.plugins.modules import cjdns_overlay_info

ADDRESS = "fcea:4775:eacd:7c3b:6fbc:c02b:43d6:53e1"
TABLE = """\
00000000000000000000000000000001 01 80 10 80       lo
fcea4775eacd7c3b6fbcc02b43d653e1 02 08 00 {flags}     tun0
fe800000000000009cf0a3bf4252edbb 02 40 20 80     tun0
"""


def test_the_interface_of_the_address_is_found():
    assert cjdns_overlay_info.usable_interface(TABLE.format(flags="80"), ADDRESS) == "tun0"


@pytest.mark.parametrize("flags", ["c0", "40", "88"])
def test_an_address_that_is_still_being_checked_or_was_refused_is_not_up(flags):
    assert cjdns_overlay_info.usable_interface(TABLE.format(flags=flags), ADDRESS) == ""


def test_an_address_that_is_not_there_is_not_up():
    assert cjdns_overlay_info.usable_interface(TABLE.format(flags="80"), "fcea::1") == ""
    assert cjdns_overlay_info.usable_interface("", ADDRESS) == ""


@pytest.mark.parametrize(
    ("state", "deaths", "reason"),
    [
        ({"ActiveState": "active"}, 0, "no interface has the address"),
        ({"ActiveState": "active"}, 3, "the service ended 3 times while it was waited for"),
        ({"ActiveState": "failed", "SubState": "failed", "ExecMainStatus": "209"}, 0, "its last exit code was 209"),
    ],
)
def test_the_reason_is_told(monkeypatch, state, deaths, reason):
    monkeypatch.setattr(cjdns_overlay_info.os.path, "exists", lambda path: True)
    monkeypatch.setattr(cjdns_overlay_info, "read_or_empty", lambda path: "0\n")
    assert len(cjdns_overlay_info.reasons(state, deaths, "")) == 1
    assert reason in cjdns_overlay_info.reasons(state, deaths, "")[0]


def test_a_machine_without_tun_and_ipv6_is_told(monkeypatch):
    monkeypatch.setattr(cjdns_overlay_info.os.path, "exists", lambda path: False)
    monkeypatch.setattr(cjdns_overlay_info, "read_or_empty", lambda path: "1\n")
    text = "; ".join(cjdns_overlay_info.reasons({"ActiveState": "active"}, 0, "eth0"))
    assert "/dev/net/tun is missing" in text
    assert "IPv6 is disabled" in text
    assert "eth0, which is not a TUN interface" in text


def test_the_secrets_of_the_configuration_are_known_for_masking(tmp_path):
    path = tmp_path / "cjdroute.conf"
    path.write_text('{"privateKey": "a", "admin": {"password": "b"}}')
    assert cjdns_overlay_info.config_secrets(str(path)) == {"a", "b"}
    path.write_text("{")
    assert cjdns_overlay_info.config_secrets(str(path)) == set()
    assert cjdns_overlay_info.config_secrets(str(tmp_path / "missing")) == set()
