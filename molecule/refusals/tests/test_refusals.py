# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bad input is refused with the reason, before anything is changed on the node."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml
from mesh import ROOT, playbook

ROLE = Path(__file__).resolve().parents[1] / "role.yml"
WRONG = "sha256:" + "0" * 64
KEY = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"
# Stands for the node's own address, which is known once it runs.
OWN_ADDRESS = "its own address"
GOSSIP_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def peer(**changes):
    return {"cjdns_peers": [{"name": "vps9", "address": "192.0.2.9:4321", "public_key": KEY, "password": "p" * 32, **changes}]}


def consul(**changes):
    return {"consul_bind_address": OWN_ADDRESS, "consul_bootstrap_expect": 1, "consul_gossip_key": GOSSIP_KEY, **changes}


# role, variables, what the message has to say
INPUT = [
    ("node", {"ansible_python_interpreter": "/nowhere/python3"}, ["n1 has no Python 3.8 or later as /nowhere/python3"]),
    ("cjdns", {"cjdns_install_method": "floppy"}, ["cjdns_install_method", "floppy"]),
    ("cjdns", {"cjdns_binary_checksum": WRONG}, ["has the checksum sha256:", "cjdns_binary_checksum is sha256:000"]),
    ("cjdns", {"cjdns_binary_checksum": ""}, ["cjdns_binary_checksum is not set"]),
    ("cjdns", {"cjdns_binary_src": "/nowhere/cjdroute"}, ["/nowhere/cjdroute", "is not a file on the controller"]),
    ("cjdns", {"cjdns_install_method": "package"}, ["Debian", "cjdns_install_method to"]),
    ("cjdns", peer(address="vps9.example.org:4321"), ["vps9", "vps9.example.org:4321"]),
    ("cjdns", peer(address="192.0.2.9"), ["vps9", "192.0.2.9"]),
    ("cjdns", peer(public_key="abc.k"), ["vps9", "public_key"]),
    ("cjdns", {"cjdns_port": 70000}, ["cjdns_port is 70000"]),
    ("cjdns", {"cjdns_port": 11234}, ["cjdns_port and cjdns_admin_port are both 11234"]),
    ("consul", consul(consul_install_method="floppy"), ["consul_install_method", "floppy"]),
    ("consul", consul(consul_binary_checksum=WRONG), ["has the SHA-256", "consul_binary_checksum"]),
    ("consul", consul(consul_install_method="package"), ["consul package", "host n1"]),
    ("consul", consul(consul_install_method="release", consul_version="1.2.3"), ["consul_version 1.2.3 is below 1.8", "host n1"]),
    ("consul", consul(consul_bind_address="n1.example.org"), ["consul_bind_address", "is not a literal address", "host n1"]),
    ("consul", consul(consul_gossip_key="c2hvcnQ="), ["consul_gossip_key has 5 bytes", "host n1"]),
    ("consul", consul(consul_server=False), ["consul_bootstrap_expect is 1 but consul_server is false", "host n1"]),
    ("consul", consul(consul_retry_join=["n2.example.org"]), ["consul_retry_join", "n2.example.org", "host n1"]),
    ("consul", consul(consul_node_name="Not A Label"), ["consul_node_name 'Not A Label' is not a DNS label", "host n1"]),
    ("dnsmasq", {"dnsmasq_upstreams": ["dns.example.org"]}, ["dnsmasq_upstreams (dns.example.org)", "literal addresses"]),
    ("dnsmasq", {"dnsmasq_listen_addresses": ["0.0.0.0"]}, ["dnsmasq_listen_addresses (0.0.0.0)"]),
    ("dnsmasq", {"dnsmasq_spare_address": "127.0.0.1"}, ["dnsmasq_spare_address (127.0.0.1) must be another address"]),
    ("dnsmasq", {"dnsmasq_mesh_domain": "nodes.consul"}, ["dnsmasq_mesh_domain (nodes.consul)", "none of them within the other"]),
    ("dnsmasq", {"dnsmasq_consul_http": "localhost:8500"}, ["dnsmasq_consul_http (localhost:8500)", "ADDRESS#PORT"]),
    ("dnsmasq", {"dnsmasq_names_port": 8600}, ["dnsmasq_names_port (8600)", "none of 53 and Consul's"]),
    ("dnsmasq", {"dnsmasq_names_max_age": 0}, ["dnsmasq_names_max_age (0)"]),
    ("dnsmasq", {"dnsmasq_search": ["not a domain"]}, ["dnsmasq_search (not a domain)"]),
    ("h2o", {"h2o_install_method": "floppy"}, ["h2o_install_method", "floppy"]),
    (
        "h2o",
        {"h2o_install_method": "binary", "h2o_binary_src": str(ROOT / "LICENSE"), "h2o_binary_checksum": WRONG},
        ["has the checksum sha256:", "host n1"],
    ),
    ("h2o", {"h2o_routes": [{"service": "Not a label", "port": 80}]}, ["h2o_routes", "Not a label", "host n1"]),
    ("h2o", {"h2o_routes": [{"service": "web", "port": 99999}]}, ["h2o_routes", "99999", "host n1"]),
    ("h2o", {"h2o_routes": [{"service": "web", "port": 80}, {"service": "api", "port": 80}]}, ["h2o_routes", "host n1"]),
    (
        "h2o",
        {"h2o_tls": {"certificate_file": "/nowhere.crt", "key_file": "/nowhere.key"}},
        ["h2o_tls.certificate_file /nowhere.crt does not exist"],
    ),
]


