# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Build and install the collection as it is published."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def build(folder: Path) -> Path:
    """Build the tarball from a copy of what git knows, as a release is; return its path."""
    tree = folder / "tree"
    listed = subprocess.check_output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    run(folder, "ansible-galaxy", "collection", "build", "--output-path", str(folder), str(tree))
    return next(folder.glob("vdloo-mesh-*.tar.gz"))


def install(tarball: Path, folder: Path) -> None:
    """Install the tarball into an empty folder."""
    run(folder, "ansible-galaxy", "collection", "install", "--offline", str(tarball), "-p", str(folder))


def run(folder: Path, program: str, *arguments: str) -> str:
    """Run a program of Ansible that knows the collections of `folder` alone; return what it printed."""
    (folder / "ansible.cfg").write_text("[defaults]\n")
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(folder),
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        # Molecule forces colours, which are in the way of whoever reads the output.
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
    }
    finished = subprocess.run(
        [str(BIN / program), *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout
