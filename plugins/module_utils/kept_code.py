# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A copy of this package on the node, compiled once.

Ansible sends a module with all that it imports as an archive, and Python compiles what it imports out of an archive each time anew: for the
look at a node that was half of what it cost. The copy is a cache as __pycache__ is one: losing it costs the time only. So this file imports nothing
of its own package, which would come out of the archive.

    FOLDER/<digest>/...   complete: it got this name when all of it was there
    FOLDER/.<digest>-*    being made, or left by a run that was killed
"""

from __future__ import annotations

import hashlib
import os
import py_compile
import shutil
import stat
import sys
import tempfile
import zipfile

ROOT = 0
# Beside what Ansible itself keeps on a node. Not from $HOME, which can be another user's.
FOLDER = "/root/.ansible/vdloo-mesh-code"
# Two controllers with two builds of the collection may take turns.
KEPT = 3


def use(package: str = __package__ or "") -> None:
    """Let all that is imported of a package from here on come from its copy, which is made if it is missing.

    Only for root, as nobody else may write code that root runs. Where there is no archive, or the copy cannot be made, nothing changes.
    """
    module = sys.modules.get(package)
    archive = getattr(getattr(getattr(module, "__spec__", None), "loader", None), "archive", "")
    if module is None or not archive or os.geteuid() != ROOT:
        return
    try:
        module.__path__ = [_copy(archive, package.replace(".", "/") + "/")]
    except (OSError, zipfile.BadZipFile, py_compile.PyCompileError):
        return


def _copy(archive: str, prefix: str) -> str:
    """The folder with the compiled copy of what an archive holds below a path."""
    with zipfile.ZipFile(archive) as opened:
        members = sorted(
            (info.filename[len(prefix) :], info.CRC, info.file_size)
            for info in opened.infolist()
            if info.filename.startswith(prefix) and info.filename.endswith(".py")
        )
        # Each Python has byte code of its own.
        name = hashlib.sha256(repr((sys.implementation.cache_tag, members)).encode()).hexdigest()[:16]
        path = os.path.join(FOLDER, name)
        os.makedirs(FOLDER, mode=0o755, exist_ok=True)
        status = os.stat(FOLDER)
        if status.st_uid != ROOT or stat.S_IMODE(status.st_mode) & 0o022:
            raise PermissionError(FOLDER)
        if not os.path.isdir(path):
            _make(opened, prefix, [member for member, _crc, _size in members], path)
    return path


def _make(opened: zipfile.ZipFile, prefix: str, members: list[str], path: str) -> None:
    staged = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}-", dir=FOLDER)
    try:
        os.chmod(staged, 0o755)
        for member in members:
            place = os.path.join(staged, *member.split("/"))
            os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
            with open(place, "wb") as stream:
                stream.write(opened.read(prefix + member))
            # Nothing here changes: Python need not compare the two. Errors should name the place that stays.
            shown = os.path.join(path, *member.split("/"))
            py_compile.compile(place, dfile=shown, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        _sync(staged)
        try:
            os.rename(staged, path)
        except OSError:
            if not os.path.isdir(path):
                raise
            # Somebody else was faster.
            shutil.rmtree(staged, ignore_errors=True)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    _prune(os.path.basename(path))


def _sync(folder: str) -> None:
    """A node that loses power must not come back with empty files under the final name."""
    for place, _folders, names in os.walk(folder):
        for path in [*(os.path.join(place, name) for name in names), place]:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def _prune(keep: str) -> None:
    """Remove all copies but `keep` and the youngest others, and what killed runs have left."""
    entries = sorted((entry for entry in os.scandir(FOLDER) if entry.name != keep), key=lambda entry: entry.stat().st_mtime, reverse=True)
    for entry in entries[KEPT - 1 :]:
        shutil.rmtree(entry.path, ignore_errors=True)
