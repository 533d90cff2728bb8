# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the scenarios' tests look at: the nodes of a test bed, over SSH as a user would."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import docker
import testinfra
import yaml

ROOT = Path(__file__).resolve().parent.parent
# Molecule forces colours, which are in the way of whoever reads the output.
ENVIRONMENT = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
DAEMONS = ("cjdns", "consul", "mesh-names", "dnsmasq-mesh", "h2o")
# What a service says, and the status.
ASK = """curl -s -m 10 -w ' %{http_code}' http://127.0.0.1/"""


def changes(output: str) -> dict[str, int]:
    """How many tasks of a run changed something, by host."""
    recap = output.rpartition("PLAY RECAP")[2]
    return {name: int(count) for name, count in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", recap, re.MULTILINE)}


def lost(answers: list[str]) -> list[str]:
    """Those answers to requests that did not come from the web service."""
    return [answer for answer in answers if not re.fullmatch(r"served by \w+( .+)? 200", answer)]


class Run:
    """The end of an ansible-playbook run."""

    def __init__(self, finished: subprocess.CompletedProcess) -> None:
        self.code, self.output = finished.returncode, finished.stdout

    @property
    def changed(self) -> dict[str, int]:
        return changes(self.output)


class Mesh:
    """A running test bed and the mesh on it."""

    def __init__(self, name: str) -> None:
        self.inventory = ROOT / ".cache" / "testbed" / name / "hosts.yml"
        self.hosts = yaml.safe_load(self.inventory.read_text())["mesh"]["hosts"]
        self.names = list(self.hosts)
        self._docker = docker.from_env()
        self._connections: dict = {}
        self._loops = itertools.count()

    def node(self, name: str):
        """A testinfra host."""
        if name not in self._connections:
            self._connections[name] = testinfra.get_host(f"ansible://{name}", ansible_inventory=str(self.inventory))
        return self._connections[name]

    @cached_property
    def registry(self) -> dict[str, dict]:
        return json.loads(self.node(self.names[0]).check_output("cat /var/lib/vdloo-mesh/registry.json"))

    def forget(self) -> None:
        """Read the registry again: nodes were added."""
        self.__dict__.pop("registry", None)

    def address(self, name: str) -> str:
        return self.registry[name]["address"]

    def found(self, name: str, *asked: str) -> dict[str, set[str]]:
        """The nodes whose addresses each name has on a node, by the way that the programs there take."""
        owners = {str(ipaddress.ip_address(record["address"])): owner for owner, record in self.registry.items()}
        command = f"for name in {' '.join(asked)}; do echo $name $(timeout 4 getent ahosts $name | awk '{{print $1}}' | sort -u); done"
        answers = (line.split() for line in self.node(name).check_output(command).splitlines())
        return {text: {owners[address] for address in addresses} for text, *addresses in answers}

    def pings(self, source: str, target: str) -> bool:
        return self.node(source).run("ping -6 -c 1 -W 2 %s", self.address(target)).rc == 0

    def members(self, name: str) -> dict[str, str]:
        """Consul's members as a node sees them: {name: status}."""
        lines = self.node(name).check_output("consul members").splitlines()[1:]
        return {line.split()[0]: line.split()[2] for line in lines}

    def raft(self, name: str) -> dict[str, tuple[str, bool]]:
        """Consul's raft peers as a node sees them: {name: (state, voter)}."""
        lines = self.node(name).run("consul operator raft list-peers").stdout.splitlines()[1:]
        return {fields[0]: (fields[3], fields[4] == "true") for fields in map(str.split, lines)}

    def well(self, name: str) -> set[str]:
        """The servers that autopilot finds healthy; none without a leader, of which the answer is no JSON."""
        told = self.node(name).check_output("curl -s http://127.0.0.1:8500/v1/operator/autopilot/health")
        return {server["Name"] for server in json.loads(told)["Servers"] or [] if server["Healthy"]} if told.startswith("{") else set()

    def pids(self, name: str) -> dict[str, str]:
        """The main process and start of each daemon, which a restart would change."""
        return {
            daemon: self.node(name).check_output("systemctl show -p MainPID,ExecMainStartTimestampMonotonic %s", daemon)
            for daemon in DAEMONS
        }

    def container(self, name: str):
        return self._docker.containers.get(self.hosts[name]["testbed_container"])

    def reboot(self, name: str) -> None:
        self.container(name).restart(timeout=20)
        self._connections.pop(name, None)
        self.wait_for(lambda: self.node(name).run("true").rc == 0, f"{name} answers by SSH")

    @contextlib.contextmanager
    def repeated(self, name: str, command: str, pause: float) -> Iterator[list[str]]:
        """Run a shell command on a node again and again, `pause` seconds after each; the list is filled in the end, with a line for each time."""
        lines: list[str] = []
        node, place = self.node(name), f"/root/repeated-{os.getpid()}-{next(self._loops)}"
        loop = f"while [ ! -e {place}.enough ]; do echo $({command}); sleep {pause}; done >{place}; touch {place}.ended"
        node.check_output("nohup sh -c %s </dev/null >/dev/null 2>&1 &", loop)
        try:
            yield lines
        finally:
            node.check_output("touch %s.enough", place)
            self.wait_for(lambda: node.run("test -e %s.ended", place).rc == 0, f"the last {command} ends on {name}", 20)
            lines += node.check_output("cat %s && rm %s %s.enough %s.ended", *[place] * 4).splitlines()

    def requests(self, name: str, pause: float = 0.02) -> contextlib.AbstractContextManager[list[str]]:
        """Ask the ingress of a node again and again, each time once; in the end the list holds all answers."""
        return self.repeated(name, ASK, pause)

    def site(self, *arguments: str) -> Run:
        """Run site.yml from this machine."""
        return playbook(self.inventory, ROOT / "site.yml", *arguments)

    @staticmethod
    def wait_for(condition: Callable[[], bool], what: str, seconds: float = 90) -> float:
        """Wait until a condition holds; return how long that took. What raises does not hold yet."""
        start = time.monotonic()
        while True:
            reason = ""
            try:
                if condition():
                    return time.monotonic() - start
            except (AssertionError, RuntimeError, OSError, IndexError) as error:
                reason = f" ({error})"
            assert time.monotonic() - start < seconds, f"not within {seconds} s: {what}{reason}"
            time.sleep(0.5)


def playbook(inventory: Path, path: Path, *arguments: str, environment: dict[str, str] = ENVIRONMENT) -> Run:
    """Run a playbook to its end, whatever that is."""
    command = [str(ROOT / ".venv/bin/ansible-playbook"), "-i", str(inventory), str(path), *arguments]
    return Run(subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False))
