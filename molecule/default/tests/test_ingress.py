# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a client of a node's h2o meets, from outside. Each test leaves the mesh as it was."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Iterable, Iterator

import pytest
import yaml
from helpers import NODES
from mesh import playbook

LIMIT = 4194304
UPSTREAM_TIMEOUT = 5
CERTIFICATE = {"certificate_file": "/etc/ssl/test-ingress.crt", "key_file": "/etc/ssl/private/test-ingress.key"}
# n3 has no web service, and nobody checks whether it has.
HALF = {"n1": [], "n2": [], "n3": ["dead"]}


def edge(mesh, name: str) -> str:
    return mesh.hosts[name]["ansible_host"]


def ask(mesh, node: str, method: str, host: str, path: str = "/", body: bytes | Iterable[bytes] | None = None, **headers: str):
    """Ask the h2o of a node from outside the mesh: (status, headers, body). A body that is no bytes is sent in chunks."""
    connection = http.client.HTTPConnection(edge(mesh, node), 80, timeout=30)
    connection.request(method, path, body, {"Host": host, **headers}, encode_chunked="Transfer-Encoding" in headers)
    return told(connection)


def told(connection: http.client.HTTPConnection) -> tuple[int, dict[str, str], str]:
    response = connection.getresponse()
    return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read().decode()


def arrivals(mesh, mark: str) -> int:
    """How often the instances have got a request with this mark; they are asked without h2o."""
    count = 0
    for name in ("n1", "n2"):
        connection = http.client.HTTPConnection(edge(mesh, name), 8080, timeout=10)
        connection.request("GET", f"/arrived/{mark}")
        count += int(connection.getresponse().read())
    return count


class Socket:
    """A websocket as a browser opens it, for short texts."""

    def __init__(self, address: str, host: str) -> None:
        self._connection = socket.create_connection((address, 80), timeout=30)
        self._file = self._connection.makefile("rb")
        head = f"GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
        key = base64.b64encode(os.urandom(16)).decode()
        self._connection.sendall(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        self.status = int(self._file.readline().split()[1])
        self.headers = http.client.parse_headers(self._file)

    def send(self, text: str) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(text.encode()))
        self._connection.sendall(bytes([0x81, 0x80 | len(masked)]) + mask + masked)

    def receive(self) -> str:
        kind, length = self._file.read(2)
        assert kind == 0x81
        return self._file.read(length).decode()


@pytest.fixture(scope="module")
def half(mesh) -> Iterator[None]:
    """A service with three instances in DNS, of which two live."""
    found = "dig +short +time=2 AAAA test-half.service.consul"
    for name, tags in HALF.items():
        service = json.dumps({"Name": "test-half", "Port": 8080, "Tags": tags})
        mesh.node(name).check_output("curl -sf -X PUT -d %s http://127.0.0.1:8500/v1/agent/service/register", service)
    try:
        for name in NODES:
            mesh.wait_for(lambda name=name: len(mesh.node(name).check_output(found).split()) == 3, f"{name} finds all instances", 20)
        yield
        assert len(mesh.node("n1").check_output(found).split()) == 3
    finally:
        for name in HALF:
            mesh.node(name).check_output("curl -sf -X PUT http://127.0.0.1:8500/v1/agent/service/deregister/test-half")


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("name", NODES)
def test_a_post_passes_by_a_dead_instance_and_arrives_once_and_whole(mesh, name):
    mark = f"{name}-{time.time()}"
    # So many that it is as good as certain that some of them met the dead one first.
    for size in (0, 1, 70_000, *range(1000, 1030)):
        body = os.urandom(size)
        status, _headers, text = ask(mesh, name, "POST", "half.example.org", "/in", body, **{"X-Id": mark})
        assert (status, text.split()) == (200, [str(size), hashlib.sha256(body).hexdigest()])
    assert arrivals(mesh, mark) == 33


@pytest.mark.usefixtures("half")
def test_a_body_in_chunks_and_a_large_one_arrive_whole(mesh):
    parts = [os.urandom(1000) for _part in range(100)]
    status, _headers, text = ask(mesh, "n3", "POST", "half.example.org", "/", iter(parts), **{"Transfer-Encoding": "chunked"})
    assert (status, text.split()[1]) == (200, hashlib.sha256(b"".join(parts)).hexdigest())
    large = os.urandom(LIMIT)
    status, _headers, text = ask(mesh, "n3", "POST", "socket.example.org", "/", large)
    assert (status, text.split()[1]) == (200, hashlib.sha256(large).hexdigest())


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_when_nobody_answers_the_page_names_the_service(mesh, method):
    status, headers, text = ask(mesh, "n1", method, "dead.example.org", "/", b"x" if method == "POST" else None)
    assert (status, headers["content-type"]) == (502, "text/plain; charset=utf-8")
    assert text == "No answer from dead.test-half.service.consul:8080: connection failure\n"


def test_a_failure_that_a_service_tells_of_itself_is_passed_on(mesh):
    mark = str(time.time())
    status, _headers, text = ask(mesh, "n1", "POST", "web.example.org", "/502", b"x", **{"X-Id": mark})
    assert (status, text.split()) == (502, ["1", hashlib.sha256(b"x").hexdigest()])
    assert arrivals(mesh, mark) == 1


