# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import errno
import json
import os

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.modules import overlay_support


@pytest.fixture
def device(tmp_path):
    return str(tmp_path / "net" / "tun")


def test_a_missing_device_that_may_not_be_made_is_told_of(device, monkeypatch):
    def refuse(*_arguments):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "mknod", refuse)
    with pytest.raises(overlay_support.SupportError, match="may not be created here .*--device /dev/net/tun"):
        overlay_support.provide_tun(device, check_mode=False)


def test_check_mode_makes_no_device(device):
    assert overlay_support.provide_tun(device, check_mode=True) == [f"created {device}"]
    assert not os.path.exists(os.path.dirname(device))


def test_something_else_in_its_place_is_left_alone(device):
    os.makedirs(os.path.dirname(device))
    with open(device, "w", encoding="utf-8") as file:
        file.write("precious")
    with pytest.raises(overlay_support.SupportError, match="is not the TUN device"):
        overlay_support.provide_tun(device, check_mode=False)
    with open(device, encoding="utf-8") as file:
        assert file.read() == "precious"


@pytest.mark.parametrize(("number", "told"), [(errno.ENODEV, "no TUN driver"), (errno.EPERM, "cannot be opened")])
def test_a_device_that_does_not_open_is_removed_again_if_it_was_made_here(device, monkeypatch, number, told):
    def pretend(path, *_arguments):
        with open(path, "w", encoding="utf-8"):
            pass

    def refuse(*_arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mknod", pretend)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(overlay_support.SupportError, match=told):
        overlay_support.provide_tun(device, check_mode=False)
    assert not os.path.exists(device)


def test_a_kernel_without_ipv6_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(overlay_support, "IPV6_DEFAULT", str(tmp_path / "missing"))
    with pytest.raises(overlay_support.SupportError, match="without IPv6"):
        overlay_support.provide_ipv6(check_mode=False)


def test_ipv6_is_allowed_where_it_is_off(tmp_path, monkeypatch):
    for name, content in (("IPV6_DEFAULT", "1\n"), ("IPV6_LOOPBACK", "0\n")):
        (tmp_path / name).write_text(content)
        monkeypatch.setattr(overlay_support, name, str(tmp_path / name))
    assert overlay_support.provide_ipv6(check_mode=True) == ["allowed IPv6 on new interfaces"]
    assert (tmp_path / "IPV6_DEFAULT").read_text() == "1\n"
    assert overlay_support.provide_ipv6(check_mode=False) == ["allowed IPv6 on new interfaces"]
    assert overlay_support.provide_ipv6(check_mode=False) == []


@pytest.mark.parametrize(("found", "told"), [("/sbin/ip", "/sbin/ip"), (None, "")])
def test_the_module_tells_whether_the_node_has_ip(capsys, monkeypatch, found, told):
    monkeypatch.setattr(overlay_support, "provide_tun", lambda *_arguments: [])
    monkeypatch.setattr(overlay_support, "provide_ipv6", lambda check_mode: [])
    monkeypatch.setattr(overlay_support.AnsibleModule, "get_bin_path", lambda _self, name, **_options: found)
    with patch_module_args({}), pytest.raises(SystemExit):
        overlay_support.main()
    assert json.loads(capsys.readouterr().out)["ip"] == told
