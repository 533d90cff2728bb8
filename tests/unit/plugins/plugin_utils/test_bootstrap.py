# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible_collections.vdloo.mesh.plugins.plugin_utils import bootstrap
from fake_mesh import KEYS, record
from hypothesis import given
from hypothesis import strategies as st

# Stands in for ssh: notes how it was called, and runs what it was asked to on this machine, each host in its own way.
SSH = r"""#!/bin/sh
printf '%s\n' "$*" >>"$SSH_LOG"
for argument; do host=$command command=$argument; done
case $host in
    *dead*) echo "ssh: connect to host dead port 22: Connection refused" >&2; exit 255 ;;
    *slow*) exec sleep 60 ;;
    *bare*) cat >/dev/null; echo "sh: 1: exec: python3: not found" >&2; exit 127 ;;
    *liar*) cat >/dev/null; echo 'vdloo-mesh-reply:{"answers": {'; exit 0 ;;
    *huge*) cat >/dev/null; exec head -c 70000000 /dev/zero ;;
    *noisy*) echo "Welcome to your new server!"; printf 'no newline' ;;
esac
exec sh -c "$command"
"""


@pytest.fixture
def home():
    """A home with a path short enough for a socket, which the folders of pytest are not."""
    path = Path(tempfile.mkdtemp(prefix="home-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def ssh(tmp_path, home, monkeypatch):
    """The log of the stand-in for ssh."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(SSH)
    (tmp_path / "bin/ssh").chmod(0o755)
    # The node's own Python, not that of the environment which has Ansible in it.
    (tmp_path / "bin/python3").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    (tmp_path / "bin/python3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SSH_LOG", str(tmp_path / "log"))
    # What sudo would do to PATH is not what is tested.
    (tmp_path / "bin/sudo").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin/sudo").chmod(0o755)
    return tmp_path / "log"


@pytest.fixture
def request_of_the_file(tmp_path):
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({name: record(name) for name in KEYS}))
    return {"timeout": 2, "registry_file": str(path)}


def test_the_collector_runs_where_there_is_nothing_but_python(ssh, request_of_the_file):
    reply, via = bootstrap.run(["root@n1"], request_of_the_file, "", 10)
    assert via == "root@n1"
    assert reply == {"answers": {"registry": {name: record(name) for name in KEYS}}, "errors": {}, "warnings": []}


def test_an_answer_of_a_large_mesh_comes_whole(ssh, request_of_the_file, tmp_path):
    registry = {f"n{number}": record(f"n{number}") for number in range(2000)}
    (tmp_path / "registry.json").write_text(json.dumps(registry))
    assert bootstrap.run(["n1"], request_of_the_file, "", 10)[0]["answers"]["registry"] == registry


def test_the_first_host_that_answers_is_taken(ssh, request_of_the_file):
    _reply, via = bootstrap.run(["root@dead", "root@bare", "root@noisy", "root@n4"], request_of_the_file, "", 10)
    assert via == "root@noisy"
    assert len(ssh.read_text().splitlines()) == 3


def test_a_host_that_hangs_is_given_up_in_time(ssh, request_of_the_file):
    start = time.monotonic()
    assert bootstrap.run(["slow", "n1"], request_of_the_file, "", 1.5)[1] == "n1"
    assert time.monotonic() - start < 6


def test_when_none_answers_the_error_says_of_each_why(ssh, request_of_the_file):
    with pytest.raises(AnsibleError) as raised:
        bootstrap.run(["dead", "bare", "liar", "huge"], request_of_the_file, "", 10)
    told = str(raised.value)
    assert "dead: ssh: connect to host dead port 22: Connection refused" in told
    assert "bare: sh: 1: exec: python3: not found" in told
    assert "liar: it gave no answer" in told
    assert "huge: its answer is longer than" in told


def test_the_token_is_on_no_command_line(ssh):
    request = {
        "timeout": 1,
        "consul": {"addr": "127.0.0.1:1", "token": "s3cret-token", "ca_file": "", "cert_file": "", "key_file": "", "verify": True},
    }
    reply, _via = bootstrap.run(["n1"], request, "", 10)
    assert set(reply["errors"]) == {"consul", "kv", "services"}
    assert "s3cret-token" not in ssh.read_text()


def test_the_users_options_come_first_and_nothing_is_asked(ssh, request_of_the_file):
    bootstrap.run(["admin@n1:2222"], request_of_the_file, "-i '/a key' -o StrictHostKeyChecking=yes", 10)
    called = ssh.read_text()
    assert called.startswith("-i /a key -o StrictHostKeyChecking=yes -o ControlMaster=auto")
    assert "-o BatchMode=yes" in called and "-p 2222 admin@n1" in called


def test_a_home_too_deep_for_a_socket_does_without_the_shared_connection(ssh, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / ("x" * 60)))
    assert bootstrap.ssh_options("-4") == ["-4", "-o", "ControlPath=none"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("root@192.0.2.1", ("root", "192.0.2.1", "")),
        ("vps1", ("", "vps1", "")),
        ("me@vps1.example.org:2222", ("me", "vps1.example.org", "2222")),
        ("root@[2001:db8::1]:22", ("root", "2001:db8::1", "22")),
        ("root@2001:db8::1", ("root", "2001:db8::1", "")),
    ],
)
def test_a_destination_is_read_as_it_is_written(written, read):
    assert bootstrap.parse_target(written) == read


@pytest.mark.parametrize(
    "written", ["", "-oProxyCommand=id", "root@-x", "a b", "root@host:0", "root@host:99999", "host;id", "$(id)", "a@b@c", "host:"]
)
def test_a_destination_that_is_none_says_what_to_write(written):
    with pytest.raises(AnsibleError, match="write user@host"):
        bootstrap.parse_target(written)


@given(st.text(max_size=30))
def test_no_destination_becomes_an_option_of_ssh(written):
    try:
        target = bootstrap.parse_target(written)
    except AnsibleError:
        return
    assert not target.destination()[-1].startswith("-")
    assert all(part.isprintable() and " " not in part for part in target.destination())


def test_the_way_through_a_host_is_one_option_that_ansible_and_ssh_both_read_right(ssh, home):
    argument = bootstrap.proxy_argument(bootstrap.Target("root", "2001:db8::1", "2222"), "-i '/a key%h'")
    option, value = shlex.split(argument)
    assert (option, value.partition("=")[0]) == ("-o", "ProxyCommand")
    # What ssh does with it: first the tokens, then the shell.
    command = value.partition("=")[2].replace("%%", "\0").replace("%h", "fc00::1").replace("%p", "22").replace("\0", "%")
    subprocess.run(["sh", "-c", command.replace("ssh ", "printf '%s\\n' ", 1) + " >args"], cwd=ssh.parent, check=True)
    assert (ssh.parent / "args").read_text().splitlines() == [
        *("-i", "/a key%h"),
        *bootstrap.SHARED,
        *("-o", f"ControlPath={home}/.ansible/cp/mesh-%C", "-p", "2222", "-W", "[fc00::1]:22", "root@2001:db8::1"),
    ]
