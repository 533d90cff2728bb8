# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hosts of every kind after the role: their ordinary names, Consul's names, and what happens when things break."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mesh import playbook

SCENARIO = Path(__file__).resolve().parents[1]
HOSTS = ("mounted", "plain", "resolvconf", "networkmanager", "resolved", "resolvedconf")
ROUTED = ("resolved", "resolvedconf")
SERVICE = "dnsmasq-mesh"
DEAD_UPSTREAM = ("-e", '{"dnsmasq_upstreams": ["192.0.2.1"]}')


def ordinary(name: str) -> str:
    return "vdloo-mesh-resolvers-ns" if name == "mounted" else "probe.example"


def looks_up(mesh, name: str, wanted: str) -> bool:
    """Whether a program on the host gets an address for a name, within the patience of a user."""
    return mesh.node(name).run("timeout 4 getent hosts %s", wanted).rc == 0


def everything_resolves(mesh, name: str) -> bool:
    return looks_up(mesh, name, ordinary(name)) and looks_up(mesh, name, "web.service.consul")


def resolver_state(mesh, name: str) -> str:
    """All that the role may touch of a host's resolver: type, target, mode, content, drop-ins, and services."""
    return mesh.node(name).check_output(
        "stat -c '%F %N %a %U %s' /etc/resolv.conf; cat /etc/resolv.conf; "
        "ls -1 /etc/systemd/resolved.conf.d /etc/NetworkManager/conf.d 2>/dev/null; "
        "systemctl is-active systemd-resolved NetworkManager dnsmasq-mesh mesh-names; "
        "systemctl is-enabled dnsmasq-mesh mesh-names 2>/dev/null | grep -x enabled"
        "; true"
    )


@pytest.mark.parametrize("name", HOSTS)
def test_ordinary_names_resolve(mesh, name):
    assert looks_up(mesh, name, ordinary(name))
    assert not looks_up(mesh, name, "nobody.example")


@pytest.mark.parametrize("name", HOSTS)
def test_names_of_consul_resolve(mesh, name):
    node = mesh.node(name)
    assert node.check_output("getent hosts web.service.consul").split()[0] == "192.0.2.99"
    assert node.check_output("dig +short @127.0.0.1 web.service.consul") == "192.0.2.99"
    assert node.check_output("dig +short @127.0.0.1 -x fc00::1") == "n1.node.consul."


@pytest.mark.parametrize("name", HOSTS)
def test_search_domains_and_options_are_kept(mesh, name):
    text = mesh.node(name).file("/etc/resolv.conf").content_string
    if name in ROUTED:
        assert mesh.node(name).check_output("readlink /etc/resolv.conf") == "../run/systemd/resolve/stub-resolv.conf"
    elif name == "mounted":
        assert "options ndots:0\n" in text
    else:
        assert "search lan\n" in text
        assert re.findall(r"^nameserver (\S+)$", text, re.M) == ["127.0.0.1", "127.0.0.2"]
        assert name != "plain" or text.startswith("# by hand\n") and "options ndots:1\n" in text


@pytest.mark.parametrize("name", HOSTS)
def test_dnsmasq_does_not_ask_itself(mesh, name):
    log = mesh.node(name).check_output("journalctl -b -u %s -o cat", SERVICE)
    assert re.search(r"using nameserver \d\S+#53$", log, re.M)
    assert "using nameserver 127.0.0.1#53" not in log


def test_names_of_consul_never_leave_the_host(mesh):
    since = mesh.node("ns").check_output("date +%s")
    for name in HOSTS:
        assert everything_resolves(mesh, name)
    asked = mesh.node("ns").check_output("journalctl -u 'names@*' -o cat --since @%s", since)
    assert "probe.example" in asked
    # The host's search domain may be appended to what is not found: that is the library's doing, and another name.
    assert not re.search(r"\bconsul$", asked, re.M)


@pytest.mark.parametrize("name", HOSTS)
def test_ordinary_names_do_without_consul(mesh, name):
    node = mesh.node(name)
    node.check_output("systemctl stop names@agent")
    try:
        assert node.run("timeout 4 getent ahosts %s", ordinary(name)).rc == 0
        assert not looks_up(mesh, name, "web.service.consul")
    finally:
        node.check_output("systemctl start names@agent")
    mesh.wait_for(lambda: looks_up(mesh, name, "web.service.consul"), f"{name} finds the service again", 30)