def state(mesh, name: str) -> str:
    """All that a role could have changed: files with their content and mode, users, and services."""
    files = (
        "find /etc /usr/local /usr/sbin /usr/bin /opt /root /var/lib /var/cache -xdev "
        r"\( -path /root/.ansible -o -path /var/lib/systemd -o -path /var/lib/private \) -prune -o -printf '%p %m %U %s %C@\n' "
        # Ansible makes its own folder there, and takes it away again.
        r"| grep -v '^/root ' | sort"
    )
    services = "systemctl list-units --type=service --all --plain --no-legend | awk '{print $1, $2, $3, $4}' | grep -v '^user' | sort"
    return mesh.node(name).check_output(f"{files}; {services}")


def flat(text: str) -> str:
    return " ".join(text.split())


def refused(mesh, name: str, role: str, variables: dict, told: list[str]) -> None:
    before = state(mesh, name)
    own = mesh.hosts[name]["ansible_host"]
    extra = {"target": name, "tested_role": role, **{key: own if value == OWN_ADDRESS else value for key, value in variables.items()}}
    run = playbook(mesh.inventory, ROLE, "--extra-vars", json.dumps(extra))
    assert run.code != 0, run.output
    for part in told:
        assert part in flat(run.output), f"{part!r} is not in: {run.output}"
    assert run.changed[name] == 0, run.output
    assert state(mesh, name) == before


@pytest.mark.parametrize(("role", "variables", "told"), INPUT, ids=[f"{role}-{index}" for index, (role, _v, _t) in enumerate(INPUT)])
def test_a_role_refuses_bad_input(mesh, role, variables, told):
    refused(mesh, "n1", role, variables, told)


@pytest.mark.parametrize(
    ("role", "address", "protocol", "variables", "told"),
    [
        ("cjdns", "0.0.0.0:4321", "UDP", {}, ["UDP port 4321 is taken by", "cjdns_port"]),
        ("cjdns", "127.0.0.1:11234", "UDP", {}, ["UDP port 11234 is taken by", "cjdns_admin_port"]),
        ("consul", "127.0.0.1:8500", "TCP", consul(), ["port 8500/tcp on 127.0.0.1 is held by", "host n1"]),
        ("dnsmasq", "127.0.0.1:53", "UDP", {}, ["53"]),
        ("dnsmasq", "127.0.0.1:8653", "TCP", {}, ["port 8653 of 127.0.0.1 is held by", "dnsmasq_names_port"]),
        ("h2o", "0.0.0.0:80", "TCP", {}, ["port 80 is taken by", "h2o_http_port"]),
    ],
)
def test_a_role_refuses_a_port_that_another_process_has(mesh, role, address, protocol, variables, told):
    host, port = address.rsplit(":", 1)
    kind, listen = ("STREAM", "s.listen()") if protocol == "TCP" else ("DGRAM", "0")
    program = (
        f"import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_{kind}); s.bind(({host!r}, {port})); {listen}; time.sleep(600)"
    )
    mesh.node("n1").check_output("systemd-run --unit=squatter --service-type=exec python3 -c %s", program)
    try:
        mesh.wait_for(lambda: f":{port} " in mesh.node("n1").check_output("ss -Hlntu"), f"the squatter has port {port}", 10)
        refused(mesh, "n1", role, variables, [*told, "python3 (pid "])
    finally:
        mesh.node("n1").check_output("systemctl stop squatter")


