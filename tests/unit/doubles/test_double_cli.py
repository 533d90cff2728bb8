# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command line of the cjdroute double: what it prints and how it ends."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import signal
import socket
import subprocess
import time
import types

import pytest

ABORTED = -signal.SIGABRT  # 134 to a shell


@pytest.fixture
def cjdroute(program):
    def run(*args, stdin=b"", **options):
        return subprocess.run([program, *args], input=stdin, capture_output=True, timeout=30, check=False, **options)

    return run


def test_version_is_two_lines_and_names_the_double(cjdroute):
    for option in ("--version", "-v"):
        done = cjdroute(option)
        assert (done.returncode, done.stdout.decode().splitlines()) == (0, ["Cjdns version: 22.3-double", "Cjdns protocol version: 22"])


def test_help_says_that_it_is_a_double(cjdroute):
    for option in ("--help", "-h"):
        done = cjdroute(option)
        assert done.returncode == 0 and b"TEST DOUBLE" in done.stdout and b"--genconf" in done.stdout


@pytest.mark.parametrize("args", [[], ["--nobg"], ["--cleanconf"]])
def test_a_terminal_as_stdin_gets_the_usage(program, args):
    controller, terminal = pty.openpty()
    try:
        done = subprocess.run([program, *args], stdin=terminal, capture_output=True, timeout=10, check=False)
    finally:
        os.close(controller)
        os.close(terminal)
    assert done.returncode == 0 and b"Usage" in done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ["--check"],
        ["--reconf"],
        ["--bench"],
        ["--pidfile"],
        ["cjdroute.conf"],
        ["--nobg", "--nobg"],
        ["--genconf", "--no-eth"],
        ["--genconf", "--eth", "--eth"],
        ["--version", "x"],
    ],
)
def test_unknown_options_end_with_255(cjdroute, args):
    done = cjdroute(*args)
    assert done.returncode == 255 and done.stdout == b"" and done.stderr


def test_genconf_is_a_commented_file_that_only_cleanconf_makes_json(cjdroute, double):
    made = cjdroute("--genconf").stdout
    with pytest.raises(ValueError):
        json.loads(made)
    assert b"//" in made and b"/*" in made and b"TEST DOUBLE" in made
    cleaned = cjdroute("--cleanconf", stdin=made)
    assert cleaned.returncode == 0
    config = json.loads(cleaned.stdout)
    assert config["version"] == 2
    assert config["admin"] == {"bind": "127.0.0.1:11234", "password": "NONE"}
    public = double.public_of(bytes.fromhex(config["privateKey"]))
    assert (config["publicKey"], config["ipv6"]) == (double.key_text(public), double.ip_text(double.address_of(public)))
    four, six = config["interfaces"]["UDPInterface"]
    assert four["bind"].startswith("0.0.0.0:") and six["bind"] == "[::]" + four["bind"][7:]
    assert "_disabled_ETHInterface" in config["interfaces"]
    assert cjdroute("--cleanconf", stdin=cleaned.stdout).stdout == cleaned.stdout


def test_genconf_makes_a_new_identity_each_time(cjdroute, double):
    assert len({cjdroute("--genconf").stdout for attempt in range(3)}) == 3


def test_genconf_eth_switches_ethernet_on(cjdroute, double):
    config = double.parse_config(cjdroute("--genconf", "--eth").stdout)
    assert "ETHInterface" in config["interfaces"]


def test_genconf_seed_depends_on_the_seed_alone(cjdroute):
    one, same, other = (cjdroute("--genconf-seed", stdin=bytes([seed]) * 64) for seed in (1, 1, 2))
    assert one.returncode == 0 and one.stdout == same.stdout != other.stdout
    assert cjdroute("--genconf-seed", stdin=b"short").returncode == 255


def test_cleanconf_fails_on_errors_and_on_big_files(cjdroute):
    assert cjdroute("--cleanconf", stdin=b'{"a": true}').returncode == 255
    assert cjdroute("--cleanconf", stdin=b'{"a": "%s"}' % (b"x" * 9000)).returncode == 0
    done = cjdroute("--cleanconf", stdin=b'{"a": "%s"}' % (b"x" * 10000))
    assert done.returncode == 255 and done.stdout == b""


@pytest.fixture
def base(double, make_node):
    """A configuration that starts, and the node it belongs to."""
    return make_node("a").config


