# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Put a local DNS forwarder in front of a host's own resolver, and take it away again.

The rule of this file: at every instant, also when the process is killed between two lines, the host resolves names.
So the forwarder is proven before the host is pointed at it, every file is replaced in one step, what the host had is kept
as it was (a link stays a link), and whatever the host resolved before must resolve afterwards, or all is put back.

The file imports the standard library alone. It is used by the module ``resolver_handover``, and the role installs it on the
host as the program that the systemd units call:

``learn``
    note which name servers the host has by itself, for dnsmasq to ask
``follow``
    learn, then hand over (again), if the host is one that was handed over
``release``
    put the host's own resolver back for as long as dnsmasq is down
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import ipaddress
import json
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time

MARK = "# vdloo.mesh: the local dnsmasq answers. It asks the host's own name servers for all but Consul's names."

RESOLV_CONF = "/etc/resolv.conf"
CONFIG = "/etc/dnsmasq-mesh/dnsmasq.conf"
UPSTREAM = "/etc/dnsmasq-mesh/upstream.conf"
SERVERS = "/etc/dnsmasq-mesh/servers.conf"
STATE_DIR = "/var/lib/dnsmasq-mesh"
SETTINGS = STATE_DIR + "/handover.json"
PROVEN_CONFIG = STATE_DIR + "/dnsmasq.conf.proven"
ORIGINAL = STATE_DIR + "/resolv.conf.original"
HOST_COPY = STATE_DIR + "/resolv.conf.host"
LOCK = "/run/dnsmasq-mesh.lock"

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
    "domains": ["consul"],
    "options": [],
    "probe_names": [],
    "manager": "",
    "host": "",
}

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


class ResolverError(Exception):
    """Something that a person has to know, in words that say what to do."""


# Text in, text out


def nameservers(text):
    """Return the addresses that a resolv.conf names, in order."""
    return [words[1] for words in map(str.split, text.splitlines()) if len(words) > 1 and words[0] == "nameserver"]


def render(text, address, options):
    """Return the host's resolv.conf with the local forwarder in place of its name servers.

    All else is kept: search domains, options (the host's own win) and comments. The first line matters most: it is how
    resolvconf, dhcpcd and NetworkManager know their own file, and they stop to update a file that has lost it.
    """
    lines, placed, given = [], False, set()
    forwarder = [MARK, f"nameserver {address}"]
    for line in text.splitlines():
        words = line.split()
        if line == MARK:
            continue
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
    ours = [option for option in options if option.split(":")[0] not in given]
    if ours:
        lines.append("options " + " ".join(ours))
    return "\n".join(lines) + "\n"


def reverse_domain(network):
    """Return the DNS zone of a network's reverse names: fc00::/8 is c.f.ip6.arpa."""
    try:
        parsed = ipaddress.ip_network(network)
    except ValueError as exc:
        raise ResolverError(f"{network} is not a network: {exc}") from exc
    step = 4 if parsed.version == 6 else 8
    if parsed.prefixlen % step or not parsed.prefixlen:
        raise ResolverError(f"{network}: the prefix length of a reverse zone must be a multiple of {step}")
    labels = parsed.network_address.reverse_pointer.split(".")
    zone = len(labels) - 2 - parsed.prefixlen // step
    return ".".join(labels[zone:])


def dnsmasq_server(entry):
    """Translate a server of systemd-resolved's (``address:port%interface#name``) to dnsmasq's words, or return None."""
    entry = entry.split("#")[0]
    match = re.match(r"^\[(?P<v6>[0-9A-Fa-f:.]+)\](?::(?P<port6>\d+))?(?:%(?P<if6>\S+))?$", entry) or re.match(
        r"^(?P<v4>\d+\.\d+\.\d+\.\d+)(?::(?P<port4>\d+))?(?:%(?P<if4>\S+))?$", entry
    )
    if match:
        found = {key[:-1]: value for key, value in match.groupdict().items() if value}
        address, port, interface = found["v"], found.get("port", ""), found.get("if", "")
    else:
        address, dummy, interface = entry.partition("%")
        port = ""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    scope = "%" + interface if interface and parsed.is_link_local else ""
    device = "@" + interface if interface and not parsed.is_link_local else ""
    return address + scope + ("#" + port if port else "") + device


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


