# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A mesh of three as its sources answer it: a fake Consul, the cjdns double, a registry file; and Ansible's own inventory to load it with."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import inventory_loader
from ansible.utils.display import Display
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns.admin import AdminError, Client
from fake_mesh import KEYS, PRIVATE_KEY, FakeConsul, free_port, record

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def consul():
    fake = FakeConsul()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            parts = urllib.parse.urlsplit(self.path)
            query = urllib.parse.parse_qs(parts.query, keep_blank_values=True)
            status, body = fake.answer(urllib.parse.unquote(parts.path), query, self.headers.get("X-Consul-Token", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            # Whoever asked may have heard enough.
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_args):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fake.addr = f"127.0.0.1:{server.server_address[1]}"
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def cjdns():
    """The double as the daemon of n1, which dials n2 and n3 in vain. Its address."""
    port = free_port()
    dials = {
        f"127.0.0.1:{number}": {"publicKey": KEYS[name], "password": "x", "peerName": name}
        for number, name in enumerate(("n2", "n3"), start=9)
    }
    conf = {
        "privateKey": PRIVATE_KEY,
        "admin": {"bind": f"127.0.0.1:{port}", "password": "secret"},
        "interfaces": {"UDPInterface": [{"bind": f"127.0.0.1:{free_port()}", "connectTo": dials}]},
        "security": [{"setuser": 0}, {"chroot": 0}, {"noforks": 0}, {"setupComplete": 1}],
        "noBackground": 1,
        "version": 2,
    }
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/doubles/cjdroute"), "--nobg"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    process.stdin.write(json.dumps(conf).encode())
    process.stdin.close()
    for _try in range(100):
        try:
            if len(Client(port=port, timeout=0.2, attempts=1).peers()) == 2:
                break
        except AdminError:
            time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


@pytest.fixture
def registry_file(tmp_path):
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({name: record(name) for name in KEYS}))
    return path


@pytest.fixture
def warnings(monkeypatch):
    """What Ansible warned of."""
    told = []
    monkeypatch.setattr(Display, "warning", lambda _self, message, *_args, **_named: told.append(message))
    return told


@pytest.fixture
def load(tmp_path, consul, cjdns, registry_file, monkeypatch, warnings):
    """Load an inventory with these options over those that reach the fakes; Ansible's InventoryData that comes out."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def load(use_cache=True, **options):
        files = {"registry_file": str(registry_file), "settings_file": str(registry_file.with_name("settings.json"))}
        chosen = {"consul_addr": consul.addr, "cjdns_addr": cjdns, "timeout": 3, **files, **options}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        path = tmp_path / "test.mesh.yml"
        path.write_text(json.dumps({"plugin": "vdloo.mesh.mesh", **chosen}))
        # What Ansible's own plugin `auto` does, without turning an error into a warning.
        plugin = inventory_loader.get("vdloo.mesh.mesh")
        assert plugin.verify_file(str(path))
        inventory = InventoryData()
        plugin.parse(inventory, DataLoader(), str(path), cache=use_cache)
        plugin.update_cache_if_changed()
        inventory.reconcile_inventory()
        return inventory

    return load