def peer(double, **changes):
    key = double.key_text(double.public_of(double.generate_key()))
    return {key: value for key, value in dict({"publicKey": key, "password": "x"}, **changes).items() if value is not None}


BROKEN = {
    "no private key": (lambda c, d: c.pop("privateKey"), ABORTED, "privateKey"),
    "short private key": (lambda c, d: c.update(privateKey="ab"), ABORTED, "64 bytes of hex"),
    "key outside fc00::/8": (lambda c, d: c.update(privateKey="00" * 32), ABORTED, "fc00::/8"),
    "no admin bind": (lambda c, d: c["admin"].pop("bind"), ABORTED, "admin.bind"),
    "admin bind of another type": (lambda c, d: c["admin"].update(bind=11234), ABORTED, "admin.bind"),
    "admin bind by name": (lambda c, d: c["admin"].update(bind="localhost:1"), ABORTED, "unparsable"),
    "pipe nowhere": (lambda c, d: c.update(pipe="/nonexistent/sock"), ABORTED, "pipe"),
    "password missing": (lambda c, d: c.update(authorizedPasswords=[{"user": "x"}]), 255, "password 0"),
    "password entry no dict": (lambda c, d: c.update(authorizedPasswords=["x"]), 255, "dictionary"),
    "bad restriction": (lambda c, d: c.update(authorizedPasswords=[{"password": "x", "ipv6": "fc::z"}]), 1, "Invalid IPv6"),
    "same user twice": (lambda c, d: c.update(authorizedPasswords=[{"password": "x", "user": "y"}] * 2), 1, "already added"),
    "hostname": (lambda c, d: connect(c, {"example.org:1": peer(d)}), 255, "hostnames aren't supported"),
    "entry no dict": (lambda c, d: connect(c, {"127.0.0.1:1": "x"}), 255, "not a dictionary"),
    "wrong family": (lambda c, d: connect(c, {"[::1]:1": peer(d)}), 1, "different address type"),
    "own key": (lambda c, d: connect(c, {"127.0.0.1:1": peer(d, publicKey=c["publicKey"])}), 1, "invalid cjdns public key"),
    "no key": (lambda c, d: connect(c, {"127.0.0.1:1": peer(d, publicKey=None)}), 1, "[publicKey] is required"),
    "bad key": (lambda c, d: connect(c, {"127.0.0.1:1": peer(d, publicKey="x.k")}), 1, "52 characters"),
    "no password to dial": (lambda c, d: connect(c, {"127.0.0.1:1": peer(d, password=None)}), ABORTED, "password"),
    "request too big": (lambda c, d: connect(c, {"127.0.0.1:1": peer(d, contact="x" * 250)}), 1, "Timed out waiting"),
    "address in use": (lambda c, d: c["interfaces"].update(UDPInterface=c["interfaces"]["UDPInterface"] * 2), 1, "Failed to listen"),
    "tunnel without key": (lambda c, d: c["router"].update(ipTunnel={"allowedConnections": [{}]}), 1, "'publicKey' required"),
    "tunnel without address": (lambda c, d: c["router"].update(ipTunnel={"allowedConnections": [{"publicKey": "x"}]}), 1, "required"),
    "unknown user": (lambda c, d: c.update(security=[{"setuser": "no-such-user-here"}]), 1, "no-such-user-here"),
}


def connect(config, entries):
    config["interfaces"]["UDPInterface"][0]["connectTo"] = entries


@pytest.mark.parametrize(
    "what, background", [(what, False) for what in BROKEN] + [("hostname", True), ("own key", True), ("no admin bind", True)]
)
def test_broken_configurations_end_as_in_cjdroute(cjdroute, base, double, what, background):
    damage, code, words = BROKEN[what]
    damage(base, double)
    done = cjdroute(*([] if background else ["--nobg"]), stdin=json.dumps(base).encode())
    assert done.returncode == code, done.stderr
    assert words in done.stderr.decode()


def test_a_parse_error_ends_with_255(cjdroute):
    for text in (b"", b'{"privateKey": null}', b'{"version": 2,}'):
        assert cjdroute("--nobg", stdin=text).returncode == 255


def test_a_request_just_within_the_limit_starts(make_node, double):
    node = make_node("a")
    connect(node.config, {"127.0.0.1:1": peer(double, contact="x" * 100)})
    node.start().ready()


