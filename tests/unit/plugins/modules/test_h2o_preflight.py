# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest
from ansible_collections.vdloo.mesh.plugins.modules import h2o_preflight


@pytest.fixture
def listener():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one.getsockname()[1]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is needed to make certificates")
    folder = tmp_path_factory.mktemp("tls")
    for name in ("one", "two"):
        command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        subprocess.run([*command, "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"], check=True, capture_output=True)
    command = [openssl, "rsa", "-aes128", "-passout", "pass:secret", "-in", f"{folder}/one.key", "-out", f"{folder}/locked.key"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_only_sockets_that_listen_on_the_port_count(listener, monkeypatch):
    monkeypatch.setattr(h2o_preflight.ports, "holders", lambda _inodes: [])
    hidden = f"port {listener} is taken by a process that this node does not show: stop it, or set h2o_http_port to a free port"
    assert h2o_preflight.port_problem("h2o_http_port", listener, 0) == hidden
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, socket.create_connection(("127.0.0.1", listener)) as connection:
        other.bind(("127.0.0.1", 0))
        for one in (other, connection):
            assert h2o_preflight.port_problem("h2o_http_port", one.getsockname()[1], 0) is None


def test_a_taken_port_is_refused_with_the_name_of_its_holder(listener):
    problem = h2o_preflight.port_problem("h2o_http_port", listener, 0)
    name = h2o_preflight.read_text("/proc/self/comm").strip()
    assert problem == f"port {listener} is taken by {name} (pid {os.getpid()}): stop it, or set h2o_http_port to a free port"


def test_a_port_of_our_own_h2o_is_not_taken(listener):
    assert h2o_preflight.port_problem("h2o_http_port", listener, os.getpid()) is None


def test_a_port_of_a_child_of_our_own_h2o_is_not_taken():
    program = (
        "import socket; one = socket.socket(); one.bind(('127.0.0.1', 0)); one.listen(); print(one.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        port = int(child.stdout.readline())
        assert h2o_preflight.port_problem("h2o_http_port", port, os.getpid()) is None
        assert f"(pid {child.pid})" in h2o_preflight.port_problem("h2o_http_port", port, 0)
        child.communicate("\n")


def test_a_free_port_is_no_problem(listener):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert h2o_preflight.port_problem("h2o_http_port", free, 0) is None


def test_the_version_and_mruby_are_read():
    assert h2o_preflight.parse_version("h2o version 2.2.5\nOpenSSL: OpenSSL 3.0.19\nmruby: YES\n") == ("2.2.5", True)
    assert h2o_preflight.parse_version("h2o version 2.2.6\nmruby: NO\n") == ("2.2.6", False)
    assert h2o_preflight.parse_version("nonsense") == ("", False)


def test_the_distribution_is_read_with_and_without_quotes():
    assert h2o_preflight.parse_os_release('# x\nID=debian\nVERSION_ID="12"\n\n') == {"ID": "debian", "VERSION_ID": "12"}


def test_a_pair_of_certificate_and_key_is_fine(pairs):
    assert h2o_preflight.tls_problem(f"{pairs}/one.pem", f"{pairs}/one.key") is None


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("none.pem", "one.key", "h2o_tls.certificate_file {0}/none.pem does not exist"),
        ("one.pem", "none.key", "h2o_tls.key_file {0}/none.key does not exist"),
        ("one.pem", "two.key", "h2o_tls.key_file {0}/two.key is not the key of h2o_tls.certificate_file {0}/one.pem"),
        ("one.pem", "locked.key", "h2o_tls: {0}/one.pem and {0}/locked.key cannot be loaded"),
        ("one.key", "one.key", "h2o_tls: {0}/one.key and {0}/one.key cannot be loaded"),
    ],
)
def test_a_pair_that_h2o_could_not_serve_is_refused(pairs, certificate, key, message):
    problem = h2o_preflight.tls_problem(f"{pairs}/{certificate}", f"{pairs}/{key}")
    assert problem is not None
    assert problem.startswith(message.format(pairs))
