# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lookup vdloo.mesh.kv."""

from __future__ import annotations

DOCUMENTATION = r"""
name: kv
short_description: Read values from Consul's key/value store, one or a whole folder
version_added: "1.0.0"
author: vdloo.mesh contributors (@vdloo)
description:
  - Reads a key as a string, or all keys of a folder as a nested dictionary of strings, in one request.
  - It asks the Consul agent of the machine that runs Ansible. With O(bootstrap), it asks the agent of a node of the mesh instead,
    by SSH.
  - What is in the store was written by others, so it stays text. A value that looks like a template is never evaluated.
options:
  _terms:
    description:
      - Paths of keys or folders, as in V(apps/web/port) or V(apps/web). An empty path reads the whole store.
      - A key that is a folder as well is read as a folder, with its own value under the empty name.
      - With a slash at its end, a path is read as a folder only.
    type: list
    elements: str
    required: true
  json:
    description: Parse each value as JSON. A value that is not JSON is an error that names its key.
    type: bool
    default: false
  default:
    description: What to return for a path where there is nothing. Without it, that is an error that names the path.
    type: raw
  stale:
    description:
      - Take the answer of any Consul server, which may be some milliseconds behind, and works while there is no leader.
      - Without it, the leader answers; while there is none, that is an error after 7 seconds.
    type: bool
    default: true
  consul_addr:
    description: Address of the agent's HTTP API, as in V(127.0.0.1:8500), V(https://[::1]:8501) or V(unix:///run/consul.sock).
    type: str
    default: 127.0.0.1:8500
    env:
      - name: CONSUL_HTTP_ADDR
  consul_token:
    description: ACL token that may read the keys.
    type: str
    default: ''
    env:
      - name: CONSUL_HTTP_TOKEN
  consul_ca_file:
    description: File with the certificates of the authorities that may have signed the agent's.
    type: path
    env:
      - name: CONSUL_CACERT
  consul_cert_file:
    description: File with the certificate to show to the agent.
    type: path
    env:
      - name: CONSUL_CLIENT_CERT
  consul_key_file:
    description: File with the key of O(consul_cert_file).
    type: path
    env:
      - name: CONSUL_CLIENT_KEY
  consul_verify:
    description: Whether the agent's certificate must be a valid one.
    type: bool
    default: true
    env:
      - name: CONSUL_HTTP_SSL_VERIFY
  timeout:
    description: Seconds to wait for the answer, with O(bootstrap) from each node.
    type: float
    default: 10
  bootstrap:
    description:
      - Nodes of the mesh as C(user@host[:port]), for a machine outside it. The first that answers by SSH asks its own agent.
      - The options C(consul_*) then are as seen from there, so O(consul_addr) is best left as it is.
    type: list
    elements: str
    default: []
    env:
      - name: VDLOO_MESH_BOOTSTRAP
  bootstrap_ssh_args:
    description: Options of ssh for O(bootstrap), in addition to those of your SSH configuration, as in V(-i ~/.ssh/mesh).
    type: str
    default: ''
    env:
      - name: VDLOO_MESH_BOOTSTRAP_SSH_ARGS
seealso:
  - plugin: vdloo.mesh.mesh
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: Read one value
  ansible.builtin.debug:
    msg: "The web server listens on {{ lookup('vdloo.mesh.kv', 'apps/web/port') }}"

- name: Read a folder, from any server, leader or not
  ansible.builtin.set_fact:
    web: "{{ lookup('vdloo.mesh.kv', 'apps/web') }}"  # {"port": "8080", "tls": {"certificate": "/etc/ssl/web.pem"}}

- name: Read a value that may be missing
  ansible.builtin.debug:
    msg: "{{ lookup('vdloo.mesh.kv', 'apps/web/port', default='8080') }}"

- name: Read the registry of the mesh
  ansible.builtin.debug:
    msg: "{{ item.key }} is at {{ item.value.address }}"
  loop: "{{ lookup('vdloo.mesh.kv', 'vdloo-mesh/v1/registry', json=true) | dict2items }}"

- name: Read a value from outside the mesh
  ansible.builtin.debug:
    msg: "{{ lookup('vdloo.mesh.kv', 'apps/web/port', bootstrap=['root@192.0.2.10']) }}"
"""

RETURN = r"""
_raw:
  description: One entry for each path, the string of a key or the dictionary of a folder.
  type: list
  elements: raw
  sample: ["8080"]
"""

import json
import urllib.parse

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.vdloo.mesh.plugins.module_utils.consul.client import Client, ClientError
from ansible_collections.vdloo.mesh.plugins.plugin_utils import bootstrap

# Deeper than this is no folder of anybody's, and too deep for the code that would walk it.
MAX_DEPTH = 100


