# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the files of a host are replaced, so that whoever reads them meanwhile finds the old text or the new one."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile

from .host import RESOLV_CONF, Resolver


class Writer(Resolver):
    """The resolver of one host, whose files can be changed."""

    def write(self, name, text, like=None):
        """Replace a file in one step; in place where it is a mount of its own, as /etc/resolv.conf is in a container."""
        data = text.encode("utf-8", "surrogateescape")
        path = self.path(name)
        if os.path.normpath(name) in self.outside.mount_points():
            self._write_in_place(path, data)
            return
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
        try:
            with os.fdopen(handle, "wb") as target:
                target.write(data)
                self._dress(target.fileno(), path, like)
                target.flush()
                os.fsync(target.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    @staticmethod
    def _dress(fileno, path, like):
        os.fchmod(fileno, stat.S_IMODE(like.st_mode) if like else 0o644)
        if like and os.geteuid() == 0:
            os.fchown(fileno, like.st_uid, like.st_gid)
        with contextlib.suppress(OSError):
            # No label on this system, or no file to take it from.
            os.setxattr(fileno, "security.selinux", os.getxattr(path, "security.selinux"))

    @staticmethod
    def _write_in_place(path, data):
        """Write so that at any moment, also after a kill, the file names the old servers, the new ones, or both.

        Both texts are padded with empty lines to the same length, as who reads between the change of a text and that of its length would find neither.
        The new one is written at once; only then is the rest cut off.
        """
        handle = os.open(path, os.O_WRONLY)
        try:
            size = os.fstat(handle).st_size
            padding = b"\n" * abs(size - len(data))
            steps = [(padding, size), (data, 0)] if size < len(data) else [(data + padding, 0)]
            for text, offset in steps:
                if os.pwrite(handle, text, offset) != len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            os.ftruncate(handle, len(data))
            os.fsync(handle)
        finally:
            os.close(handle)

    def update(self, name, text):
        """Write a file of ours if it differs. Return whether it did."""
        if not os.path.islink(self.path(name)) and os.path.exists(self.path(name)) and self.read(name) == text:
            return False
        self.write(name, text)
        return True

    def link(self, name, target):
        """Make a link in one step, if it is not there already. Return whether it was made."""
        path = self.path(name)
        if os.path.islink(path) and os.readlink(path) == target:
            return False
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        temporary = f"{path}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(target, temporary)
        os.replace(temporary, path)
        return True

    def remove(self, name):
        try:
            os.unlink(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def copy(self, source, target):
        """Copy a file or a link as it is, with mode and owner, in one step."""
        if os.path.islink(self.path(source)):
            return self.link(target, os.readlink(self.path(source)))
        self.write(target, self.read(source), like=os.stat(self.path(source)))
        with contextlib.suppress(OSError):
            # The times are a courtesy.
            shutil.copystat(self.path(source), self.path(target))
        return True

    def same(self, one, other):
        """Whether two paths hold the same link, or the same text."""
        paths = [self.path(one), self.path(other)]
        if not all(map(os.path.lexists, paths)) or os.path.islink(paths[0]) != os.path.islink(paths[1]):
            return False
        if os.path.islink(paths[0]):
            return os.readlink(paths[0]) == os.readlink(paths[1])
        return self.read(one) == self.read(other)

    def obstacle(self):
        """Return why /etc/resolv.conf cannot be replaced, or an empty string."""
        path = self.path(RESOLV_CONF)
        in_place = RESOLV_CONF in self.outside.mount_points()
        target = path if in_place else os.path.dirname(path)
        if os.path.exists(target) and os.statvfs(target).f_flag & os.ST_RDONLY:
            return "is on a read-only file system"
        if not os.path.islink(path) and os.path.isfile(path) and immutable(path):
            return f"is immutable (`chattr -i {RESOLV_CONF}` allows changes)"
        return ""


def immutable(path):
    """Whether the file has the attribute that `chattr +i` sets."""
    flags = array.array("L", [0])
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.ioctl(handle, 0x80086601 if array.array("L").itemsize == 8 else 0x80046601, flags)
    except OSError:
        # A file system without attributes.
        return False
    finally:
        os.close(handle)
    return bool(flags[0] & 0x10)
