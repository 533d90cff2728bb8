# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import os
import stat
import tarfile
import types

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils import archive, authorized_keys, manifest, systemd
from ansible_collections.vdloo.mesh.plugins.modules import node_departure

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5" + "B" * 48


class Machine:
    """A node in a folder of the test: its files, its users and its services."""

    def __init__(self, folder) -> None:
        self.folder, self.state = folder, folder / "var" / "lib" / "vdloo-mesh"
        self.running = {"consul.service": True, "h2o.service": True, "cjdns.service": True}
        self.called: list[list[str]] = []
        self.record("h2o", ["etc/h2o/mesh.conf"], {"etc/h2o": "root"}, ["h2o.service"])
        self.record("consul", ["etc/consul.d/consul.json"], {"var/consul": "consul"}, ["consul.service"])
        self.record("cjdns", ["etc/cjdns.service"], {}, ["cjdns.service"])
        self.write("var/consul/raft/raft.db", "data")
        self.write("etc/vdloo-mesh/secrets.json", "secret")
        self.write("etc/cjdns/identity.json", "identity")
        self.write("home/.ssh/authorized_keys", f"ssh-rsa AAAA me@laptop\n{authorized_keys.line('n1', KEY).decode()}")
        self.user = types.SimpleNamespace(pw_name="root", pw_dir=str(folder / "home"), pw_uid=os.getuid(), pw_gid=os.getgid())

    def write(self, path: str, text: str) -> None:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def record(self, role: str, files: list[str], directories: dict[str, str], services: list[str]) -> None:
        for path in files:
            self.write(path, role)
        plain = {"mode": "0644", "owner": "root", "group": "root"}
        told = {
            "version": manifest.RECORD_VERSION,
            "role": role,
            "facts": {},
            "files": {str(self.folder / path): plain for path in files},
            "directories": {str(self.folder / path): {**plain, "owner": owner} for path, owner in directories.items()},
            "programs": {},
            "services": {name: {"restart": [], "reload": []} for name in services},
        }
        self.write(f"var/lib/vdloo-mesh/manifests/{role}.json", json.dumps(told))

    def run_command(self, argv, **_options):
        self.called.append(argv)
        if argv[:3] == ["systemctl", "disable", "--now"]:
            self.running[argv[3]] = False
        return 0, "", ""

    def services(self, wanted):
        return {name: {"running": self.running.get(name, False), "enabled": self.running.get(name, False)} for name in wanted}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    made = Machine(tmp_path)
    monkeypatch.setattr(systemd, "services", made.services)
    monkeypatch.setattr(node_departure, "ETC", str(tmp_path / "etc" / "vdloo-mesh"))
    monkeypatch.setattr(node_departure, "OVERLAY_FILES", (str(tmp_path / "etc" / "cjdroute.conf"), str(tmp_path / "etc" / "cjdns")))
    monkeypatch.setattr(node_departure.AnsibleModule, "run_command", lambda _module, argv, **options: made.run_command(argv, **options))
    monkeypatch.setattr(authorized_keys.pwd, "getpwall", lambda: [made.user])
    return made


@pytest.fixture
def run(machine, capsys):
    def run(**options):
        arguments = {"state_dir": str(machine.state), "archive": str(machine.folder / "backups" / "all.tar.gz"), **options}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            node_departure.main()
        return json.loads(capsys.readouterr().out)

    return run


def all_files(machine) -> dict[str, str]:
    return {str(path.relative_to(machine.folder)): path.read_text() for path in machine.folder.rglob("*") if path.is_file()}


def test_all_services_stop_and_the_overlay_last_and_later(run, machine):
    told = run()
    assert told["stopped"] == ["cjdns.service", "consul.service", "h2o.service"]
    disabled = [call[-1] for call in machine.called if call[:2] == ["systemctl", "disable"]]
    assert disabled == ["cjdns.service", "consul.service", "h2o.service"]
    assert ["systemctl", "disable", "--now", "cjdns.service"] not in machine.called
    assert machine.called[-1][:2] == ["systemd-run", "--on-active=5"]
    assert machine.called[-1][-3:] == ["systemctl", "stop", "cjdns.service"]


def test_no_node_logs_in_any_more_and_whoever_else_did_still_does(run, machine):
    run()
    assert (machine.folder / "home/.ssh/authorized_keys").read_text() == "ssh-rsa AAAA me@laptop\n"


def test_without_a_wipe_all_data_stays(run, machine):
    before = all_files(machine)
    told = run()
    after = all_files(machine)
    for path in ("home/.ssh/authorized_keys", "var/lib/vdloo-mesh/manifest.lock"):
        before.pop(path, None)
        after.pop(path, None)
    assert (after, told["removed"], told["archive"]) == (before, [], "")


def test_a_second_call_changes_nothing(run, machine):
    run()
    machine.running = {}
    machine.called.clear()
    assert (run()["changed"], machine.called) == (False, [])


def test_a_wipe_removes_what_the_roles_made_once_it_is_in_the_archive(run, machine):
    machine.write("etc/h2o/mine.conf", "mine")
    told = run(wipe=True)
    left = {str(path.relative_to(machine.folder)) for path in machine.folder.rglob("*") if path.is_file()}
    assert left == {"etc/h2o/mine.conf", "home/.ssh/authorized_keys", "backups/all.tar.gz"}
    assert not (machine.folder / "var/consul").exists()
    assert stat.S_IMODE(os.stat(told["archive"]).st_mode) == 0o600
    with tarfile.open(told["archive"]) as tar:
        names = {member.name for member in tar}
        secret = tar.extractfile(str(machine.folder / "etc/vdloo-mesh/secrets.json").lstrip("/")).read()
    assert secret == b"secret"
    for path in ("var/consul/raft/raft.db", "etc/h2o/mesh.conf", "etc/cjdns/identity.json", "var/lib/vdloo-mesh/manifests/consul.json"):
        assert str(machine.folder / path).lstrip("/") in names


def test_nothing_is_removed_when_the_archive_cannot_be_written(run, machine, monkeypatch):
    before = all_files(machine)
    monkeypatch.setattr(archive, "SPARE_BYTES", 1 << 62)
    told = run(wipe=True)
    assert "make room there" in told["msg"]
    after = all_files(machine)
    assert {path for path in before if path not in after} == set()
    # The overlay still runs, so that the next call gets there.
    assert not [call for call in machine.called if call[0] == "systemd-run"]


def test_nothing_is_removed_when_the_archive_does_not_hold_what_is_on_the_disk(run, machine, monkeypatch):
    monkeypatch.setattr(archive, "_digest_of", lambda _path: "another")
    told = run(wipe=True)
    assert "in the archive is not what is on the disk" in told["msg"]
    assert (machine.folder / "etc/vdloo-mesh/secrets.json").read_text() == "secret"
    assert list((machine.folder / "backups").iterdir()) == []


def test_check_mode_stops_and_removes_nothing(run, machine):
    before = all_files(machine)
    told = run(wipe=True, _ansible_check_mode=True)
    assert (told["changed"], len(told["stopped"]), machine.called) == (True, 3, [])
    assert str(machine.folder / "etc/vdloo-mesh") in told["removed"]
    assert all_files(machine) == before


def test_an_archive_follows_no_link_out_of_it(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    found = archive.members([str(inside), str(inside / "link")])
    assert found == [str(inside), str(inside / "link")]
    archive.save(str(tmp_path / "a.tar.gz"), found)
    archive.remove(found)
    assert (outside / "mine").read_text() == "mine"
    assert not inside.exists()