@pytest.mark.parametrize("name", HOSTS)
def test_ordinary_names_do_without_mesh_names(mesh, name):
    node = mesh.node(name)
    node.check_output("systemctl stop mesh-names")
    try:
        assert node.run("timeout 4 getent ahosts %s", ordinary(name)).rc == 0
    finally:
        node.check_output("systemctl start mesh-names")
    mesh.wait_for(lambda: looks_up(mesh, name, "web.service.consul"), f"{name} finds the service again", 30)


@pytest.mark.parametrize("name", HOSTS)
def test_a_killed_dnsmasq_is_back_by_itself(mesh, name):
    node = mesh.node(name)
    before = node.check_output("systemctl show -P MainPID %s", SERVICE)
    node.check_output("kill -9 %s", before)
    assert everything_resolves(mesh, name)
    mesh.wait_for(lambda: node.check_output("systemctl is-active %s", SERVICE) == "active", f"{SERVICE} on {name}", 30)
    mesh.wait_for(lambda: everything_resolves(mesh, name), f"{name} resolves all names", 30)
    assert node.check_output("systemctl show -P MainPID %s", SERVICE) != before


@pytest.mark.parametrize("name", HOSTS)
def test_while_dnsmasq_is_stopped_mesh_names_stands_in_for_it(mesh, name):
    node = mesh.node(name)
    node.check_output("systemctl stop %s", SERVICE)
    assert everything_resolves(mesh, name)
    assert node.check_output("dig +short @127.0.0.2 -x fc00::1") == "n1.node.consul."
    node.check_output("systemctl start %s", SERVICE)
    mesh.wait_for(lambda: everything_resolves(mesh, name), f"{name} resolves all names", 30)


@pytest.mark.parametrize("name", HOSTS)
def test_whoever_goes_on_to_ask_mesh_names_has_the_answer_of_dnsmasq(mesh, name):
    def counted() -> int:
        """How many questions dnsmasq has answered."""
        found = mesh.node(name).check_output("dig +short @127.0.0.1 CH TXT hits.bind; dig +short @127.0.0.1 CH TXT misses.bind")
        return sum(map(int, re.findall(r"\d+", found)))

    # To ask for the counts is counted as well.
    first, second = counted(), counted()
    assert mesh.node(name).check_output("dig +short @127.0.0.2 %s", ordinary(name))
    assert counted() - second > second - first


@pytest.mark.parametrize("order", [(SERVICE, "mesh-names"), ("mesh-names", SERVICE)], ids=" then ".join)
@pytest.mark.parametrize("name", HOSTS)
def test_a_host_whose_servers_are_both_stopped_has_its_own_resolver(mesh, name, order):
    if name == "resolvedconf":
        pytest.skip("its only servers are resolved's own, which dnsmasq asks in its stead")
    node = mesh.node(name)
    for unit in order:
        node.check_output("systemctl stop %s", unit)
    assert looks_up(mesh, name, ordinary(name))
    for unit in order:
        node.check_output("systemctl start %s", unit)
    mesh.wait_for(lambda: everything_resolves(mesh, name), f"{name} resolves all names", 30)


def second_server(mesh) -> str:
    return mesh.hosts["ns"]["ansible_host"].rpartition(".")[0] + ".250"


NEW_SERVER = {
    "plain": "printf '# by hand\\nsearch lan\\nnameserver {}\\noptions ndots:1\\n' > /etc/resolv.conf",
    "resolvconf": "printf 'nameserver {}\\nsearch lan\\n' | resolvconf -a eth0.dhclient",
    "networkmanager": "nmcli connection modify lan0 ipv4.dns {} && nmcli --wait 20 connection up lan0",
    "resolved": "resolvectl dns eth0 {}",
}


@pytest.mark.parametrize("name", NEW_SERVER)
def test_new_name_servers_of_the_network_are_followed(mesh, name):
    node, first = mesh.node(name), mesh.hosts["ns"]["ansible_host"]
    assert not looks_up(mesh, name, "late.example")
    node.check_output(NEW_SERVER[name].format(second_server(mesh)))
    mesh.wait_for(lambda: looks_up(mesh, name, "late.example"), f"{name} asks the new server", 30)
    mesh.wait_for(lambda: node.check_output("dig +short @127.0.0.1 late.example") == "192.0.2.11", f"dnsmasq of {name} does", 30)
    mesh.wait_for(lambda: everything_resolves(mesh, name), f"{name} still resolves all names", 30)
    node.check_output(NEW_SERVER[name].format(first))
    mesh.wait_for(lambda: node.check_output("dig +short @127.0.0.1 late.example") == "", f"{name} is back", 30)
    mesh.wait_for(lambda: everything_resolves(mesh, name), f"{name} still resolves all names", 30)


