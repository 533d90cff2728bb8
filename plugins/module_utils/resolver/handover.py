# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Put a local DNS forwarder in front of a host's own resolver, and take it away again.

The rule of this file: at every instant, also when the process is killed between two lines, the host resolves names.
So the forwarder is proven before the host is pointed at it, every file is replaced in one step, what the host had is kept
as it was (a link stays a link), and whatever the host resolved before must resolve afterwards, or all is put back.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time

from .dns import dnsmasq_server
from .host import (
    HOST_COPY,
    MARK,
    RESOLV_CONF,
    RESOLVED_DROPIN,
    SETTINGS,
    STATE_DIR,
    ResolverError,
    nameservers,
    resolved_servers,
)
from .outside import Outside
from .writing import Writer

CONFIG = "/etc/dnsmasq-mesh/dnsmasq.conf"
UPSTREAM = "/etc/dnsmasq-mesh/upstream.conf"
SERVERS = "/etc/dnsmasq-mesh/servers.conf"
PROVEN_CONFIG = STATE_DIR + "/dnsmasq.conf.proven"
ORIGINAL = STATE_DIR + "/resolv.conf.original"
LOCK = "/run/dnsmasq-mesh.lock"


def render(text, servers, options, search=()):
    """Return the host's resolv.conf with these local servers in place of its name servers.

    All else is kept: search domains (ours come after them), options (the host's own win) and comments. The first line matters most: it is how
    resolvconf, dhcpcd and NetworkManager know their own file, and they stop to update a file that has lost it.
    """
    lines, placed, given, searched = [], False, set(), []
    forwarder = [MARK, *(f"nameserver {server}" for server in servers)]
    for line in text.splitlines():
        words = line.split()
        if line == MARK:
            continue
        if words and words[0] in ("search", "domain"):
            # The last such line is the one that counts.
            searched = words[1:]
        if words and words[0] == "options":
            given.update(word.split(":")[0] for word in words[1:])
        if words and words[0] == "nameserver":
            if not placed:
                lines += forwarder
                placed = True
            continue
        lines.append(line)
    if not placed:
        lines += forwarder
    if not set(search) <= set(searched):
        lines.append("search " + " ".join(dict.fromkeys([*searched, *search])))
    ours = [option for option in options if option.split(":")[0] not in given]
    if ours:
        lines.append("options " + " ".join(ours))
    return "\n".join(lines) + "\n"


