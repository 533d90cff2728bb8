# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The program of the unit mesh-names.service, and the command mesh-names.

``serve``
    answer questions, for ever
``status [--json]``
    say whether answers come from Consul or are what was last known
"""

from __future__ import annotations

import sys

from . import config

USAGE = "usage: mesh-names --status [--json]\n"


def main(argv, path=config.FILE) -> int:
    words = [word.lstrip("-") for word in argv[1:]]
    if words not in (["serve"], ["status"], ["status", "json"]):
        sys.stderr.write(USAGE)
        return 2
    try:
        found = config.load(path)
        if words[0] == "status":
            from . import status

            return status.command(found, "json" in words)
        return serve(found)
    except (config.ConfigError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def serve(found):
    # asyncio loads it where it is to be had. We speak to the loopback only, and it takes a third of our memory.
    sys.modules.setdefault("ssl", None)
    import asyncio

    from .server import Server

    async def run() -> None:
        await Server(found).run()

    asyncio.run(run())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