class MissingError(Exception):
    """There is nothing at the path."""


class Leaf:
    """The value of one key."""

    def __init__(self, key: str, text: str) -> None:
        self.key = key
        self.text = text


def select(entries: dict[str, str], path: str, parse_json: bool = False) -> object:
    """Return what is at `path` in {key: text}: a value, or a folder as a nested dictionary.

    Raises MissingError, or ValueError that names the key that cannot be read.
    """
    folder = path if path == "" or path.endswith("/") else path + "/"
    below = {key: text for key, text in entries.items() if key.startswith(folder)}
    own = Leaf(path, entries[path]) if path != folder and path in entries else None
    if below:
        return _values(_tree(below, len(folder), own), parse_json)
    if own is None:
        raise MissingError
    return _value(own, parse_json)


def _tree(entries: dict[str, str], start: int, own: Leaf | None) -> dict:
    """Nest the keys from the character `start` on; the ends are leaves. `own` is the value of the folder itself."""
    tree: dict = {} if own is None else {"": own}
    # Sorted, a folder's own value comes before what is in the folder.
    for key in sorted(entries):
        *folders, name = key[start:].split("/")
        if len(folders) >= MAX_DEPTH:
            raise ValueError(f"the key {key[:80]!r}... is more than {MAX_DEPTH} folders deep: read another path")
        if "" in folders:
            raise ValueError(f"the key {key!r} has a folder without a name: rename it, or read another path")
        place = tree
        for folder in folders:
            inner = place.setdefault(folder, {})
            if isinstance(inner, Leaf):
                inner = place[folder] = {"": inner}
            place = inner
        if name == "" and not entries[key]:
            continue  # how Consul's own pages make an empty folder
        if name in place:
            raise ValueError(f"the keys {key[:-1]!r} and {key!r} both have a value: delete one of them")
        place[name] = Leaf(key, entries[key])
    return tree


def _values(tree: dict, parse_json: bool) -> dict:
    """Put values in the places of the leaves."""
    rest = [tree]
    while rest:
        place = rest.pop()
        for name, inner in place.items():
            if isinstance(inner, Leaf):
                place[name] = _value(inner, parse_json)
            else:
                rest.append(inner)
    return tree


def _value(leaf: Leaf, parse_json: bool) -> object:
    if not parse_json:
        return leaf.text
    try:
        return json.loads(leaf.text)
    except (ValueError, RecursionError) as error:
        # Without the value: it may be a secret.
        raise ValueError(f"the value of the key {leaf.key!r} is not JSON ({error}): correct it, or read it without json=true") from error


class LookupModule(LookupBase):
    """Reads paths of the store, each in one request."""

    def run(self, terms: list[str], variables: dict | None = None, **kwargs: object) -> list:
        self.set_options(var_options=variables, direct=kwargs)
        read = self._read_by_ssh if self.get_option("bootstrap") else self._read
        found = []
        for term in terms:
            if not isinstance(term, str):
                raise AnsibleError(f"vdloo.mesh.kv: {term!r} is not a path: write the key or the folder as a string")
            path = term.lstrip("/")
            try:
                # What a URL has other uses for belongs to the key.
                entries = read(urllib.parse.quote(path, safe="/"))
                found.append(select(entries, path, self.get_option("json")))
            except MissingError:
                if "default" not in kwargs:
                    raise AnsibleError(
                        f"vdloo.mesh.kv: there is nothing at {term!r} in Consul's key/value store, or nothing that the token may read: "
                        "correct the path, or give a default"
                    ) from None
                found.append(self.get_option("default"))
            except (ClientError, ValueError) as error:
                raise AnsibleError(f"vdloo.mesh.kv: cannot read {term!r}: {error}") from error
        return found

    def _agent(self) -> dict:
        """The agent to ask, as Client and collector take it."""
        texts = {name: self.get_option("consul_" + name) or "" for name in ("addr", "token", "ca_file", "cert_file", "key_file")}
        return {**texts, "verify": self.get_option("consul_verify")}

    def _read(self, prefix: str) -> dict[str, str]:
        client = Client(timeout=self.get_option("timeout"), **self._agent())
        try:
            return client.kv(prefix, stale=self.get_option("stale"))
        finally:
            client.close()

    def _read_by_ssh(self, prefix: str) -> dict[str, str]:
        timeout = self.get_option("timeout")
        request = {"timeout": timeout, "consul": self._agent(), "kv": {"path": prefix, "stale": self.get_option("stale")}}
        reply, host = bootstrap.run(self.get_option("bootstrap"), request, self.get_option("bootstrap_ssh_args"), timeout)
        if "kv" not in reply["answers"]:
            raise ValueError(f"{host}: {reply['errors'].get('kv', 'it gave no answer')}")
        return reply["answers"]["kv"]
