# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import on_disk


def program(tmp_path, script, name="program"):
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_digest_is_that_of_the_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert on_disk.digest(str(tmp_path / "file")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert on_disk.digest(str(tmp_path / "missing")) == ""


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Consul v1.8.7\nProtocol 2 spoken by default", "1.8.7"),
        ("h2o version 2.2.5\nOpenSSL: OpenSSL 3.0.17", "2.2.5"),
        ("Dnsmasq version 2.90  Copyright (c) 2000-2024 Simon Kelley", "2.90"),
        ("Cjdns version: cjdns-v22\nCjdns protocol version: 22", "22"),
        ("Consul v1.21.5+ent", "1.21.5+ent"),
        ("no number at all", ""),
    ],
)
def test_the_version_is_the_first_number_that_a_program_says(tmp_path, said, version):
    path = program(tmp_path, f"test \"$1\" = --version && cat <<'END'\n{said}\nEND")
    assert on_disk.program(path)["version"] == version


@pytest.mark.parametrize("script", ["sleep 60", "exit 3", "head -c 100000 /dev/urandom | tr 0-9 x"])
def test_a_program_that_tells_no_version_has_none(tmp_path, script, monkeypatch):
    monkeypatch.setattr(on_disk, "VERSION_S", 0.2)
    found = on_disk.program(program(tmp_path, script))
    assert found["version"] == ""
    assert len(found["sha256"]) == 64


def test_a_program_that_was_not_touched_is_neither_read_nor_run(tmp_path):
    path = program(tmp_path, f"echo 1.{{}}; echo run >>{tmp_path}/runs".format(1))
    first = on_disk.program(path)
    assert on_disk.program(path, {"source": "package", **first}) == first
    assert (tmp_path / "runs").read_text() == "run\n"
    program(tmp_path, "echo 2.0")
    assert on_disk.program(path, first)["version"] == "2.0"


def test_of_what_is_not_there_nothing_is_told(tmp_path):
    for path in (str(tmp_path / "missing"), str(tmp_path), "a\0b", "\ud800"):
        assert on_disk.program(path) == {"sha256": "", "version": "", "signature": []}
    assert on_disk.file("a\0b") is None
    assert on_disk.directory("\ud800") is None


def test_an_object_is_read_or_the_reason_told(tmp_path):
    path = tmp_path / "file.json"
    assert on_disk.read_object(str(path)) is None
    path.write_text('{"a": 1}')
    assert on_disk.read_object(str(path)) == {"a": 1}
    for text in ("", "[]", "{", "null", "[" * 200_000):
        path.write_text(text)
        with pytest.raises(ValueError, match="does not hold a JSON object: restore it"):
            on_disk.read_object(str(path))
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        on_disk.read_object(str(tmp_path))