def test_a_container_that_starts_again_is_handed_over_again(mesh):
    mesh.reboot("mounted")
    mesh.wait_for(lambda: everything_resolves(mesh, "mounted"), "mounted resolves all names")


def test_a_configuration_that_loses_names_makes_room_for_the_former_one(mesh):
    run = playbook(mesh.inventory, SCENARIO / "converge.yml", *DEAD_UPSTREAM, "-l", "plain,resolvedconf")
    assert run.code != 0
    assert run.output.count("the former configuration of dnsmasq is back and serves") >= 2
    for name in ("plain", "resolvedconf"):
        assert everything_resolves(mesh, name)
        assert mesh.node(name).run("grep -r 192.0.2.1 /etc/dnsmasq-mesh").rc != 0


def test_a_host_gets_back_what_it_had_and_a_failed_hand_over_leaves_it(mesh):
    """One test, as each step needs the one before: restore, refuse, fail, and hand over again."""
    assert playbook(mesh.inventory, SCENARIO / "restore.yml").code == 0
    for name in HOSTS:
        assert looks_up(mesh, name, ordinary(name))
        assert not mesh.node(name).exists("/etc/dnsmasq-mesh")
        for unit in ("dnsmasq-mesh", "mesh-names"):
            assert not mesh.node(name).file(f"/etc/systemd/system/{unit}.service").exists
        assert not mesh.node(name).exists("mesh-names")
        assert not mesh.node(name).file("/var/lib/mesh-names").exists
        assert "vdloo.mesh" not in mesh.node(name).file("/etc/resolv.conf").content_string
    assert mesh.node("resolvconf").check_output("readlink /etc/resolv.conf") == "../run/resolvconf/resolv.conf"
    before = {name: resolver_state(mesh, name) for name in HOSTS}
    assert set(playbook(mesh.inventory, SCENARIO / "restore.yml").changed.values()) == {0}

    check = playbook(mesh.inventory, SCENARIO / "converge.yml", "--check", "--diff")
    assert check.code == 0, check.output
    assert all(check.changed[name] > 0 for name in HOSTS)
    assert {name: resolver_state(mesh, name) for name in HOSTS} == before

    mesh.node("plain").check_output("systemd-run --unit=other python3 /usr/local/lib/names.py 127.0.0.1 53 -")
    refused = playbook(mesh.inventory, SCENARIO / "converge.yml", "-l", "plain")
    assert refused.code != 0 and refused.changed["plain"] == 0
    assert re.search(r"port 53 of 127\.0\.0\.1 is held by python3 \(pid \d+,\s+other\.service\)", refused.output)
    mesh.node("plain").check_output("systemctl stop other")
    assert resolver_state(mesh, "plain") == before["plain"]

    failed = playbook(mesh.inventory, SCENARIO / "converge.yml", *DEAD_UPSTREAM)
    assert failed.code != 0
    for name in HOSTS:
        assert resolver_state(mesh, name) == before[name], name
        assert looks_up(mesh, name, ordinary(name))

    assert playbook(mesh.inventory, SCENARIO / "converge.yml").code == 0
    for name in HOSTS:
        assert everything_resolves(mesh, name)
    assert set(playbook(mesh.inventory, SCENARIO / "converge.yml").changed.values()) == {0}


def test_a_host_that_is_not_managed_gets_its_resolver_back_and_keeps_dnsmasq(mesh):
    run = playbook(mesh.inventory, SCENARIO / "converge.yml", "-e", "{dnsmasq_resolver_managed: false}", "-l", "plain,resolved")
    assert run.code == 0, run.output
    for name in ("plain", "resolved"):
        assert looks_up(mesh, name, ordinary(name))
        assert not looks_up(mesh, name, "web.service.consul")
        assert mesh.node(name).check_output("dig +short @127.0.0.1 web.service.consul") == "192.0.2.99"
    assert playbook(mesh.inventory, SCENARIO / "converge.yml", "-l", "plain,resolved").code == 0
    assert everything_resolves(mesh, "plain") and everything_resolves(mesh, "resolved")
