# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How a module finds the admin interface of the daemon on its node."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import admin, conf

ARGUMENTS = {
    "admin_host": {"type": "str"},
    "admin_port": {"type": "int"},
    "admin_password": {"type": "str", "no_log": True},
    "config_path": {"type": "path", "default": "/etc/cjdroute.conf"},
    "timeout": {"type": "float", "default": 2.0},
    "unit": {"type": "str", "default": "cjdns.service"},
}
# Where a daemon listens that listens everywhere.
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Access(NamedTuple):
    """Where the admin interface is, and its password (empty when it is not known)."""

    host: str
    port: int
    password: str


def parse(text: str) -> Access:
    """Find the admin interface in the text of a cjdroute.conf; raises conf.ConfError."""
    try:
        config = json.loads(conf.strip_comments(text))
    except ValueError as error:
        raise conf.ConfError(f"it is not JSON with comments: {error}") from None
    told = config.get("admin") if isinstance(config, dict) else None
    bind, password = (told.get("bind"), told.get("password", "")) if isinstance(told, dict) else (None, "")
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,5})", bind) if isinstance(bind, str) else None
    if not found or not 1 <= int(found.group(3)) <= 65535 or not isinstance(password, str):
        raise conf.ConfError("it holds no admin interface: admin.bind is not IP:PORT, or admin.password is not a text")
    host = found.group(1) or found.group(2)
    return Access(EVERYWHERE.get(host, host), int(found.group(3)), password)


def find(params: dict) -> Access:
    """Take what the options say, and the rest from the daemon's configuration; raises conf.ConfError.

    A configuration that is not there, or not for these eyes, tells nothing: what is asked without a password can still be asked.
    """
    given = [params[name] for name in ("admin_host", "admin_port", "admin_password")]
    known = Access("127.0.0.1", 11234, "")
    if None in given:
        path = params["config_path"]
        try:
            with open(path, encoding="utf-8") as file:
                known = parse(file.read())
        except (FileNotFoundError, PermissionError):
            pass
        except (OSError, UnicodeDecodeError, conf.ConfError) as error:
            raise conf.ConfError(
                f"{path} does not tell where the admin interface is ({error}): set admin_host, admin_port and admin_password"
            ) from None
    return Access(*(asked if asked is not None else told for asked, told in zip(given, known)))


def client(params: dict) -> admin.Client:
    """A client for the options of a module; raises conf.ConfError."""
    access = find(params)
    return admin.Client(access.host, access.port, access.password, timeout=params["timeout"])


def explain(error: admin.AdminError, unit: str) -> str:
    """The error in words that say what to look at: a daemon that refuses has said it itself."""
    if error.reason:
        return str(error)
    return f"{error}\nLook at the service: systemctl status {unit}; journalctl --unit {unit}"
