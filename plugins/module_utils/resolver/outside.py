# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a hand-over asks of the machine apart from its files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from . import dns, host

# Looks names up as any program of the host does, in a process that has read no resolver configuration yet.
LOOK_UP = """
import socket, sys, threading
def look(name):
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError):
        return
    sys.stdout.write(name + "\\n")
    sys.stdout.flush()
threads = [threading.Thread(target=look, args=(name,), daemon=True) for name in sys.argv[2:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(float(sys.argv[1]))
"""


class Outside(host.Machine):
    """All of it in one place, so that a test can stand in for it."""

    def ask(self, server, name, qtype=1, qclass=1, **kwargs):
        return dns.ask(server, name, qtype, qclass, **kwargs)

    def host_resolves(self, names, timeout=8):
        """Return the set of names that a new process of this host can look up."""
        if not names:
            return set()
        env = {key: value for key, value in os.environ.items() if key not in ("RES_OPTIONS", "LOCALDOMAIN")}
        try:
            done = subprocess.run(
                [sys.executable, "-c", LOOK_UP, str(timeout)] + list(names),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=env,
                timeout=timeout * (len(names) + 1),
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            return set((exc.stdout or b"").decode("utf-8").split())
        return set(done.stdout.decode("utf-8").split())

    def mount_points(self):
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            return {re.sub(r"\\(\d{3})", lambda found: chr(int(found.group(1), 8)), line.split()[4]) for line in mounts}

    def sleep(self, seconds):
        time.sleep(seconds)
