# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The program as it runs: any packet, many at once, clients that stall, and what it tells of itself."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible_collections.vdloo.mesh.plugins.module_utils import manifest_reader
from ansible_collections.vdloo.mesh.plugins.module_utils.names import __main__ as program
from ansible_collections.vdloo.mesh.plugins.module_utils.names import config, server, wire
from ansible_collections.vdloo.mesh.plugins.plugin_utils import rendering
from fake_names import Running, free_port, question, rdata
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

PACKAGE = Path(config.__file__).parent
GIVEN = {"__dnsmasq_facts": {"python": sys.executable}, "ansible_facts": {"os_family": "Debian"}}
UNIT = "/etc/systemd/system/mesh-names.service"


@pytest.fixture(scope="module")
def files():
    """What the role installs, with its defaults."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "load_extra_vars", lambda _loader: {})
        role = rendering.Host(rendering.Roles(DataLoader()), {})
        return manifest_reader.read(role.role_value("dnsmasq", "__dnsmasq_manifest", GIVEN))["files"]


@pytest.fixture
def installed(files, tmp_path):
    """The folder of the program, as on a node."""
    folder = Path("/usr/local/lib/mesh-names")
    for path, entry in files.items():
        if folder in Path(path).parents:
            place = tmp_path / "lib" / Path(path).relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(entry["content"])
    return tmp_path / "lib"


@pytest.fixture
def running(installed, settings, fake, tmp_path):
    fake.dns = {("web.service.consul", wire.AAAA): [rdata("fc00::1")], ("consul.service.consul", wire.ANY): [b"\xfc" + bytes(15)]}
    found = Running(installed, settings, tmp_path)
    found.start()
    yield found
    found.stop()


def ask_tcp(sock: socket.socket, packet: bytes) -> bytes:
    sock.sendall(struct.pack("!H", len(packet)) + packet)
    stream = sock.makefile("rb")
    return stream.read(struct.unpack("!H", stream.read(2))[0])


def test_it_answers_by_udp_and_several_times_by_one_tcp_connection(running):
    asked = question("web.service.consul", wire.AAAA)
    answer = running.udp(asked)
    assert wire.address_of(wire.decode(answer).answers[0]) == rdata("fc00::1")
    with running.tcp() as sock:
        assert [ask_tcp(sock, asked) for _number in range(3)] == [answer] * 3


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packet=st.binary(max_size=80))
def test_no_packet_kills_it(running, packet):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(packet, ("127.0.0.1", running.port))
    with running.tcp() as sock:
        sock.sendall(struct.pack("!H", len(packet)) + packet)
    assert running.process.poll() is None


def test_after_all_that_it_answers_and_has_complained_of_nothing(running):
    for packet in (b"", b"\0", b"\0" * 12, b"\xff" * 600, question("web.service.consul")[:-1], question("web.service.consul") + b"x"):
        running.udp(packet, 0.05)
    assert wire.decode(running.udp(b"\0\7" + b"\0" * 10)).rcode == wire.FORMERR
    assert wire.decode(running.udp(b"\0\7\x28" + b"\0" * 9)).rcode == wire.NOTIMP
    assert running.udp(b"\0\7\x80" + b"\0" * 9, 0.2) is None, "an answer is no question"
    assert running.udp(question("web.service.consul", wire.AAAA))
    assert "Traceback" not in running.log.read_text()


def test_clients_that_stall_are_few_and_keep_nobody_else_waiting(running):
    stalled = [running.tcp() for _number in range(server.MOST_CLIENTS)]
    time.sleep(0.2)
    with running.tcp() as sock:
        assert sock.recv(1) == b"", "one too many is turned away"
    assert running.udp(question("web.service.consul", wire.AAAA))
    stalled[0].settimeout(server.CLIENT_S + 3)
    stalled[0].sendall(b"\0")
    assert stalled[0].recv(1) == b"", "and in the end it is cut off"
    with running.tcp() as sock:
        assert ask_tcp(sock, question("web.service.consul", wire.AAAA))
    for sock in stalled:
        sock.close()


def test_hundreds_of_questions_at_once_are_answered(running):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        for ident in range(200):
            sock.sendto(question("web.service.consul", wire.AAAA, ident=ident), ("127.0.0.1", running.port))
        found = set()
        with contextlib.suppress(TimeoutError):
            while len(found) < 200:
                found.add(wire.decode(sock.recv(4096)).ident)
    assert found == set(range(200))


def test_a_restart_without_consul_answers_what_was_known(running, fake, settings):
    deadline = time.monotonic() + 10
    while not os.path.exists(settings.snapshot):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.stop()
    assert running.status().returncode == 1
    assert "mesh-names does not answer" in running.status().stdout and "its snapshot was right" in running.status().stdout
    told = json.loads(running.config.read_text())
    running.config.write_text(json.dumps({**told, "consul_dns": "127.0.0.1#1", "consul_http": "127.0.0.1#1"}))
    running.start()
    answer = wire.decode(running.udp(question("db.service.consul")))
    assert [wire.address_of(record) for record in answer.answers] == [rdata("192.0.2.7")]
    status = running.status()
    assert status.returncode == 3 and "STALE" in status.stdout and "Connection refused" in status.stdout


def test_it_tells_what_it_answers_from(running):
    deadline = time.monotonic() + 10
    while running.status().returncode != 0:
        assert time.monotonic() < deadline, running.status().stdout
        time.sleep(0.05)
    assert running.status().stdout.startswith("answers:  Consul, without the nodes that gossip knows as dead")
    found = json.loads(running.status("--json").stdout)
    assert (found["answers_from"], found["stale"], found["snapshot"]["services"], found["registry"]) == (
        "consul",
        False,
        3,
        {"nodes": 0, "problem": ""},
    )
    running.udp(question("n1.mesh", wire.AAAA))
    assert json.loads(running.status("--json").stdout)["registry"]["nodes"] == 1


def test_it_tells_systemd_that_it_is_ready_and_still_lives(installed, settings, tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(10)
        found = Running(installed, settings, tmp_path)
        try:
            found.start(NOTIFY_SOCKET=path, WATCHDOG_USEC="300000")
            assert [sock.recv(100) for _number in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        finally:
            found.stop()


def test_a_port_that_is_taken_is_said_and_ends_it(running):
    second = subprocess.run(running.argv("serve"), cwd=running.folder, capture_output=True, text=True, check=False, timeout=20)
    assert second.returncode == 1 and str(running.port) in second.stderr and "Traceback" not in second.stderr


def test_a_place_to_stand_in_that_is_taken_is_told_and_the_rest_goes_on(installed, settings, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        program = Running(installed, settings._replace(spare=config.Server(*taken.getsockname())), tmp_path)
        program.start()
        try:
            assert "problem:  cannot stand in for dnsmasq on 127.0.0.1" in program.status().stdout
            assert program.udp(question("n1.mesh", wire.AAAA))
        finally:
            program.stop()


def test_it_stands_in_for_dnsmasq_where_it_is_told_to(installed, settings, tmp_path):
    at = config.Server("127.0.0.1", free_port())
    program = Running(installed, settings._replace(spare=at, zones=("consul", "mesh")), tmp_path)
    program.start()
    try:
        program.port = at.port
        assert wire.decode(program.udp(question("n1.mesh", wire.AAAA))).rcode == wire.NOERROR
        assert wire.decode(program.udp(question("example.org"))).rcode == wire.SERVFAIL
    finally:
        program.stop()


@pytest.mark.parametrize("text", ["", "{}", '{"listen": "nowhere"}'])
def test_a_configuration_that_cannot_be_used_is_said(running, text):
    running.config.write_text(text)
    done = subprocess.run(running.argv("serve"), cwd=running.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "run the role dnsmasq again" in done.stderr


def test_it_is_small(running):
    running.udp(question("web.service.consul", wire.AAAA))
    rss = int(Path(f"/proc/{running.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()
    assert rss < 32 * 1024 * 1024


def test_a_signal_ends_it_at_once(running):
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(5) is not None


# ---------------------------------------------------------------- as the role installs it


def test_every_file_of_the_package_is_installed_to_the_byte(installed):
    assert {path.name: path.read_bytes() for path in (installed / "names").glob("*.py")} == {
        path.name: path.read_bytes() for path in PACKAGE.glob("*.py")
    }


def test_the_unit_and_the_command_call_it_and_leave_nothing_behind(installed, files):
    unit = files[UNIT]["content"].decode()
    assert f"\nExecStart={sys.executable} -BES -m names serve\n" in unit
    assert "\nWorkingDirectory=/usr/local/lib/mesh-names\n" in unit
    assert files["/usr/local/bin/mesh-names"]["mode"] == "0755"
    assert b"cd /usr/local/lib/mesh-names && exec " in files["/usr/local/bin/mesh-names"]["content"]
    before = sorted(installed.rglob("*"))
    done = subprocess.run([sys.executable, "-BES", "-m", "names", "what"], cwd=installed, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, program.USAGE)
    assert sorted(installed.rglob("*")) == before


def test_the_configuration_that_the_role_writes_is_the_one_that_is_read(files, tmp_path):
    (tmp_path / "names.json").write_bytes(files[config.FILE]["content"])
    found = config.load(str(tmp_path / "names.json"))
    assert found.listen == ("127.0.0.1", 8653) and found.consul_dns == ("127.0.0.1", 8600) and found.consul_http == ("127.0.0.1", 8500)
    assert (found.consul_domain, found.mesh_domain, found.max_age) == ("consul", "mesh", 604800)


def test_dnsmasq_asks_it_and_is_not_restarted_for_it(files):
    lines = files["/etc/dnsmasq-mesh/dnsmasq.conf"]["content"].decode().splitlines()
    assert "server=/consul/mesh/127.0.0.1#8653" in lines and "rev-server=fc00::/8,127.0.0.1#8653" in lines
    assert not any("8600" in line for line in lines)