@pytest.mark.parametrize(
    ("role", "told"),
    [
        ("node", ["/dev/net/tun is missing and may not be created here", "--device /dev/net/tun"]),
        ("cjdns", ["/dev/net/tun is missing", "--device /dev/net/tun"]),
    ],
)
def test_a_node_without_the_tun_device_and_the_permission_is_refused(mesh, role, told):
    refused(mesh, "bare", role, {}, told)


def with_inventory(mesh, tmp_path, change) -> Path:
    inventory = yaml.safe_load(mesh.inventory.read_text())
    hosts = inventory["mesh"]["hosts"]
    hosts.pop("bare")
    change(hosts)
    path = tmp_path / "hosts.yml"
    path.write_text(yaml.safe_dump(inventory))
    return path


def malformed_endpoint(hosts):
    hosts["n1"]["mesh_endpoints"] = ["n1.example.org:4321"]


def same_name(hosts):
    hosts["N1"] = {**copy.deepcopy(hosts["n1"]), "ansible_port": 2222, "mesh_endpoints": []}


def same_machine(hosts):
    hosts["n2"] = {**copy.deepcopy(hosts["n1"]), "mesh_endpoints": []}


def not_a_label(hosts):
    hosts["n1.example.org"] = hosts.pop("n1")


def two_parts(hosts):
    hosts["lost"] = {"ansible_host": "192.0.2.77"}
    hosts["n1"]["mesh_endpoints"] = [{"address": "192.0.2.1:4321", "zone": "home"}]


def neither_true_nor_false(hosts):
    hosts["n1"]["mesh_server_eligible"] = "maybe"


def unknown_policy(hosts):
    hosts["n1"]["consul_server_policy"] = "most"


def without_python(hosts):
    hosts["n1"]["ansible_python_interpreter"] = "/nowhere/python3"


def no_hosts(hosts):
    hosts.clear()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (malformed_endpoint, ["host n1: mesh_endpoints: 'n1.example.org:4321' is not a literal IP:PORT"]),
        (same_name, ["host n1: host N1 has the same name but for upper and lower case"]),
        (same_machine, ["host n2: ansible_host", "is also that of host n1"]),
        (not_a_label, ["host n1.example.org: the name is not a DNS label"]),
        (two_parts, ["the mesh would fall into 2 parts that cannot dial each other: lost; n1"]),
        (neither_true_nor_false, ["host n1: mesh_server_eligible: 'maybe' is neither true nor false"]),
        (unknown_policy, ["consul_server_policy is 'most': write elect, all or listed"]),
        (without_python, ["n1 has no Python 3.8 or later as /nowhere/python3"]),
        (no_hosts, ["The inventory has no hosts in the group mesh"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_site_refuses_a_bad_inventory(mesh, tmp_path, change, told):
    before = state(mesh, "n1")
    run = playbook(with_inventory(mesh, tmp_path, change), ROOT / "site.yml")
    assert run.code != 0, run.output
    for part in told:
        assert part in flat(run.output), f"{part!r} is not in: {run.output}"
    assert state(mesh, "n1") == before


def test_nodes_of_two_meshes_are_refused_and_keep_their_secrets(mesh, tmp_path):
    generations = {"n1": "one-mesh", "bare": "another-mesh"}
    kept = {name: json.dumps({"generation": generations[name], "gossip_key": GOSSIP_KEY, "seeds": [name]}) for name in generations}
    for name, secrets in kept.items():
        mesh.node(name).check_output("mkdir -m 0700 /etc/vdloo-mesh && printf %s > /etc/vdloo-mesh/secrets.json", secrets)
    try:
        run = playbook(mesh.inventory, ROOT / "site.yml", "--tags", "always")
        assert run.code != 0, run.output
        assert "belong to 2 meshes" in flat(run.output)
        for name, secrets in kept.items():
            assert mesh.node(name).check_output("cat /etc/vdloo-mesh/secrets.json") == secrets
    finally:
        for name in kept:
            mesh.node(name).check_output("rm -r /etc/vdloo-mesh")