@pytest.mark.usefixtures("half")
def test_a_connection_is_kept_over_failures_and_retries(mesh):
    connection = http.client.HTTPConnection(edge(mesh, "n1"), 80, timeout=30)
    seen = []
    for host in ("dead.example.org", "half.example.org") * 8:
        connection.request("POST", "/", b"x", {"Host": host})
        seen.append((told(connection)[0], connection.sock.getsockname()))
    assert [status for status, _own in seen] == [502, 200] * 8
    assert len({own for _status, own in seen}) == 1


def test_a_body_over_the_limit_is_refused_and_the_next_request_is_served(mesh):
    head = f"POST / HTTP/1.1\r\nHost: web.example.org\r\nExpect: 100-continue\r\nContent-Length: {LIMIT + 1}\r\n\r\n"
    with socket.create_connection((edge(mesh, "n1"), 80), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    chunks = (bytes(100_000) for _part in range(LIMIT // 100_000 + 1))
    status, _headers, _text = ask(mesh, "n1", "POST", "web.example.org", "/", chunks, **{"Transfer-Encoding": "chunked", "X-Id": "large"})
    assert status == 413
    assert arrivals(mesh, "large") == 0
    assert ask(mesh, "n1", "GET", "web.example.org")[0] == 200


@pytest.mark.parametrize("name", NODES)
def test_a_websocket_passes_in_both_directions_and_the_rest_of_its_route_as_ever(mesh, name):
    opened = Socket(edge(mesh, name), "socket.example.org")
    assert (opened.status, opened.headers["Upgrade"]) == (101, "websocket")
    assert opened.receive().startswith("served by n")
    for text in ("one", "two"):
        opened.send(text)
        assert opened.receive() == text
    assert ask(mesh, name, "GET", "socket.example.org")[2].startswith("served by n")
    # Without the word of the route it stays a request.
    assert Socket(edge(mesh, name), "web.example.org").headers["Upgrade"] is None


def test_a_websocket_outlives_silence_and_a_reload(mesh):
    opened = Socket(edge(mesh, "n1"), "socket.example.org")
    opened.receive()
    mesh.node("n1").check_output("systemctl reload h2o")
    time.sleep(UPSTREAM_TIMEOUT + 1)
    opened.send("still here")
    assert opened.receive() == "still here"


def run_with_tls(mesh, path, tls: dict) -> dict[str, int]:
    """Run the role on n3, as the site playbook does but for HTTPS."""
    routes = [route for name in NODES for route in mesh.registry[name].get("routes", [])]
    tasks = [{"ansible.builtin.include_role": {"name": "vdloo.mesh.h2o"}, "vars": {"h2o_tls": tls, "h2o_mesh_routes": routes}}]
    (path / "tls.yml").write_text(yaml.safe_dump([{"hosts": "n3", "gather_facts": False, "tasks": tasks}]))
    run = playbook(mesh.inventory, path / "tls.yml")
    assert run.code == 0, run.output
    return run.changed


def make_certificate(mesh) -> bytes:
    subject = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=n3 -keyout {CERTIFICATE['key_file']}"
    mesh.node("n3").check_output(f"{subject} -out {CERTIFICATE['certificate_file']} 2>/dev/null")
    return ssl.PEM_cert_to_DER_cert(mesh.node("n3").check_output(f"cat {CERTIFICATE['certificate_file']}"))


def shown_certificate(mesh, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
    # So that it is not this side that refuses an old version.
    context.set_ciphers("ALL:@SECLEVEL=0")
    connection = http.client.HTTPSConnection(edge(mesh, "n3"), 443, timeout=30, context=context)
    connection.request("POST", "/", b"x", {"Host": "web.example.org"})
    shown = connection.sock.getpeercert(binary_form=True)
    assert told(connection)[0] == 200
    return shown


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_https_with_a_certificate_from_files_and_with_a_renewed_one(mesh, tmp_path):
    before = mesh.node("n3").check_output("sha256sum /etc/h2o/* /etc/systemd/system/h2o.service")
    try:
        first = make_certificate(mesh)
        run_with_tls(mesh, tmp_path, CERTIFICATE)
        assert shown_certificate(mesh) == shown_certificate(mesh, ssl.TLSVersion.TLSv1_2) == first
        # h2o hangs up; a refusal of this side would read otherwise.
        with pytest.raises(ssl.SSLError, match="UNEXPECTED_EOF|ALERT_PROTOCOL_VERSION"):
            shown_certificate(mesh, ssl.TLSVersion.TLSv1_1)
        pids = mesh.pids("n3")
        renewed = make_certificate(mesh)
        assert run_with_tls(mesh, tmp_path, CERTIFICATE)["n3"] > 0
        # The worker process from before may take one more connection.
        mesh.wait_for(lambda: shown_certificate(mesh) == renewed, "h2o shows the renewed certificate", 20)
        assert mesh.pids("n3") == pids
    finally:
        run_with_tls(mesh, tmp_path, {})
        mesh.node("n3").check_output(f"rm -f {CERTIFICATE['certificate_file']} {CERTIFICATE['key_file']}")
    assert mesh.node("n3").check_output("sha256sum /etc/h2o/* /etc/systemd/system/h2o.service") == before
