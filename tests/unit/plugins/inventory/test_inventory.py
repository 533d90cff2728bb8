# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import os
import shlex
import socket
import stat
import time

import pytest
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible.vars.manager import VariableManager
from ansible_collections.vdloo.mesh.plugins.module_utils import digest
from fake_mesh import ADDRESS, KEYS, free_port, record


def groups(inventory):
    return {name: sorted(hosts) for name, hosts in inventory.get_groups_dict().items() if hosts and name not in ("all", "ungrouped")}


def variables(inventory, name):
    return inventory.get_host(name).get_vars()


def test_all_sources_give_hosts_groups_and_variables(load, warnings):
    inventory = load()
    assert warnings == []
    assert groups(inventory) == {
        "mesh": ["n1", "n2", "n3"],
        "consul_servers": ["n1", "n2"],
        "consul_clients": ["n3"],
        "service_web": ["n1", "n2"],
    }
    found = {name: value for name, value in variables(inventory, "n3").items() if name.startswith(("mesh_", "ansible_"))}
    assert found == {
        "ansible_host": ADDRESS["n3"],
        "ansible_user": "root",
        "ansible_port": 2222,
        "mesh_address": ADDRESS["n3"],
        "mesh_public_key": KEYS["n3"],
        "mesh_status": "alive",
        "mesh_consul_status": "alive",
        "mesh_cjdns_state": found["mesh_cjdns_state"],
        "mesh_conflicts": found["mesh_conflicts"],
        "mesh_role": "client",
        "mesh_site": "cellar",
        "mesh_zones": [],
        "mesh_endpoints": [],
        "mesh_arch": "x86_64",
        "mesh_peers": [],
        "mesh_services": {},
        "mesh_sources": ["cjdns", "consul", "kv", "registry"],
        "mesh_state": "member",
        "mesh_server_eligible": True,
        "mesh_converged": "",
    }
    assert "ansible_port" not in variables(inventory, "n1")


def test_a_node_that_does_not_answer_is_in_no_group_that_a_play_would_wait_for(load, consul):
    consul.members[1]["Status"] = 4
    assert groups(load()) == {
        "mesh": ["n1", "n3"],
        "mesh_unreachable": ["n2"],
        "consul_servers": ["n1"],
        "consul_clients": ["n3"],
        "service_web": ["n1"],
    }


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"consul_addr": "127.0.0.1:1"}, "without Consul:"),
        ({"cjdns_addr": "127.0.0.1:1"}, "without cjdns:"),
        ({"registry_file": "/nonexistent/registry.json"}, "without the registry file: /nonexistent/registry.json"),
    ],
)
def test_one_dead_source_is_one_warning_that_names_it(load, warnings, options, named):
    inventory = load(**options)
    assert sorted(inventory.hosts) == ["n1", "n2", "n3"]
    assert len(warnings) == 1 and named in warnings[0]


def test_with_no_source_left_the_error_lists_what_was_tried_and_what_to_do(load):
    with pytest.raises(AnsibleError) as raised:
        load(consul_addr="127.0.0.1:1", cjdns_addr="127.0.0.1:2", registry_file="/nonexistent")
    for part in ("127.0.0.1:1", "127.0.0.1:2", "/nonexistent", "systemctl status cjdns consul", "bootstrap", "-i inventory/hosts.yml"):
        assert part in str(raised.value)


def test_sources_that_answer_but_know_nobody_are_an_error_too(load, consul, registry_file):
    consul.members, consul.kv, consul.services = [], {}, {}
    registry_file.write_text("{}")
    with pytest.raises(AnsibleError, match="it knows of no node"):
        load(sources=["consul", "registry"])


def test_without_a_leader_everything_is_still_told(load, consul, warnings):
    consul.leader = False
    assert groups(load())["service_web"] == ["n1", "n2"]
    assert warnings == []


