# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the resolver of a host is: who keeps it, and whether the host asks dnsmasq. Nothing here changes the host.

The look at a node that precedes each plan needs no more than this, and every node compiles it anew. So this file is small: what
changes a host is in the other files of the package.
"""

from __future__ import annotations

import contextlib
import json
import os

MARK = "# vdloo.mesh: the local dnsmasq answers. It asks the host's own name servers for all but Consul's names."

RESOLV_CONF = "/etc/resolv.conf"
STATE_DIR = "/var/lib/dnsmasq-mesh"
SETTINGS = STATE_DIR + "/handover.json"
HOST_COPY = STATE_DIR + "/resolv.conf.host"

RESOLVED_UPLINKS = "/run/systemd/resolve/resolv.conf"
RESOLVED_DROPIN = "/etc/systemd/resolved.conf.d/zz-dnsmasq-mesh.conf"
RESOLVED_STUB = "127.0.0.53"
NM_UPLINKS = "/run/NetworkManager/no-stub-resolv.conf"
NM_DROPIN = "/etc/NetworkManager/conf.d/zz-dnsmasq-mesh.conf"
RESOLVCONF_UPLINKS = "/run/resolvconf/resolv.conf"

DEFAULTS = {
    "managed": True,
    "unit": "dnsmasq-mesh.service",
    "addresses": ["127.0.0.1", "::1"],
    "spare": "",
    "domains": ["consul"],
    "options": [],
    "search": [],
    "probe_names": [],
    "manager": "",
    "host": "",
}


class ResolverError(Exception):
    """Something that a person has to know, in words that say what to do."""


def nameservers(text):
    """Return the addresses that a resolv.conf names, in order."""
    return [words[1] for words in map(str.split, text.splitlines()) if len(words) > 1 and words[0] == "nameserver"]


def resolved_servers(texts):
    """Return the DNS= servers of systemd-resolved's configuration files, given in the order in which they are read."""
    servers = []
    for text in texts:
        section = ""
        for line in map(str.strip, text.splitlines()):
            if line.startswith("["):
                section = line
            elif section == "[Resolve]" and line.partition("=")[0].strip() == "DNS":
                value = line.partition("=")[2].split()
                servers = servers + value if value else []
    return [server for server in servers if server]


class Machine:
    """What is asked of the machine apart from its files, in one place, so that a test can stand in for it."""

    def run(self, *argv):
        """Run a command; return (return code, output)."""
        # Many a host has no service to be asked about.
        import subprocess

        try:
            done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=90, check=False)
        except (OSError, subprocess.TimeoutExpired) as exc:
            return 127, str(exc)
        return done.returncode, done.stdout.decode("utf-8", "replace").strip()