def test_a_second_instance_is_refused_even_with_another_password(cjdroute, make_node):
    node = make_node("a")
    node.start().ready()
    node.config["admin"]["password"] = "another"
    done = cjdroute("--nobg", stdin=json.dumps(node.config).encode())
    assert done.returncode == ABORTED and b"already running" in done.stderr
    assert node.admin.ask({"q": "ping"}) == {"q": "pong"}


def test_a_foreign_admin_port_is_an_error(cjdroute, base):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        base["admin"]["bind"] = f"127.0.0.1:{sock.getsockname()[1]}"
        assert cjdroute("--nobg", stdin=json.dumps(base).encode()).returncode == ABORTED


def gone(pid):
    """Whether the process has ended (its zombie may be waiting for init)."""
    try:
        return not pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("config", [{}, {"noBackground": 0}])
def test_without_options_it_runs_in_the_background_once_it_is_up(cjdroute, make_node, config, wait_until):
    node = make_node("a")
    node.config.update(config)
    done = cjdroute(stdin=json.dumps(node.config).encode())
    pid = node.admin.ask({"q": "Core_pid"}, timeout=1)["pid"]  # up at once
    assert done.returncode == 0 and pid != os.getpid()
    assert node.admin("Core_exit") == {"error": "none"}
    assert wait_until(lambda: gone(pid))


def test_no_background_in_the_configuration_stays_in_the_foreground(make_node):
    node = make_node("a")
    node.config["noBackground"] = 1
    node.start().ready()
    assert node.admin.ask({"q": "Core_pid"})["pid"] == node.process.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(make_node, number):
    node = make_node("a")
    node.start().ready()
    node.process.send_signal(number)
    assert node.process.wait(2) == 0
    assert "stopped" in node.log.read_text()


def test_the_log_says_that_it_is_a_double(make_node):
    node = make_node("a")
    node.start().ready()
    assert "TEST DOUBLE" in node.log.read_text()


def test_a_tun_that_cannot_be_made_is_only_a_warning(make_node):
    node = make_node("a")
    node.config["router"]["interface"] = {"type": "TUNInterface", "tunDevice": "lo"}
    node.start().ready()
    assert "Failed to configure tunnel" in node.log.read_text()


def test_an_unfinished_setup_ends_with_232_after_20_seconds(double, base, monkeypatch):
    monkeypatch.setattr(double.Core, "catch_signals", lambda core: None)
    core = double.start(dict(base, security=[{"setupComplete": 0}]))
    now, waited = time.monotonic(), []
    monkeypatch.setattr(core.selector, "select", lambda timeout: waited.append(timeout) or [])
    monkeypatch.setattr(double, "time", types.SimpleNamespace(monotonic=lambda: now + sum(waited), time=time.time))
    assert core.run() == 232
    assert 19 < sum(waited) < 21
    core.selector.close()


def test_the_whole_documented_configuration_starts(make_node, double):
    node = make_node("a")
    node.config.update(
        corePath="/old",
        logging={"logTo": "stdout"},
        somethingElse={"x": [1]},
        security=[{"setuser": 0}, {"chroot": 0}, {"nofiles": 0}, {"noforks": 1}, {"seccomp": 0}, {"setupComplete": 1}, "nofiles"],
    )
    node.config["router"].update(
        supernodes=["x.k"],
        dnsSeeds=["seed.example"],
        publicPeer={"id": "PUB_x", "ipv4": "192.0.2.1"},
        ipTunnel={"allowedConnections": [], "outgoingConnections": []},
    )
    node.config["interfaces"]["ETHInterface"] = [{"bind": "all", "beacon": 2, "connectTo": {}}]
    node.config["interfaces"]["UDPInterface"].append(
        {"bind": f"[::]:{node.port}", "dscp": 0, "beacon": 0, "connectTo": {"[2001:db8::1]:1": peer(double)}}
    )
    node.start().ready()
    assert node.admin("PeeringSeeder_listDnsSeeds") == {"seeds": {"seed.example": 0}, "error": "none"}
    assert node.admin("PeeringSeeder_publicStatus")["peerId"] == "PUB_x"
    log = node.log.read_text()
    assert "Unrecognized entry in security at index [4]" in log and "no Ethernet" in log


def test_a_single_interface_need_not_be_a_list(make_node):
    node = make_node("a")
    node.config["interfaces"]["UDPInterface"] = node.config["interfaces"]["UDPInterface"][0]
    node.start().ready()
    assert node.admin("InterfaceController_interfaces")["total"] == 1
