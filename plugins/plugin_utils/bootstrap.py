# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From outside the mesh: run the collector on the first node that answers, in one SSH round trip.

The collector's own sources go over as a program on Python's standard input, with the request in it. Nothing is written on the node, and no
token is on a command line.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import threading
import typing
from pathlib import Path

from ansible.errors import AnsibleError

PACKAGE = "ansible_collections.vdloo.mesh.plugins.module_utils"
MODULES = ("cjdns.keys", "cjdns.conf", "cjdns.bencode", "cjdns.transport", "cjdns.admin", "consul.client", "collector")
MARKER = "vdloo-mesh-reply:"
MAX_REPLY_BYTES = 64 * 1024 * 1024
HOST = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?:(?P<name>[A-Za-z0-9][A-Za-z0-9.-]*)|\[(?P<literal>[0-9A-Fa-f:.]+)\]|(?P<bare>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
# One connection for the question and for all the jumps that follow: an sshd takes only so many new ones at a time.
SHARED = ("-o", "ControlMaster=auto", "-o", "ControlPersist=15m", "-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=2")
# The path of a Unix socket has up to 107 characters; after the directory come "/mesh-", 40 of %C and 17 that ssh adds for a moment.
LONGEST_DIRECTORY = 107 - 6 - 40 - 17
# A host that is switched off answers nothing at all: the next one is waiting.
CONNECT_S = 5

# As root the registry file can be read, too; without it the node still tells what Consul and cjdns say.
# The login shell may be any.
REMOTE_COMMAND = "exec sh -c " + shlex.quote("if sudo -n true 2>/dev/null; then exec sudo -n python3 -; else exec python3 -; fi")

PROGRAM = """
import importlib.abc, importlib.util, sys
SOURCES = {sources!r}
class Sources(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        inside = any(source.startswith(name + ".") for source in SOURCES)
        if inside or name in SOURCES:
            return importlib.util.spec_from_loader(name, self, is_package=inside)
    def exec_module(self, module):
        exec(compile(SOURCES.get(module.__name__, ""), module.__name__, "exec"), module.__dict__)
sys.meta_path.insert(0, Sources())
from {package} import collector
import json
collector.main(json.loads({request!r}), {marker!r})
"""


class Target(typing.NamedTuple):
    """A bootstrap node as the user wrote it, taken apart. `port` is "" when none was written."""

    user: str
    host: str
    port: str

    def destination(self) -> list[str]:
        """The arguments of ssh that name it."""
        return [*(["-p", self.port] if self.port else []), f"{self.user}@{self.host}" if self.user else self.host]


def parse_target(text: str) -> Target:
    """Read user@host, host, host:port or user@[2001:db8::1]:port; raises AnsibleError."""
    match = HOST.fullmatch(text)
    if not match or not (0 < int(match["port"] or 22) < 65536):
        raise AnsibleError(f"bootstrap: {text!r} is no SSH destination: write user@host, user@host:port or user@[2001:db8::1]:port")
    return Target(match["user"] or "", match["name"] or match["literal"] or match["bare"], match["port"] or "")


def ssh_options(ssh_args: str) -> list[str]:
    """The options of ssh with which a bootstrap node is reached: the user's own, then those that share one connection."""
    directory = Path.home() / ".ansible" / "cp"
    if len(str(directory)) > LONGEST_DIRECTORY:
        return [*shlex.split(ssh_args), "-o", "ControlPath=none"]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return [*shlex.split(ssh_args), *SHARED, "-o", f"ControlPath={directory}/mesh-%C"]


def proxy_argument(target: Target, ssh_args: str) -> str:
    """The option of ssh that jumps through a bootstrap node. ProxyJump itself would take over neither the user's options nor the connection."""
    # The outer ssh puts in what begins with %; everything but the two places of the destination belongs to the inner one.
    inner = shlex.join(["ssh", *ssh_options(ssh_args), *target.destination()[:-1]]).replace("%", "%%")
    return "-o " + shlex.quote(f"ProxyCommand={inner} -W '[%h]:%p' {target.destination()[-1]}")


def program(request: dict) -> bytes:
    """The program that answers a request on any Python from 3.8 on."""
    sources = {f"{PACKAGE}.{name}": Path(importlib.import_module(f"{PACKAGE}.{name}").__file__).read_text() for name in MODULES}
    return PROGRAM.format(sources=sources, package=PACKAGE, request=json.dumps(request), marker=MARKER).encode()


def run(hosts: list[str], request: dict, ssh_args: str, timeout: float) -> tuple[dict, str]:
    """Return the collector's reply from the first host that gives one, and which that was.

    `timeout` is in seconds for each host. Raises AnsibleError that says of each host why not.
    """
    targets = [(text, parse_target(text)) for text in hosts]
    text = program(request)
    tried = []
    for name, target in targets:
        command = ["ssh", *ssh_options(ssh_args), "-o", "BatchMode=yes", "-o", f"ConnectTimeout={max(1, min(CONNECT_S, int(timeout / 2)))}"]
        command += ["-T", *target.destination(), REMOTE_COMMAND]
        try:
            return _answer(command, text, timeout), name
        except AnsibleError as error:
            tried.append(f"{name}: {error}")
    raise AnsibleError("no bootstrap node answered: " + "; ".join(tried))


def _answer(command: list[str], text: bytes, timeout: float) -> dict:
    """Run ssh and read the reply. Raises AnsibleError with the reason."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise AnsibleError(f"cannot run ssh: {error}") from error
    outputs: dict[str, bytes] = {}

    def read(name: str, stream: typing.IO[bytes], most: int) -> None:
        outputs[name] = stream.read(most)

    def write() -> None:
        try:
            process.stdin.write(text)
            process.stdin.close()
        except OSError:
            pass  # what ssh says about it is on its standard error

    threads = [
        threading.Thread(target=read, args=("out", process.stdout, MAX_REPLY_BYTES + 1), daemon=True),
        threading.Thread(target=read, args=("err", process.stderr, 4096), daemon=True),
        threading.Thread(target=write, daemon=True),
    ]
    for thread in threads:
        thread.start()
    threads[0].join(timeout)
    late = threads[0].is_alive()
    if not late:
        threads[1].join(0.5)
    process.kill()
    process.wait()
    if late:
        raise AnsibleError(f"no answer within {timeout:g} s")
    out = outputs.get("out", b"")
    if len(out) > MAX_REPLY_BYTES:
        raise AnsibleError(f"its answer is longer than {MAX_REPLY_BYTES} bytes")
    for line in out.splitlines():
        if line.startswith(MARKER.encode()):
            try:
                reply = json.loads(line[len(MARKER) :])
            except (ValueError, RecursionError):
                break
            if isinstance(reply, dict) and set(reply) >= {"answers", "errors", "warnings"}:
                return reply
    said = outputs.get("err", b"").decode("utf-8", "replace").strip().splitlines()
    raise AnsibleError(said[-1][:300] if said else "it gave no answer (is python3 there?)")
