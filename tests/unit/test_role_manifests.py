# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The manifests of the roles, rendered as a plan renders them: from documented variables and the recorded facts of the node alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.vdloo.mesh.plugins.module_utils import manifest, manifest_reader

ROOT = Path(__file__).resolve().parents[2]
GOSSIP_KEY = "bWVzaG1lc2htZXNobWVzaG1lc2htZXNobWVzaG1lc2g="
CONSUL = {
    "consul_bind_address": "fc00::1",
    "consul_node_name": "web",
    "consul_gossip_key": GOSSIP_KEY,
    "consul_install_method": "binary",
    "consul_binary_checksum": "sha256:" + "AB" * 32,
}
CONSUL_FACTS = {"architecture": "amd64", "bootstrapped": "mesh", "version": "1.8.7"}
CJDNS = {"cjdns_install_method": "binary", "cjdns_binary_checksum": "sha256:" + "CD" * 32}


def render(role: str, variable: str, given: dict, facts: dict | None = None):
    """Template a variable of a role; no host, no registered variable and no fact of Ansible is there."""
    loader = DataLoader()
    directory = ROOT / "roles" / role
    variables: dict = {}
    for path in [directory / "defaults" / "main.yml", *sorted((directory / "vars").rglob("*.yml"))]:
        variables.update(loader.load_from_file(str(path), trusted_as_template=True) or {})
    variables.update(given, role_path=str(directory))
    if facts is not None:
        variables[f"__{role}_facts"] = facts
    templar = Templar(loader, variables)
    return json.loads(json.dumps(templar.template(variables[variable])))


def files_of(rendered: dict, secrets: dict | None = None) -> dict:
    return manifest_reader.read(rendered, secrets)["files"]


def consul(facts: dict | None = None, **given) -> dict:
    return render("consul", "__consul_manifest", {**CONSUL, **given}, {**CONSUL_FACTS, **(facts or {})})


@pytest.mark.parametrize(
    ("role", "given", "facts"),
    [
        ("consul", CONSUL, CONSUL_FACTS),
        ("cjdns", CJDNS, {"family": "Debian"}),
        ("node", {}, {}),
        ("dnsmasq", {}, {"python": "/usr/bin/python3"}),
    ],
)
def test_a_manifest_can_be_read_and_is_the_same_each_time(role, given, facts):
    rendered = render(role, f"__{role}_manifest", given, facts)
    assert manifest.wanted(rendered) == manifest.wanted(render(role, f"__{role}_manifest", given, facts))
    for entry in rendered.get("services", []):
        managed = {entry["path"] for section in ("files", "programs") for entry in rendered[section]}
        assert set(entry["restart"]) <= managed


# ---------------------------------------------------------------- consul


def test_the_files_of_consul_are_sorted_json_that_only_root_and_consul_read():
    rendered = consul(consul_retry_join=["fc00::3", "fc00::1", "fc00::2"])
    assert GOSSIP_KEY not in json.dumps(rendered)
    files = files_of(rendered, render("consul", "__consul_secrets", CONSUL, CONSUL_FACTS))
    config = json.loads(files["/etc/consul.d/consul.json"]["content"])
    assert (config["node_name"], config["bind_addr"], config["ports"]["serf_lan"]) == ("web", "fc00::1", 8301)
    expected = {
        "consul.json": config,
        "join.json": {"retry_join": ["[fc00::2]:8301", "[fc00::3]:8301"]},
        "secrets.json": {"encrypt": GOSSIP_KEY},
    }
    for name, content in expected.items():
        entry = files[f"/etc/consul.d/{name}"]
        assert entry["content"] == (json.dumps(content, indent=4, sort_keys=True) + "\n").encode()
        assert (entry["owner"], entry["group"], entry["mode"]) == ("root", "consul", "0640")
    assert files["/etc/consul.d/secrets.json"]["secret"] is True
    assert files["/etc/systemd/system/consul.service"]["content"].endswith(b"WantedBy=multi-user.target\n")


def test_without_others_to_join_there_is_no_file_for_them():
    assert files_of(consul(consul_retry_join=["[fc00::1]:8301"]))["/etc/consul.d/join.json"]["content"] is None


@pytest.mark.parametrize(
    ("bootstrapped", "server", "expect", "content"),
    [
        ("", True, 3, b'{\n    "bootstrap_expect": 3\n}\n'),
        ("mesh", True, 3, None),
        ("", False, 3, None),
        ("", True, 0, None),
    ],
)
def test_only_a_server_of_a_mesh_without_a_leader_is_told_how_many_elect_it(bootstrapped, server, expect, content):
    rendered = consul({"bootstrapped": bootstrapped}, consul_server=server, consul_bootstrap_expect=expect)
    assert files_of(rendered)["/etc/consul.d/bootstrap.json"]["content"] == content