class Handover(Writer):
    """The resolver of one host, and the steps by which dnsmasq is put in front of it."""

    def __init__(self, settings=None, root="/", outside=None):
        super().__init__(settings, root, outside or Outside())

    @contextlib.contextmanager
    def locked(self):
        """One at a time: the units and a run of Ansible may meet here."""
        with open(self.path(LOCK), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.settings.update({key: value for key, value in self.stored().items() if key in ("manager", "host")})
            yield

    def store(self):
        return self.update(SETTINGS, json.dumps(self.settings, indent=2, sort_keys=True) + "\n")

    def rendered(self, manager):
        return render(self.source(manager), self.servers, self.settings["options"], self.settings["search"])

    def own_servers(self):
        """Return the name servers that are the host's own, in dnsmasq's words, as dnsmasq was told."""
        servers = re.findall(r"^server=(\S+)$", self.read(SERVERS), re.M) + nameservers(self.read(UPSTREAM))
        return [server for server in servers if server not in self.known]

    def learn(self):
        """Tell dnsmasq the host's own name servers. Return whether anything changed.

        Where something keeps them in a file of its own, dnsmasq reads that very file and so follows it; else it reads our
        copy, which also keeps loopback servers such as a container engine's.
        """
        manager = self.detect()
        static = []
        if manager == "resolved":
            static = [server for server in map(dnsmasq_server, resolved_servers(self.resolved_config())) if server]
            static = [server for server in static if server not in self.known]
        changed = self.update(SERVERS, "".join(f"server={server}\n" for server in static))
        found = [server for server in nameservers(self.source(manager)) if server not in self.known]
        if self.live_file(manager):
            changed = self.link(UPSTREAM, self.live_file(manager)) or changed
        elif found or not os.path.exists(self.path(UPSTREAM)):
            changed = self.update(UPSTREAM, "".join(f"nameserver {server}\n" for server in found)) or changed
        if changed and self.active(self.settings["unit"]):
            # dnsmasq watches the file that the link led to when it started, and never its extra servers.
            self.outside.run("systemctl", "kill", "--kill-who=main", "--signal=HUP", self.settings["unit"])
        return changed

    def answers(self, server=None):
        """Whether dnsmasq itself, or who stands in for it, answers: it does so alone, whatever the state of the network."""
        return self.outside.ask(server or self.address, "version.bind", qtype=16, qclass=3, timeout=1.0, tries=1) is not None

    def wait_for_dnsmasq(self, seconds=8):
        deadline = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > deadline:
                unit = self.settings["unit"]
                raise ResolverError(f"dnsmasq does not answer on {self.address} port 53: see `journalctl -u {unit}`")
            self.outside.sleep(0.1)

    def knows(self, server, name):
        """Whether this server has an address for the name."""
        for qtype in (1, 28):
            answer = self.outside.ask(server, name, qtype=qtype, timeout=1.5)
            if answer is None:
                return False
            if answer[0] == 0 and answer[1]:
                return True
        return False

    def native(self, names):
        """Return the names that one of the host's own name servers knows."""
        servers = self.own_servers()
        return {name for name in names if any(self.knows(server, name) for server in servers)}

    def proven(self):
        """Whether this very hand-over, with this configuration of dnsmasq, was proven before."""
        return bool(self.settings["host"]) and self.same(RESOLV_CONF, HOST_COPY) and self.same(CONFIG, PROVEN_CONFIG)

    def prove(self):
        """Note that what runs now is good, so that it can be gone back to."""
        if os.path.exists(self.path(CONFIG)) and not self.same(CONFIG, PROVEN_CONFIG):
            self.copy(CONFIG, PROVEN_CONFIG)

    def wanted(self):
        """Return (path, text now, text wanted) of the file that makes the host ask dnsmasq."""
        manager = self.detect()
        if manager == "resolved":
            path, text, dummy = self.dropin(manager)
            return path, self.read(path), text
        return RESOLV_CONF, self.read(RESOLV_CONF), self.rendered(manager)

    def take(self, forget=True):
        """Make the host ask dnsmasq. Return whether anything changed; on failure the host has its own resolver.

        ``forget``: after a failure do not try again by ourselves.
        """
        if self.handed_over() or self.ours():
            if not self.handed_over():
                # dnsmasq listens elsewhere now.
                self.wait_for_dnsmasq()
            changed = self.store()
            path, now, text = self.wanted()
            if path == RESOLV_CONF and now != text:
                # The host's own search domains or options, or ours, have changed.
                self.write(path, text, like=self._like())
                changed = True
            return changed
        names = self.settings["probe_names"]
        self.wait_for_dnsmasq()
        before = set()
        if not self.proven():
            before = self.outside.host_resolves(names)
            self._compare(
                before,
                lambda: {name for name in self.native(before) if not self.knows(self.address, name)},
                "dnsmasq does not resolve %s, which the host's own name servers do: nothing was handed over",
            )
        manager = self.detect()
        self.settings["manager"] = manager
        try:
            self._switch(manager)
            self._compare(
                before,
                lambda: before - self.outside.host_resolves(sorted(before)),
                "with dnsmasq in front the host no longer resolves %s: its own resolver was put back",
            )
        except (ResolverError, OSError) as exc:
            try:
                self.give_back(forget)
            except (ResolverError, OSError) as second:
                raise ResolverError(f"{exc}; and then putting back failed: {second}") from exc
            raise
        return True

    def _compare(self, names, missing, message):
        """Look once more for answers that are late, then fail with the names that are missing."""
        lost = missing() if names else set()
        if lost:
            self.outside.sleep(1)
            lost = missing()
        if lost:
            raise ResolverError(message % ", ".join(sorted(lost)))

    def _switch(self, manager):
        """Save what the host has, tell its keeper, and only then point the host at dnsmasq: each state in between resolves."""
        if manager != "resolved":
            self._save()
        else:
            self.settings["host"] = "kept"
        self.store()
        self._drop_dropins(manager)
        dropin = self.dropin(manager)
        if dropin:
            path, text, command = dropin
            self.update(path, text)
            self._tell(command)
        if manager == "resolved":
            for _dummy in range(50):
                if self.handed_over():
                    return
                self.outside.sleep(0.1)
            raise ResolverError(f"systemd-resolved did not take {RESOLVED_DROPIN}: see `resolvectl status`")
        self.write(RESOLV_CONF, self.rendered(manager), like=self._like())

    def _like(self):
        """Return the mode and owner that a resolv.conf of ours shall have: those of the file that it replaces."""
        path = self.path(RESOLV_CONF)
        return os.stat(path) if os.path.isfile(path) and not os.path.islink(path) else None

    def _save(self):
        """Keep what the host has by itself. The first of all is kept for good; the latest is what is put back."""
        if not os.path.lexists(self.path(RESOLV_CONF)):
            self.remove(HOST_COPY)
            self.settings["host"] = "missing"
            return
        if not os.path.lexists(self.path(ORIGINAL)):
            self.copy(RESOLV_CONF, ORIGINAL)
        if not self.same(RESOLV_CONF, HOST_COPY):
            self.copy(RESOLV_CONF, HOST_COPY)
        self.settings["host"] = "link" if os.path.islink(self.path(RESOLV_CONF)) else "file"

    def _tell(self, command):
        code, output = self.outside.run(*command)
        if code:
            raise ResolverError(f"`{' '.join(command)}` failed: {output or 'no reason given'}")

    def release(self):
        """Put the host's own /etc/resolv.conf back, if ours is there. Return whether it was."""
        if not self.ours():
            return False
        if os.path.lexists(self.path(HOST_COPY)):
            self.copy(HOST_COPY, RESOLV_CONF)
        elif self.settings["host"] == "missing":
            self.remove(RESOLV_CONF)
        else:
            servers = self.own_servers()
            if not servers:
                raise ResolverError(f"no copy of the host's own {RESOLV_CONF} is left: write one by hand")
            text = "".join(f"nameserver {server}\n" for server in servers if "#" not in server and "@" not in server)
            self.write(RESOLV_CONF, text, like=self._like())
        return True

    def retire(self, stays):
        """One of the servers that the host asks is going away. Put the host's own resolver back, unless the other one (`stays`) answers."""
        if stays in nameservers(self.read(RESOLV_CONF)) and self.answers(stays):
            return False
        return self.release()

    def dnsmasq_stops(self):
        return self.retire(self.settings["spare"])

    def spare_stops(self):
        return self.retire(self.address)

    def give_back(self, forget=True):
        """Undo a hand-over. Return whether there was anything to undo."""
        changed = self.release()
        changed = self._drop_dropins() or changed
        return (self.remove(SETTINGS) if forget else False) or changed

    def _drop_dropins(self, keep=None):
        """Take our word to the keepers of resolv.conf back, but for one. Return whether there was any."""
        changed = False
        for manager in ("resolved", "networkmanager"):
            path, dummy, command = self.dropin(manager)
            if manager != keep and self.remove(path):
                changed = True
                if self.active(command[-1]):
                    self._tell(command)
        return changed

    def check(self):
        """Prove at the user's edge that what the host's name servers know still resolves; return the names that do."""
        self.wait_for_dnsmasq()
        names = self.settings["probe_names"]
        resolving = set()

        def missing():
            # By dnsmasq itself: what stands in for it would hide that it does not.
            found = self.outside.host_resolves([name for name in names if name not in resolving])
            resolving.update(name for name in found if self.knows(self.address, name))
            return self.native([name for name in names if name not in resolving])

        self._compare(names, missing, "the host does not resolve %s, though its own name servers do")
        return sorted(resolving)

    def follow(self):
        """Learn, and hand over again if this host is one that was handed over and dnsmasq runs."""
        learned = self.learn()
        if not self.stored().get("managed"):
            return learned
        known = self.settings["manager"]
        if not self.ours() and known and self.detect() != known:
            raise ResolverError(f"{RESOLV_CONF} is now kept by {self.detect()}, no longer by {known}: run the role again")
        changed = self.take(forget=False) or learned
        if not self.same(CONFIG, PROVEN_CONFIG):
            try:
                self.check()
            except ResolverError:
                self.give_back(forget=False)
                raise
        return changed
