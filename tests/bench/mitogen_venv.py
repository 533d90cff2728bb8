# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Mitogen beside the ansible-core that is measured, in a venv of its own: nothing of the project needs it."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSION = "0.3.54"
# What site.yml needs on the controller, in the versions that are installed here.
NEEDED = ("ansible-core", "consul-kv")


@dataclass(frozen=True)
class Mitogen:
    """A venv with Ansible and Mitogen."""

    programs: Path
    strategies: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes Ansible use it. That such strategies will go away one day is no news of a run."""
        return {
            "ANSIBLE_STRATEGY": "mitogen_linear",
            "ANSIBLE_STRATEGY_PLUGINS": str(self.strategies),
            "ANSIBLE_DEPRECATION_WARNINGS": "false",
        }

    def refusal(self, output: str) -> str:
        """One line that says why a run with it failed."""
        return f"not measured with Mitogen {VERSION}: its run on ansible-core {installed('ansible-core')} failed: {reason(output)}"


def reason(output: str) -> str:
    """The line of a failed run that says most: its first error, or else the last thing said."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"\[?(ERROR|fatal)\b|\w*(Error|Exception)\b", line)]
    return (errors or lines[-1:] or ["it said nothing"])[0]


def installed(package: str) -> str:
    return importlib.metadata.version(package)


def install() -> Mitogen:
    """Make the venv where it is missing or other versions are wanted. Raises RuntimeError with pip's output."""
    folder = ROOT / ".cache" / "mitogen"
    pins = [f"mitogen=={VERSION}", *(f"{package}=={installed(package)}" for package in NEEDED)]
    made = folder / ".pins"
    if not made.exists() or made.read_text().split() != pins:
        print(f"Mitogen {VERSION} in {folder.relative_to(ROOT)}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        command = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *pins]
        finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if finished.returncode != 0:
            raise RuntimeError(f"Mitogen {VERSION} could not be installed:\n{finished.stdout}")
        made.write_text("\n".join(pins) + "\n")
    strategies = next(folder.glob("lib/python*/site-packages/ansible_mitogen/plugins/strategy"))
    return Mitogen(folder / "bin", strategies)