def test_the_keys_of_newer_versions_are_written_where_they_are_known():
    def keys(version):
        return set(json.loads(files_of(consul({"version": version}))["/etc/consul.d/consul.json"]["content"]))

    assert keys("1.13.9") & {"peering", "server_rejoin_age_max"} == set()
    assert keys("1.14.0") & {"peering", "server_rejoin_age_max"} == {"peering"}
    assert keys("1.21.5") & {"peering", "server_rejoin_age_max"} == {"peering", "server_rejoin_age_max"}


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({}, "sha256:" + "ab" * 32),
        ({"consul_install_method": "package"}, "package"),
        (
            {"consul_install_method": "release", "consul_version": "1.22.0"},
            "sha256:9891495a2defabc3d637b376c66550e9879102868fbe6456a9a683067ae20ae9",
        ),
        (
            {"consul_install_method": "release", "consul_version": "1.99.0", "consul_release_checksums": {"amd64": "sha256:" + "12" * 32}},
            "sha256:" + "12" * 32,
        ),
    ],
)
def test_the_manifest_of_consul_says_which_binary_is_wanted(given, source):
    rendered = consul(**given)
    path = "/usr/bin/consul" if source == "package" else "/usr/local/bin/consul"
    assert rendered["programs"] == [{"path": path, "source": source}]
    assert rendered["checks"][0]["command"] == [path, "validate", "%s"]


def test_nodes_to_join_are_taken_up_without_a_restart():
    services = consul(consul_retry_join=["fc00::2"])["services"]
    assert [service["name"] for service in services] == ["consul.service"]
    assert "/etc/consul.d/join.json" not in services[0]["restart"]
    assert "/etc/consul.d/secrets.json" in services[0]["restart"]


def test_watches_are_a_file_of_their_own_that_is_taken_up_by_a_reload():
    path = "/etc/consul.d/watches.json"
    watches = [{"type": "nodes", "args": ["true"]}]
    rendered = consul(consul_watches=watches)
    assert json.loads(files_of(rendered)[path]["content"]) == {"watches": watches}
    assert rendered["services"][0]["reload"] == [path]
    assert path not in rendered["services"][0]["restart"]
    assert files_of(consul())[path]["content"] is None


# ---------------------------------------------------------------- cjdns


@pytest.mark.parametrize(
    ("given", "family", "path", "source"),
    [
        ({}, "Debian", "/usr/local/bin/cjdroute", "sha256:" + "cd" * 32),
        ({"cjdns_install_method": "package"}, "Alpine", "/usr/sbin/cjdroute", "package"),
        ({"cjdns_install_method": "source"}, "Debian", "/usr/local/bin/cjdroute", "22.3-99e20274d581949b"),
    ],
)
def test_the_manifest_of_cjdns_says_which_program_runs(given, family, path, source):
    rendered = render("cjdns", "__cjdns_manifest", {**CJDNS, **given}, {"family": family})
    assert rendered["programs"] == [{"path": path, "source": source}]
    assert rendered["services"][0]["restart"] == [path, "/etc/systemd/system/cjdns.service"]
    unit = files_of(rendered)["/etc/systemd/system/cjdns.service"]["content"].decode()
    assert f"\nExecStart={path} --nobg\n" in unit
    assert unit.endswith("WantedBy=multi-user.target\n")


def test_the_public_configuration_of_cjdns_has_neither_peers_nor_passwords():
    given = {
        "cjdns_peers": [{"name": "vps1", "address": "192.0.2.1:1", "public_key": "k", "password": "secret1"}],
        "cjdns_authorized_passwords": [{"user": "pi", "password": "secret2"}],
        "cjdns_config": {"router": {"supernodes": ["s"]}},
        "cjdns_port": 5000,
    }
    config = render("cjdns", "__cjdns_public_config", given)
    assert "secret" not in json.dumps(config)
    assert "authorizedPasswords" not in config
    assert config["interfaces"]["UDPInterface"][0] == {"bind": "0.0.0.0:5000", "connectTo": {}}
    assert config["router"]["supernodes"] == ["s"]
    assert config["router"]["interface"] == {"type": "TUNInterface"}, "merged, not replaced"


def test_the_users_of_cjdns_stand_in_the_order_of_their_names_and_cjdns_config_replaces_them():
    text = "{{ lookup('ansible.builtin.template', role_path ~ '/templates/cjdroute.conf.j2') }}"
    users = [{"user": name, "password": name * 9} for name in ("nas", "Pi", "phone")]

    def rendered(**given):
        path = ROOT / "roles" / "cjdns"
        given = {"cjdns_authorized_passwords": users, "cjdns_config": {}, **given}
        variables = {
            **yaml.safe_load((path / "defaults" / "main.yml").read_text()),
            **given,
            "__cjdns_public_config": render("cjdns", "__cjdns_public_config", given),
            "role_path": str(path),
        }
        result = Templar(DataLoader(), variables).template(trust_as_template(text))
        return json.loads(result) if isinstance(result, str) else result

    assert [entry["user"] for entry in rendered()["authorizedPasswords"]] == ["nas", "phone", "Pi"]
    assert rendered(cjdns_config={"authorizedPasswords": []})["authorizedPasswords"] == []


