# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""This collection as one archive, to be handed to a node: wherever it runs from, a clone, an installed collection or a node."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

from ansible_collections.vdloo.mesh.plugins.module_utils import builds, collection_files, files
from ansible_collections.vdloo.mesh.plugins.plugin_utils import memory

COLLECTION = Path(__file__).resolve().parents[2]
WAIT_S = 60
KEPT = 3


class BundleError(Exception):
    """Why the collection cannot be handed over, and what to do."""


def is_placed() -> bool:
    """Tell whether this is the copy on a node that others have put there, which follows what they run and never goes before."""
    return COLLECTION.is_relative_to(Path(builds.DIRECTORY).resolve())


def digest() -> str:
    """The SHA-256 of this collection: over names and contents of what a node is given.

    Raises BundleError for a copy on a node that is not as it was put there: what happened to it must not come to all others.
    """
    if not is_placed():
        return collection_files.digest(str(COLLECTION))
    sound = builds.sound(str(COLLECTION.parents[2]))
    if not sound:
        raise BundleError(
            f"the collection in {COLLECTION} was changed since it was put there, so it is not run: run vdloo.mesh.site over this node from "
            "another one, or from your own machine, which brings it anew"
        )
    return sound


def build(path: Path) -> None:
    """Write the archive; it is the same bytes each time for the same collection and Python."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in collection_files.names(str(COLLECTION)):
            content = (COLLECTION / name).read_bytes()
            member = tarfile.TarInfo(f"{builds.INSIDE}/{name}")
            member.size, member.mode, member.uname, member.gname = len(content), 0o644, "root", "root"
            archive.addfile(member, io.BytesIO(content))
    files.write(str(path), gzip.compress(written.getvalue(), compresslevel=6, mtime=0), 0o600)


def cached(wanted: str = "") -> tuple[str, Path]:
    """The digest and the archive of this collection, made where it is not kept from before.

    Raises BundleError when `wanted`, the digest that the mesh should have, is another one.
    """
    found = digest()
    if wanted not in ("", found):
        which = f"{builds.name(wanted)} is wanted, and this is {builds.name(found)}"
        if is_placed():
            raise BundleError(
                f"another build of the collection is in use in the mesh ({which}): a run from a node that has it brings it here"
            )
        raise BundleError(f"the collection in {COLLECTION} has changed since this run was planned ({which}): run this again")
    folder = memory.default_path().parent / "collection"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{found}.tar.gz"
    # Ansible calls this in several processes at once.
    with files.locked(str(folder / ".lock"), WAIT_S):
        if not path.is_file():
            build(path)
            _forget(folder)
    return found, path


def _forget(folder: Path) -> None:
    kept = sorted(folder.glob("*.tar.gz"), key=_age)
    for path in kept[:-KEPT]:
        path.unlink()


def _age(path: Path) -> float:
    return path.stat().st_mtime