def test_an_agent_without_its_servers_tells_its_members_and_what_is_missing_is_named(load, consul, warnings):
    consul.raw = {"/v1/catalog/services": b"oops", "/v1/kv/vdloo-mesh/v1/": b"oops"}
    assert groups(load())["mesh"] == ["n1", "n2", "n3"]
    assert len(warnings) == 2
    assert "without Consul's services" in "".join(warnings) and "without the registry in Consul" in "".join(warnings)


def test_a_source_that_hangs_costs_its_time_and_no_more(load, consul, warnings):
    consul.delay = 30
    start = time.monotonic()
    assert sorted(load(timeout=1).hosts) == ["n1", "n2", "n3"]
    assert time.monotonic() - start < 4
    assert len(warnings) == 1 and "without Consul" in warnings[0]


def test_only_what_hangs_is_missing(load, consul, warnings):
    consul.hanging = "/v1/agent/self", "/v1/catalog/services", "/v1/kv/vdloo-mesh/v1/"
    inventory = load(timeout=1)
    assert groups(inventory)["mesh"] == ["n1", "n2", "n3"]
    assert variables(inventory, "n1")["mesh_consul_status"] == "alive"
    assert len(warnings) == 2


def test_a_reply_of_ten_megabytes_hides_nobody(load, consul, warnings):
    consul.raw = {"/v1/agent/members": b"[" + b" " * 10 * 1024 * 1024 + b"]"}
    assert sorted(load().hosts) == ["n1", "n2", "n3"]
    assert "longer than" in warnings[0]


def test_a_value_that_is_too_long_costs_only_itself(load, consul, warnings, registry_file):
    registry_file.write_text("{}")
    consul.kv.update({f"vdloo-mesh/v1/registry/evil-{number}": "x" * 500_000 for number in range(15)})
    inventory = load(sources=["consul"])
    assert sorted(inventory.hosts) == ["n1", "n2", "n3"]
    assert variables(inventory, "n1")["mesh_sources"] == ["consul", "kv"]
    assert "'vdloo-mesh/v1/registry/evil-0' was left out" in "".join(warnings)


def test_what_the_network_says_is_never_a_template(load, consul, registry_file, tmp_path):
    evil = "{{ lookup('ansible.builtin.pipe', 'touch " + str(tmp_path / "executed") + "') }}"
    consul.members.append(consul.member(evil))
    consul.members.append(consul.member("n4", address="fc00::4", tags={"role": evil}))
    consul.services[evil] = {"n1": "passing"}
    consul.services["web"]["n1"] = evil
    consul.kv["vdloo-mesh/v1/registry/n1"] = json.dumps(record("n1", site=evil, arch=evil, version=5))
    consul.kv["vdloo-mesh/v1/registry/n2"] = json.dumps(record("n2", site=evil, version=5))
    inventory = load(keyed_groups=[{"key": "mesh_site", "prefix": "site"}], compose={"here": "mesh_site ~ '!'"})
    assert sorted(inventory.hosts) == ["n1", "n2", "n3", "n4"]
    loader = DataLoader()
    manager = InventoryManager(loader=loader, parse=False)
    manager._inventory = inventory
    every = VariableManager(loader=loader, inventory=manager).get_vars(host=inventory.get_host("n2"))
    assert Templar(loader=loader, variables=every).template(every["mesh_site"]) == evil
    assert every["here"] == evil + "!"
    assert not (tmp_path / "executed").exists()


def test_a_cache_is_used_flushed_and_never_answers_another_question(load, consul, tmp_path):
    options = {
        "cache": True,
        "cache_plugin": "ansible.builtin.jsonfile",
        "cache_connection": str(tmp_path / "cache"),
        "sources": ["consul"],
    }
    first = groups(load(**options))
    asked = len(consul.calls)
    consul.members[1]["Status"] = 4
    assert groups(load(**options)) == first
    assert len(consul.calls) == asked
    # What only shapes the result needs no new answers.
    assert groups(load(keyed_groups=[{"key": "mesh_role", "prefix": "role"}], **options))["role_server"] == ["n1", "n2"]
    assert len(consul.calls) == asked
    assert groups(load(use_cache=False, **options))["mesh_unreachable"] == ["n2"]
    asked = len(consul.calls)
    assert "mesh_unreachable" in groups(load(**options))
    assert len(consul.calls) == asked
    load(**{**options, "sources": ["consul", "registry"]})
    assert len(consul.calls) > asked


def test_the_cache_holds_no_token(load, consul, tmp_path):
    consul.token = "s3cret-token"
    options = {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(tmp_path / "cache")}
    assert variables(load(consul_token="s3cret-token", **options), "n1")["mesh_consul_status"] == "alive"
    files = [path.read_text() for path in (tmp_path / "cache").iterdir()]
    assert files and not any("s3cret-token" in text for text in files)


def test_a_wrong_token_is_told_and_never_shown(load, consul, warnings):
    consul.token = "right"
    load(consul_token="wr0ng-token")
    assert len(warnings) == 1 and "403" in warnings[0] and "wr0ng" not in warnings[0]


def test_the_users_groups_and_variables_are_made(load):
    inventory = load(
        keyed_groups=[{"key": "mesh_site", "prefix": "site"}, {"key": "mesh_arch", "prefix": "arch"}],
        groups={"serving": "mesh_services | length > 0"},
        compose={"ansible_user": "'admin'", "where": "mesh_site | upper"},
        strict=True,
    )
    found = groups(inventory)
    assert (found["site_attic"], found["site_cellar"], found["serving"]) == (["n1"], ["n2", "n3"], ["n1", "n2"])
    assert (variables(inventory, "n1")["ansible_user"], variables(inventory, "n1")["where"]) == ("admin", "ATTIC")


def test_a_condition_that_is_none_is_an_error_when_strict_and_else_warned_of_once(load, warnings):
    with pytest.raises(AnsibleError, match="serving"):
        load(groups={"serving": "mesh_services"}, strict=True)
    warnings.clear()
    inventory = load(groups={"serving": "mesh_services", "undefined": "no_such_variable == 1"})
    assert "serving" not in groups(inventory)
    assert len(warnings) == 1 and "the group serving stays empty, as 'mesh_services' gives neither true nor false" in warnings[0]


def test_ssh_is_told_the_host_keys_in_a_file_of_its_own(load, tmp_path):
    inventory = load()
    files = list((tmp_path / "home/.ansible/vdloo-mesh").iterdir())
    assert len(files) == 1 and stat.S_IMODE(files[0].stat().st_mode) == 0o600
    key = record("n1")["ssh"]["host_key"]
    assert files[0].read_text().splitlines() == [f"{ADDRESS['n1']} {key}", f"{ADDRESS['n2']} {key}", f"[{ADDRESS['n3']}]:2222 {key}"]
    arguments = inventory.groups["mesh"].get_vars()["ansible_ssh_common_args"]
    assert arguments == f"-o 'GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts \"{files[0]}\"'"


def test_a_known_hosts_file_that_cannot_be_written_is_a_warning(load, warnings, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert sorted(load(known_hosts=str(tmp_path / "file" / "known_hosts")).hosts) == ["n1", "n2", "n3"]
    assert len(warnings) == 1 and "could not be kept" in warnings[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"consul_addr": "ftp://x"}, "consul_addr: 'ftp://x'"),
        ({"cjdns_addr": "somewhere"}, "cjdns_addr: 'somewhere'"),
        ({"timeout": 0}, "timeout: 0 is no time"),
        ({"sources": []}, "sources: it is empty"),
        ({"sources": ["zerotier"]}, "zerotier"),
        ({"bootstrap": ["-oProxyCommand=id"]}, "'-oProxyCommand=id' is no SSH destination"),
        ({"groups": "no dictionary"}, "groups"),
    ],
)
def test_an_option_that_cannot_be_right_is_named(load, options, told):
    with pytest.raises(AnsibleError) as raised:
        load(**options)
    assert told in str(raised.value)


def test_only_files_that_are_named_so_are_taken(load, tmp_path):
    load()
    (tmp_path / "test.mesh.yml").rename(tmp_path / "other.yml")
    from ansible.plugins.loader import inventory_loader

    plugin = inventory_loader.get("vdloo.mesh.mesh")
    assert not plugin.verify_file(str(tmp_path / "other.yml"))