# The wire


def query(name, qtype, qclass=1, ident=None):
    """Return a DNS query packet that asks for recursion."""
    ident = struct.unpack("!H", os.urandom(2))[0] if ident is None else ident
    packet = struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0)
    for label in name.rstrip(".").split("."):
        raw = label.encode("idna") if not label.isascii() else label.encode("ascii")
        packet += struct.pack("!B", len(raw)) + raw
    return packet + b"\0" + struct.pack("!2H", qtype, qclass)


def ask(server, name, qtype=1, qclass=1, timeout=2.0, tries=2):
    """Ask one server directly. Return (rcode, number of answers), or None if no answer came."""
    address, dummy, port = server.partition("@")[0].partition("#")
    try:
        packet = query(name, qtype, qclass)
        info = socket.getaddrinfo(address, int(port or 53), type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
    except (OSError, UnicodeError, struct.error):
        return None
    for dummy in range(tries):
        with socket.socket(info[0], socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            try:
                sock.connect(info[4])
                sock.send(packet)
                while True:
                    answer = sock.recv(4096)
                    if len(answer) >= 12 and answer[:2] == packet[:2]:
                        break
            except OSError:
                # Nobody listens, no route, or too late: all the same to who waits for a name.
                continue
        flags, dummy, answers = struct.unpack("!3H", answer[2:8])
        return flags & 0xF, answers
    return None


class Outside:
    """All that this file does to the machine apart from its files, in one place, so that a test can stand in for it."""

    def run(self, *argv):
        """Run a command; return (return code, output)."""
        try:
            done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=90, check=False)
        except (OSError, subprocess.TimeoutExpired) as exc:
            return 127, str(exc)
        return done.returncode, done.stdout.decode("utf-8", "replace").strip()

    def ask(self, server, name, qtype=1, qclass=1, **kwargs):
        return ask(server, name, qtype, qclass, **kwargs)

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


class Resolver:
    """The resolver of one host. ``root`` lets a test have a host of its own in a directory."""

    def __init__(self, settings=None, root="/", outside=None):
        self.root = root
        self.outside = outside or Outside()
        stored = self.stored()
        self.settings = dict(DEFAULTS)
        self.settings.update(stored)
        self.settings.update(settings or {})
        # What an earlier run pointed the host at is ours as well.
        self.known = set(self.settings["addresses"]) | set(stored.get("addresses", []))

    # Files

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

        The text is padded with empty lines to the old length and written at once; only then is the rest cut off.
        """
        handle = os.open(path, os.O_WRONLY)
        try:
            padded = data + b"\n" * max(0, os.fstat(handle).st_size - len(data))
            if os.pwrite(handle, padded, 0) != len(padded):
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

    @contextlib.contextmanager
    def locked(self):
        """One at a time: the units and a run of Ansible may meet here."""
        with open(self.path(LOCK), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.settings.update({key: value for key, value in self.stored().items() if key in ("manager", "host")})
            yield

    # What the host is

    def stored(self):
        text = self.read(SETTINGS)
        try:
            return json.loads(text) if text else {}
        except ValueError as exc:
            raise ResolverError(f"{SETTINGS} is damaged ({exc}): remove it and run the role again") from exc

    def store(self):
        return self.update(SETTINGS, json.dumps(self.settings, indent=2, sort_keys=True) + "\n")

    @property
    def address(self):
        return self.settings["addresses"][0]

    def ours(self):
        """Whether /etc/resolv.conf is the file that we wrote: the mark alone is not enough, somebody may have edited it."""
        if os.path.islink(self.path(RESOLV_CONF)):
            return False
        text = self.read(RESOLV_CONF)
        servers = nameservers(text)
        return MARK in text.splitlines() and len(servers) == 1 and servers[0] in self.known

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

    def own_servers(self):
        """Return the name servers that are the host's own, in dnsmasq's words, as dnsmasq was told."""
        servers = re.findall(r"^server=(\S+)$", self.read(SERVERS), re.M) + nameservers(self.read(UPSTREAM))
        return [server for server in servers if server not in self.known]

    # Steps

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

    def answers(self):
        """Whether dnsmasq itself answers: it knows this name alone, whatever the state of the network."""
        return self.outside.ask(self.address, "version.bind", qtype=16, qclass=3, timeout=1.0, tries=1) is not None

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

    def dropin(self, manager):
        """Return (path, text, command) of the word that the keeper of resolv.conf has to be given, or None."""
        if manager == "resolved":
            lines = ["# Written by the dnsmasq role of vdloo.mesh.", "[Resolve]"]
            if resolved_servers(self.resolved_config()):
                # One list holds all global servers, and only one of it is asked: dnsmasq asks the others in our stead.
                lines.append("DNS=")
            lines += [f"DNS={self.address}", "Domains=" + " ".join("~" + name for name in self.settings["domains"])]
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
        return self.ours() and nameservers(self.read(RESOLV_CONF)) == [self.address]

    def wanted(self):
        """Return (path, text now, text wanted) of the file that makes the host ask dnsmasq."""
        manager = self.detect()
        if manager == "resolved":
            path, text, dummy = self.dropin(manager)
            return path, self.read(path), text
        return RESOLV_CONF, self.read(RESOLV_CONF), render(self.source(manager), self.address, self.settings["options"])

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
        self.write(RESOLV_CONF, render(self.source(manager), self.address, self.settings["options"]), like=self._like())

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
            resolving.update(self.outside.host_resolves([name for name in names if name not in resolving]))
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

    # What stands in the way

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


# Who holds a port


def is_free(address, port=53):
    """Whether nobody else has the address and port. An address that the host has not got is nobody's."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        try:
            info = socket.getaddrinfo(address, port, type=kind, flags=socket.AI_NUMERICHOST)[0]
            sock = socket.socket(info[0], kind)
        except OSError:
            continue
        with sock:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(info[4])
                if kind == socket.SOCK_STREAM:
                    sock.listen(1)
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:
                    return False
    return True


def socket_inodes(address, port, proc="/proc"):
    """Return the inodes of the sockets that are bound to the port on this address or on all addresses."""
    wanted = {ipaddress.ip_address(name) for name in (address, "0.0.0.0", "::")}
    found = set()
    for table in ("udp", "tcp", "udp6", "tcp6"):
        try:
            with open(f"{proc}/net/{table}", encoding="ascii") as source:
                lines = source.read().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            host, dummy, hex_port = fields[1].partition(":")
            if int(hex_port, 16) != port or (table.startswith("tcp") and fields[3] != "0A"):
                continue
            words = [struct.pack("=I", int(word, 16)) for word in re.findall("." * 8, host)]
            if ipaddress.ip_address(b"".join(words)) in wanted:
                found.add(fields[9])
    return found


def open_files(folder):
    """Return what a process has open; what it closes while we look is left out."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"{folder}/{name}"))
    return found


def holders(address, port=53, proc="/proc"):
    """Return the processes that hold the port, each as {pid, name, unit}."""
    wanted = {f"socket:[{inode}]" for inode in socket_inodes(address, port, proc)}
    found = []
    for pid in sorted((name for name in os.listdir(proc) if name.isdigit()), key=int):
        if not open_files(f"{proc}/{pid}/fd") & wanted:
            continue
        try:
            with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as source:
                name = source.read().strip()
            with open(f"{proc}/{pid}/cgroup", encoding="utf-8", errors="replace") as source:
                unit = re.search(r"/([^/\n]+\.service)(?:/|$)", source.read(), re.M)
        except OSError:
            # It ended while we looked.
            continue
        found.append({"pid": int(pid), "name": name, "unit": unit.group(1) if unit else ""})
    return found


def main(argv):
    if len(argv) != 2 or argv[1] not in ("learn", "follow", "release"):
        sys.stderr.write(f"usage: {argv[0]} learn|follow|release\n")
        return 2
    try:
        resolver = Resolver()
        with resolver.locked():
            getattr(resolver, argv[1])()
    except (ResolverError, OSError) as exc:
        sys.stderr.write(f"{argv[1]}: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
