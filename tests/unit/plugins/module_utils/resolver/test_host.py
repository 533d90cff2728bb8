# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import host
from houses import UPSTREAM, plain


def test_to_look_at_a_host_takes_one_small_file():
    """Every node compiles it on every run."""
    imported = set()
    for node in ast.parse(Path(host.__file__).read_text()).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imported.add(node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
    assert imported == {"__future__", "contextlib", "json", "os"}


def test_a_host_can_be_looked_at_without_what_changes_it(any_house):
    found = host.Resolver(None, str(any_house.root), any_house)
    before, manager = any_house.snapshot(), found.detect()
    assert (found.handed_over(), found.stored()) == (False, {})
    assert any_house.snapshot() == before
    any_house.hand_over()
    found = host.Resolver(None, str(any_house.root), any_house)
    assert (found.handed_over(), found.detect(), found.stored()["manager"]) == (True, manager, manager)


def test_a_file_that_names_another_server_too_is_not_ours(house):
    plain(house)
    house.hand_over()
    house.write(host.RESOLV_CONF, house.text(host.RESOLV_CONF) + f"nameserver {UPSTREAM}\n")
    found = host.Resolver(None, str(house.root), house)
    assert (found.ours(), found.handed_over()) == (False, False)


def test_a_link_that_leads_back_to_itself_is_named(house):
    (house.root / "etc").mkdir(exist_ok=True)
    (house.root / "etc" / "resolv.conf").symlink_to("resolv.conf")
    with pytest.raises(host.ResolverError, match=r"/etc/resolv\.conf is a link that leads back to itself"):
        house.resolver().detect()


def test_a_stub_address_without_resolved_is_a_plain_file(house):
    house.write(host.RESOLV_CONF, "nameserver 127.0.0.53\n")
    assert house.resolver().detect() == "static"


def test_the_drop_in_for_resolved_is_read_last():
    assert sorted(["zz-dnsmasq-mesh.conf", "99-vpn.conf", "upstream.conf"])[-1] == os.path.basename(host.RESOLVED_DROPIN)


def test_damaged_settings_are_named(house):
    house.write(host.SETTINGS, "{")
    with pytest.raises(host.ResolverError, match=r"handover\.json is damaged"):
        house.stored_resolver()


def test_the_machine_runs_a_command_and_tells_how_it_ended():
    machine = host.Machine()
    assert machine.run("sh", "-c", "echo one; echo two >&2; exit 3") == (3, "one\ntwo")
    assert machine.run("no-such-command-here")[0] == 127