def test_consul_is_found_by_its_own_environment_variables_and_the_file_counts_more(load, consul, monkeypatch):
    consul.token = "of-the-environment"
    monkeypatch.setenv("CONSUL_HTTP_ADDR", f"http://{consul.addr}")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "of-the-environment")
    assert variables(load(consul_addr=None), "n1")["mesh_consul_status"] == "alive"
    assert variables(load(consul_addr=f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"), "n1")["mesh_consul_status"] == ""


def test_from_outside_a_bootstrap_node_is_asked_and_jumped_through(load, tmp_path, monkeypatch, warnings):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text("""#!/bin/sh
case $* in *dead*) echo "no route to dead" >&2; exit 255 ;; esac
for command; do :; done
exec sh -c "$command"
""")
    (tmp_path / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    inventory = load(bootstrap=["root@dead", "admin@192.0.2.1:2222"], bootstrap_ssh_args="-i key")
    assert groups(inventory)["mesh"] == ["n1", "n2", "n3"]
    assert warnings == []
    arguments = shlex.split(inventory.groups["mesh"].get_vars()["ansible_ssh_common_args"])
    assert arguments[0::2] == ["-o", "-o"]
    assert arguments[1].startswith("GlobalKnownHostsFile=")
    assert arguments[3].startswith("ProxyCommand=ssh -i key ") and arguments[3].endswith(" -p 2222 -W '[%h]:%p' admin@192.0.2.1")
    with pytest.raises(AnsibleError, match="no bootstrap node answered: root@dead: no route to dead"):
        load(bootstrap=["root@dead"])


# ---------------------------------------------------------------- settings


def settings_of(mesh=None, hosts=None) -> dict:
    values = {"mesh": mesh or {}, "hosts": hosts or {}, "consul_servers": None, "withheld": []}
    return {"version": 1, "updated": "2026-01-01T00:00:00Z", "by": "laptop", "values": values, "ancestors": []}


@pytest.fixture
def keep(registry_file):
    """keep(record) is what the machine keeps of the settings."""
    return lambda record: registry_file.with_name("settings.json").write_text(json.dumps(record))


def every_variable(inventory, name, *sources):
    """The variables as a play sees them, with those of the files beside these inventories."""
    loader = DataLoader()
    manager = InventoryManager(loader=loader, parse=False)
    manager._inventory, manager._sources = inventory, list(sources)
    return VariableManager(loader=loader, inventory=manager).get_vars(host=inventory.get_host(name))


def test_the_settings_are_variables_of_the_mesh_and_of_hosts(load, keep, warnings):
    kept = settings_of({"h2o_attempts": 3}, {"n2": {"h2o_attempts": 4, "h2o_http_port": 81}})
    keep(kept)
    inventory = load()
    found = {name: every_variable(inventory, name) for name in ("n1", "n2")}
    assert (found["n1"]["h2o_attempts"], found["n2"]["h2o_attempts"], found["n2"]["h2o_http_port"]) == (3, 4, 81)
    assert found["n1"]["mesh_settings"] == digest.of(kept) and "h2o_http_port" not in found["n1"]
    assert warnings == []


def test_the_users_own_group_vars_beside_the_inventory_count_more(load, keep, tmp_path):
    keep(settings_of({"h2o_attempts": 3, "h2o_http_port": 80}))
    inventory = load()
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "mesh.yml").write_text("h2o_attempts: 9")
    found = every_variable(inventory, "n1", str(tmp_path / "test.mesh.yml"))
    assert (found["h2o_attempts"], found["h2o_http_port"]) == (9, 80)


def test_a_setting_is_never_a_template_and_never_another_variable(load, keep, tmp_path):
    evil = "{{ lookup('ansible.builtin.pipe', 'touch " + str(tmp_path / "executed") + "') }}"
    keep(
        settings_of(
            {"h2o_config": {"a": [evil]}, "ansible_connection": "evil"}, {"n1": {"ansible_ssh_common_args": "evil", "mesh_role": "x"}}
        )
    )
    found = every_variable(load(), "n1")
    assert Templar(loader=DataLoader(), variables=found).template(found["h2o_config"]) == {"a": [evil]}
    assert "ansible_connection" not in found and found["mesh_role"] == "server" and "evil" not in found["ansible_ssh_common_args"]
    assert not (tmp_path / "executed").exists()


def test_settings_in_the_store_are_not_believed(load, consul):
    consul.kv["vdloo-mesh/v1/settings"] = json.dumps(settings_of({"h2o_attempts": 3}))
    found = every_variable(load(), "n1")
    assert "h2o_attempts" not in found and found["mesh_settings"] == digest.of({})


@pytest.mark.parametrize(
    ("text", "told"), [("{", "is not valid JSON"), ("[]", "JSON object"), ('{"version": 0}', "settings were left out: they have no valid")]
)
def test_damaged_settings_are_one_warning_and_cost_nothing_else(load, registry_file, warnings, text, told):
    registry_file.with_name("settings.json").write_text(text)
    inventory = load()
    assert sorted(inventory.hosts) == ["n1", "n2", "n3"]
    assert len(warnings) == 1 and told in warnings[0]


def test_settings_are_cached_with_the_nodes(load, keep, tmp_path):
    options = {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(tmp_path / "cache")}
    keep(settings_of({"h2o_attempts": 3}))
    load(**options)
    keep({})
    assert every_variable(load(**options), "n1")["h2o_attempts"] == 3


# ---------------------------------------------------------------- the machine is a node


def test_the_own_node_is_reached_without_ssh_and_the_others_with_known_keys_only(load):
    inventory = load(node="n1")
    assert variables(inventory, "n1")["ansible_connection"] == "local"
    assert "ansible_user" not in variables(inventory, "n1")
    assert variables(inventory, "n2")["ansible_user"] == "root" and "ansible_connection" not in variables(inventory, "n2")
    for name in ("mesh", "mesh_unreachable"):
        assert "StrictHostKeyChecking=yes" in shlex.split(inventory.groups[name].vars["ansible_ssh_common_args"])[-1]
    assert "StrictHostKeyChecking" not in load().groups["mesh"].vars["ansible_ssh_common_args"]


def test_the_own_node_is_in_the_mesh_whatever_its_daemons_do(load, consul, registry_file, warnings):
    consul.members[0]["Status"] = 4
    assert "n1" in groups(load(node="n1", sources=["consul", "registry"]))["mesh"]
    registry_file.unlink()
    warnings.clear()
    inventory = load(node="n1", consul_addr="127.0.0.1:1", cjdns_addr="127.0.0.1:2")
    assert groups(inventory) == {"mesh": ["n1"]}
    assert variables(inventory, "n1")["ansible_connection"] == "local" and "ansible_host" not in variables(inventory, "n1")
    assert len(warnings) == 3


@pytest.mark.parametrize("state", ["left", "revoked"])
def test_a_node_that_left_does_not_take_itself_in(load, registry_file, consul, state):
    gone = json.dumps(record("n1", state=state, version=9))
    consul.kv["vdloo-mesh/v1/registry/n1"] = gone
    assert "n1" in groups(load(node="n1"))["mesh_unreachable"]


def test_a_node_whose_user_is_not_root_is_asked_to_become_it(load, registry_file):
    registry_file.write_text(json.dumps({name: record(name, ssh={**record(name)["ssh"], "user": "admin"}, version=2) for name in KEYS}))
    inventory = load(node="n1")
    assert variables(inventory, "n2")["ansible_become"] is True
    assert "ansible_become" not in variables(inventory, "n1")


@pytest.mark.parametrize(
    ("options", "told"), [({"node": "N1!"}, "node: 'N1!' is not the name"), ({"node": "n1", "bootstrap": ["x"]}, "leave one of them out")]
)
def test_an_own_node_that_cannot_be_one_is_refused(load, options, told):
    with pytest.raises(AnsibleError, match=told):
        load(**options)
