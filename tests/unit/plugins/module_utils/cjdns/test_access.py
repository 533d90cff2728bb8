# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import access, admin, conf


def params(path, **given):
    return {"admin_host": None, "admin_port": None, "admin_password": None, "config_path": str(path), **given}


@pytest.mark.parametrize(
    ("bind", "host", "port"),
    [
        ("127.0.0.1:11234", "127.0.0.1", 11234),
        ("0.0.0.0:1", "127.0.0.1", 1),
        ("[::1]:65535", "::1", 65535),
        ("[::]:11234", "::1", 11234),
        ("10.0.0.1:11234", "10.0.0.1", 11234),
    ],
)
def test_the_admin_interface_is_found_in_a_configuration_with_comments(bind, host, port):
    text = '{ // the daemon\n "admin": {"bind": "BIND", /* a // secret */ "password": "s"}, "privateKey": "x" }'
    assert access.parse(text.replace("BIND", bind)) == (host, port, "s")


def test_a_configuration_without_a_password_tells_none():
    assert access.parse('{"admin": {"bind": "127.0.0.1:11234"}}').password == ""


@pytest.mark.parametrize(
    "config",
    [
        [],
        "text",
        {},
        {"admin": []},
        {"admin": {}},
        {"admin": {"bind": 1}},
        {"admin": {"bind": "localhost:1"}},
        {"admin": {"bind": "127.0.0.1"}},
        {"admin": {"bind": "127.0.0.1:0"}},
        {"admin": {"bind": "127.0.0.1:70000"}},
        {"admin": {"bind": "::1:11234"}},
        {"admin": {"bind": "127.0.0.1:1", "password": 5}},
    ],
)
def test_a_configuration_without_an_admin_interface_is_refused(config):
    with pytest.raises(conf.ConfError, match="holds no admin interface"):
        access.parse(json.dumps(config))


def test_options_come_before_the_configuration(tmp_path):
    path = tmp_path / "cjdroute.conf"
    path.write_text('{"admin": {"bind": "127.0.0.1:5", "password": "s"}}')
    assert access.find(params(path)) == ("127.0.0.1", 5, "s")
    assert access.find(params(path, admin_port=6)) == ("127.0.0.1", 6, "s")
    assert access.find(params(path, admin_host="::1", admin_password="")) == ("::1", 5, "")


def test_without_a_configuration_the_usual_place_is_asked_without_a_password(tmp_path):
    assert access.find(params(tmp_path / "none")) == ("127.0.0.1", 11234, "")


def test_a_configuration_of_root_tells_others_nothing(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError

    monkeypatch.setattr(access, "open", refuse, raising=False)
    assert access.find(params(tmp_path / "cjdroute.conf", admin_port=5)) == ("127.0.0.1", 5, "")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"admin": {}}'])
def test_a_configuration_that_cannot_be_read_is_told_unless_it_is_not_needed(tmp_path, content):
    path = tmp_path / "cjdroute.conf"
    path.write_bytes(content)
    with pytest.raises(conf.ConfError, match=r"cjdroute.conf does not tell .*: set admin_host, admin_port and admin_password"):
        access.find(params(path))
    assert access.find(params(path, admin_host="h", admin_port=1, admin_password="p")) == ("h", 1, "p")


def test_a_directory_in_place_of_the_configuration_is_told(tmp_path):
    with pytest.raises(conf.ConfError, match="does not tell"):
        access.find(params(tmp_path))


def test_what_to_look_at_is_said_of_silence_only():
    assert access.explain(admin.AdminError("no reply"), "x.service") == (
        "no reply\nLook at the service: systemctl status x.service; journalctl --unit x.service"
    )
    assert access.explain(admin.AdminError("refused", "bad key"), "x.service") == "refused"
