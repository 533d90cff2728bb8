# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A converged mesh, seen from its users' edge."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter

import pytest
from mesh import DAEMONS

NODES = ("n1", "n2", "n3")


@pytest.mark.parametrize("source", NODES)
def test_every_node_pings_every_other_by_its_overlay_address(mesh, source):
    for target in NODES:
        mesh.wait_for(lambda target=target: mesh.pings(source, target), f"{source} pings {target}", 20)


@pytest.mark.parametrize("name", NODES)
def test_the_address_is_derived_from_the_key_and_really_on_the_node(mesh, name):
    identity = json.loads(mesh.node(name).check_output("cat /etc/cjdns/identity.json"))
    address = ipaddress.ip_address(mesh.address(name))
    assert address in ipaddress.ip_network("fc00::/8")
    assert ipaddress.ip_address(identity["ipv6"]) == address
    assert identity["publicKey"] == mesh.registry[name]["public_key"]
    assert str(address) in mesh.node(name).check_output("ip -6 -o address show")


def test_all_nodes_hold_the_same_registry_and_secrets(mesh):
    for path in ("/var/lib/vdloo-mesh/registry.json", "/etc/vdloo-mesh/secrets.json"):
        assert len({mesh.node(name).check_output("sha256sum %s", path) for name in NODES}) == 1, path


def test_three_consul_servers_agree_on_one_leader(mesh):
    seen = [mesh.raft(name) for name in NODES]
    assert seen[0] == seen[1] == seen[2]
    assert sorted(state for state, _voter in seen[0].values()) == ["follower", "follower", "leader"]
    assert all(voter for _state, voter in seen[0].values())
    assert set(seen[0]) == set(NODES)


@pytest.mark.parametrize("name", NODES)
def test_every_node_sees_all_members_alive(mesh, name):
    assert mesh.members(name) == dict.fromkeys(NODES, "alive")


def test_a_key_written_on_one_node_is_read_on_another(mesh):
    mesh.node("n1").check_output("consul kv put test/written-on n1")
    assert mesh.node("n3").check_output("consul kv get test/written-on") == "n1"


@pytest.mark.parametrize("name", NODES)
def test_the_service_resolves_through_the_name_server_of_the_node(mesh, name):
    wanted = {str(ipaddress.ip_address(mesh.address(owner))) for owner in ("n1", "n2")}

    def answers() -> bool:
        lines = mesh.node(name).check_output("dig +short +time=2 @127.0.0.1 -p 53 AAAA web.service.consul").split()
        return {str(ipaddress.ip_address(line)) for line in lines} == wanted

    mesh.wait_for(answers, f"web.service.consul resolves on {name}", 30)
    # And by the way that programs take.
    assert "web.service.consul" in mesh.node(name).check_output("getent ahosts web.service.consul")


@pytest.mark.parametrize("name", NODES)
def test_ordinary_names_still_resolve(mesh, name):
    # The name of another container, which only the name server that the node had before can know.
    other = mesh.hosts["n2" if name == "n1" else "n1"]
    assert other["ansible_host"] in mesh.node(name).check_output("getent ahostsv4 %s", other["testbed_container"])
    assert other["ansible_host"] in mesh.node(name).check_output("dig +short @127.0.0.1 %s", other["testbed_container"])


@pytest.mark.parametrize("name", NODES)
def test_any_node_answers_for_the_service_and_all_instances_take_turns(mesh, name):
    requests = 60
    output = mesh.node(name).check_output(f"for i in $(seq {requests}); do curl -s -m 5 http://127.0.0.1/; done")
    answers = Counter(output.splitlines())
    assert set(answers) == {"served by n1", "served by n2"}, answers
    assert min(answers.values()) >= requests * 0.2, answers


def test_a_kept_connection_does_not_stick_to_one_instance(mesh):
    output = mesh.node("n3").check_output("curl -s -m 20 " + " ".join(["http://127.0.0.1/"] * 40))
    assert len(set(output.splitlines())) == 2


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize(
    ("path", "mode", "user"),
    [
        ("/etc/cjdroute.conf", 0o600, "root"),
        ("/run/cjdns/started.conf", 0o600, "root"),
        ("/etc/cjdns/identity.json", 0o600, "root"),
        ("/etc/cjdns/link-secret", 0o600, "root"),
        ("/etc/vdloo-mesh/secrets.json", 0o600, "root"),
        ("/var/lib/vdloo-mesh/registry.json", 0o600, "root"),
        ("/etc/consul.d/secrets.json", 0o640, "root"),
        ("/var/lib/consul", 0o700, "consul"),
        ("/etc/resolv.conf", 0o644, "root"),
    ],
)
def test_files_have_their_modes(mesh, name, path, mode, user):
    found = mesh.node(name).file(path)
    assert found.exists
    assert (found.mode, found.user) == (mode, user)


@pytest.mark.parametrize("name", NODES)
def test_no_secret_is_readable_by_others_or_in_the_journal(mesh, name):
    secrets = json.loads(mesh.node(name).check_output("cat /etc/vdloo-mesh/secrets.json"))
    identity = json.loads(mesh.node(name).check_output("cat /etc/cjdns/identity.json"))
    for secret in (secrets["gossip_key"], identity["privateKey"]):
        exposed = mesh.node(name).run("find /etc /var/lib /usr/local /run -xdev -type f -perm -o=r -exec grep -lF %s {} +", secret).stdout
        assert exposed == ""
        assert mesh.node(name).run("journalctl --no-pager | grep -cF %s", secret).stdout.strip() == "0"
        assert secret not in mesh.node(name).check_output("ps -eo args")


@pytest.mark.parametrize("name", NODES)
def test_what_has_full_control_listens_on_loopback_only(mesh, name):
    sockets = mesh.node(name).check_output("ss -Hlntu")
    for port in (8500, 8600, 8653, 11234):
        addresses = re.findall(rf"(\S+):{port}\s", sockets)
        assert addresses, port
        assert set(addresses) <= {"127.0.0.1", "[::1]"}, (port, addresses)
    # Consul's own traffic takes the overlay and nothing else.
    for port in (8300, 8301):
        assert {address.strip("[]") for address in re.findall(rf"(\S+):{port}\s", sockets)} == {mesh.address(name)}


@pytest.mark.parametrize("name", NODES)
def test_the_mesh_has_bootstrapped_once_and_never_will_again(mesh, name):
    assert mesh.node(name).run("grep -r bootstrap_expect /etc/consul.d").stdout == ""
    assert mesh.node(name).file("/var/lib/vdloo-mesh/consul-bootstrapped").exists


@pytest.mark.parametrize("name", NODES)
def test_consul_runs_with_encrypted_gossip_and_without_remote_execution(mesh, name):
    running = json.loads(mesh.node(name).check_output("curl -s http://127.0.0.1:8500/v1/agent/self"))
    assert running["Stats"]["serf_lan"]["encrypted"] == "true"
    assert running["DebugConfig"]["DisableRemoteExec"] is True
    assert running["DebugConfig"]["EnableRemoteScriptChecks"] is False
    assert running["Config"]["NodeName"] == name


@pytest.mark.parametrize("name", NODES)
def test_each_daemon_runs_as_it_should(mesh, name):
    owners = {"consul": "consul", "h2o": "debian-h2o"}
    for daemon in DAEMONS:
        service = mesh.node(name).service(daemon)
        assert service.is_running and service.is_enabled, daemon
    for program, owner in owners.items():
        assert owner in mesh.node(name).check_output("ps -C %s -o user:32=", program).split()