# ---------------------------------------------------------------- dnsmasq


def test_what_mesh_names_reads_restarts_it_and_not_dnsmasq():
    rendered = render("dnsmasq", "__dnsmasq_manifest", {}, {"python": "/usr/bin/python3"})
    restart = {service["name"]: set(service["restart"]) for service in rendered["services"]}
    assert [service["name"] for service in rendered["services"]] == ["mesh-names.service", "dnsmasq-mesh.service"]
    program = {path for path in files_of(rendered) if path.startswith("/usr/local/lib/mesh-names/")}
    assert len(program) > 10
    assert restart["mesh-names.service"] == {*program, "/etc/dnsmasq-mesh/names.json", "/etc/systemd/system/mesh-names.service"}
    assert not restart["mesh-names.service"] & restart["dnsmasq-mesh.service"]


def test_the_variables_of_names_reach_what_reads_them():
    given = {
        "dnsmasq_consul_domain": "discovery.example",
        "dnsmasq_consul_dns": "127.0.0.2#8601",
        "dnsmasq_consul_http": "127.0.0.2#8501",
        "dnsmasq_mesh_domain": "nodes.example",
        "dnsmasq_names_port": 5353,
        "dnsmasq_names_max_age": 60,
        "dnsmasq_spare_address": "127.0.0.9",
        "dnsmasq_upstreams": ["192.0.2.1"],
    }
    files = files_of(render("dnsmasq", "__dnsmasq_manifest", given, {"python": "/usr/bin/python3"}))
    assert json.loads(files["/etc/dnsmasq-mesh/names.json"]["content"]) == {
        "listen": "127.0.0.1#5353",
        "consul_domain": "discovery.example",
        "consul_dns": "127.0.0.2#8601",
        "consul_http": "127.0.0.2#8501",
        "mesh_domain": "nodes.example",
        "registry": "/var/lib/vdloo-mesh/registry.json",
        "snapshot": "/var/lib/mesh-names/snapshot.json",
        "max_age": 60,
        "spare": "127.0.0.9#53",
        "dnsmasq": "127.0.0.1#53",
        "zones": ["discovery.example", "nodes.example", "fc00::/8"],
        "upstreams": ["192.0.2.1"],
        "upstream_files": ["/etc/dnsmasq-mesh/servers.conf", "/etc/dnsmasq-mesh/upstream.conf"],
        "own": ["127.0.0.1", "::1", "127.0.0.9"],
    }
    lines = files["/etc/dnsmasq-mesh/dnsmasq.conf"]["content"].decode().splitlines()
    assert "server=/discovery.example/nodes.example/127.0.0.1#5353" in lines
    assert "rebind-domain-ok=/discovery.example/nodes.example/" in lines


# ---------------------------------------------------------------- service

SERVICE = {
    "service_name": "web-shop",
    "service_port": 8080,
    "inventory_hostname": "n1",
    "mesh_site": "home",
    "__service_look": {"config_dir": "/etc/consul.d", "binary": "/usr/bin/consul"},
}


def test_a_service_is_one_file_that_consul_judges_with_all_others():
    rendered = render("service", "__service_manifest", SERVICE)
    (path, entry), *others = files_of(rendered).items()
    assert (path, others) == ("/etc/consul.d/service-web-shop.json", [])
    assert (entry["owner"], entry["group"], entry["mode"]) == ("root", "consul", "0640")
    assert json.loads(entry["content"])["service"]["tags"] == ["site-home"]
    assert rendered["checks"] == [
        {"directory": "/etc/consul.d", "suffixes": [".json", ".hcl"], "command": ["/usr/bin/consul", "validate", "%s"]}
    ]
    # Nothing is restarted for it: what the agent has read it tells itself.
    assert "services" not in rendered


def test_each_service_has_a_record_of_its_own_which_no_role_of_the_mesh_has():
    assert render("service", "__service_record", SERVICE) == "service_web_shop"
    assert manifest.ROLE.match("service_web_shop")


def test_the_route_of_a_service_is_recorded_until_it_is_absent():
    asked = {**SERVICE, "service_route": {"host": "shop.example.org"}}
    told = {"host": "shop.example.org", "path": "/", "service": "web-shop", "port": 8080}
    assert render("service", "__service_facts", asked) == {"route": told}
    assert render("service", "__service_facts", {**asked, "service_state": "absent"}) == {}
    assert render("service", "__service_facts", SERVICE) == {}
