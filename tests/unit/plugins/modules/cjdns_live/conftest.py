# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf
from ansible_collections.vdloo.mesh.plugins.modules import cjdns_live


@pytest.fixture
def active(monkeypatch):
    """A systemctl that says what a test puts here."""
    told = ["ActiveState=active\n"]
    monkeypatch.setattr(cjdns_live.AnsibleModule, "get_bin_path", lambda _self, name, **_options: name)
    monkeypatch.setattr(cjdns_live.AnsibleModule, "run_command", lambda _self, command: (0, told[0], ""))
    return told


@pytest.fixture
def warnings(monkeypatch):
    told = []
    monkeypatch.setattr(cjdns_live.AnsibleModule, "warn", lambda _self, text: told.append(text))
    return told


@pytest.fixture
def run(capsys, active):
    """run(host) is the result of the module on that host; no secret is in it."""

    def run(host, check=False, **options):
        arguments = {"config_path": str(host.node.path), "started_path": str(host.started), **options}
        with patch_module_args({**arguments, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit):
            cjdns_live.main()
        output = capsys.readouterr().out
        for secret in conf.secrets(host.wished) | conf.secrets(host.node.config):
            assert secret not in output
        return json.loads(output)

    return run