class Resolver:
    """The resolver of one host. ``root`` lets a test have a host of its own in a directory."""

    def __init__(self, settings=None, root="/", outside=None):
        self.root = root
        self.outside = outside or Machine()
        stored = self.stored()
        self.settings = dict(DEFAULTS)
        self.settings.update(stored)
        self.settings.update(settings or {})
        # What an earlier run pointed the host at is ours as well.
        self.known = {
            address for found in (self.settings, stored) for address in [*found.get("addresses", []), found.get("spare")] if address
        }

    def path(self, name):
        return os.path.join(self.root, name.lstrip("/"))

    def real(self, name):
        """Follow the links to a file as the host would, within our root; a link may lead nowhere."""
        for _dummy in range(16):
            try:
                target = os.readlink(self.path(name))
            except OSError:
                return name[4:] if name.startswith("/var/run/") else name
            name = os.path.normpath(os.path.join(os.path.dirname(name), target))
        raise ResolverError(f"{name} is a link that leads back to itself")

    def read(self, name, default=""):
        try:
            with open(self.path(self.real(name)), encoding="utf-8", errors="surrogateescape", newline="") as source:
                return source.read()
        except (FileNotFoundError, NotADirectoryError):
            return default

    def stored(self):
        text = self.read(SETTINGS)
        try:
            return json.loads(text) if text else {}
        except ValueError as exc:
            raise ResolverError(f"{SETTINGS} is damaged ({exc}): remove it and run the role again") from exc

    @property
    def address(self):
        return self.settings["addresses"][0]

    @property
    def servers(self):
        """Whom the host is to ask: dnsmasq, and who stands in for it while it is down."""
        return [self.address] + ([self.settings["spare"]] if self.settings["spare"] else [])

    def ours(self):
        """Whether /etc/resolv.conf is the file that we wrote: the mark alone is not enough, somebody may have edited it."""
        if os.path.islink(self.path(RESOLV_CONF)):
            return False
        text = self.read(RESOLV_CONF)
        servers = nameservers(text)
        return MARK in text.splitlines() and bool(servers) and set(servers) <= self.known

    def active(self, unit):
        return self.outside.run("systemctl", "is-active", "--quiet", unit)[0] == 0

    def detect(self):
        """Say who keeps /etc/resolv.conf: resolved, networkmanager, resolvconf, or nobody that we know (static)."""
        if self.ours():
            return self.settings["manager"] or "static"
        real, text = self.real(RESOLV_CONF), self.read(RESOLV_CONF)
        resolved = real.startswith("/run/systemd/resolve/") or real.endswith("lib/systemd/resolv.conf")
        if (resolved or set(nameservers(text)) == {RESOLVED_STUB}) and self.active("systemd-resolved.service"):
            return "resolved"
        manager = real.startswith("/run/NetworkManager/") or text.startswith("# Generated by NetworkManager")
        if manager and os.path.exists(self.path(NM_UPLINKS)) and self.active("NetworkManager.service"):
            return "networkmanager"
        if real == RESOLVCONF_UPLINKS or real.startswith("/etc/resolvconf/run/"):
            return "resolvconf"
        return "static"

    @staticmethod
    def live_file(manager):
        """Return the file in which this keeper of resolv.conf always writes the host's own name servers."""
        return {"resolved": RESOLVED_UPLINKS, "networkmanager": NM_UPLINKS, "resolvconf": RESOLVCONF_UPLINKS}.get(manager)

    def source(self, manager):
        """Return the resolv.conf that the host would have without us."""
        live = self.live_file(manager)
        # Early at boot that file may not be there yet.
        return (self.read(live) if live else "") or self.read(HOST_COPY if self.ours() else RESOLV_CONF)

    def resolved_config(self):
        """Return the texts of systemd-resolved's configuration, ours left out, in the order in which it reads them."""
        folders = ["/usr/lib/systemd", "/usr/local/lib/systemd", "/run/systemd", "/etc/systemd"]
        main = [folder + "/resolved.conf" for folder in reversed(folders)]
        texts = [self.read(name) for name in main if os.path.exists(self.path(name))][:1]
        dropins = {}
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(self.path(folder + "/resolved.conf.d")):
                    dropins[name] = f"{folder}/resolved.conf.d/{name}"
        return texts + [
            self.read(dropins[name]) for name in sorted(dropins) if name.endswith(".conf") and name != os.path.basename(RESOLVED_DROPIN)
        ]

    def dropin(self, manager):
        """Return (path, text, command) of the word that the keeper of resolv.conf has to be given, or None."""
        if manager == "resolved":
            lines = ["# Written by the dnsmasq role of vdloo.mesh.", "[Resolve]"]
            if resolved_servers(self.resolved_config()):
                # One list holds all global servers, and only one of it is asked: dnsmasq asks the others in our stead.
                lines.append("DNS=")
            lines += [
                "DNS=" + " ".join(self.servers),
                "Domains=" + " ".join(["~" + name for name in self.settings["domains"]] + self.settings["search"]),
            ]
            return RESOLVED_DROPIN, "\n".join(lines) + "\n", ("systemctl", "reload-or-restart", "systemd-resolved.service")
        if manager == "networkmanager":
            lines = [f"# Written by the dnsmasq role of vdloo.mesh: dnsmasq reads {NM_UPLINKS}.", "[main]", "rc-manager=unmanaged"]
            return NM_DROPIN, "\n".join(lines) + "\n", ("systemctl", "reload", "NetworkManager.service")
        return None

    def handed_over(self):
        """Whether the host asks dnsmasq now."""
        manager = self.detect()
        if manager == "resolved":
            path, text, dummy = self.dropin(manager)
            return self.read(path) == text and self.address in nameservers(self.read(RESOLVED_UPLINKS))
        return self.ours() and nameservers(self.read(RESOLV_CONF)) == self.servers
