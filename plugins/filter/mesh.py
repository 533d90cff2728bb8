# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pure functions of module_utils, for playbooks. Each filter is documented in the .yml file of its name beside this one."""

from __future__ import annotations

from ansible_collections.vdloo.mesh.plugins.plugin_utils.rendering import plain


def peers(host: dict, name: str, link_passwords: dict[str, dict]) -> dict[str, list]:
    """The plan of one host with the passwords of its links, as the role cjdns takes them. A password that nobody told is left out."""
    host, passwords = plain(host), plain(link_passwords)
    told = {dial["name"]: passwords.get(dial["name"], {}).get(host["public_key"]) for dial in host["dials"]}
    own = passwords.get(name, {})
    return {
        # A listener that this run does not reach tells no password: its dialler keeps the one that it has.
        "dials": [{**dial, "password": told[dial["name"]]} if told[dial["name"]] else dial for dial in host["dials"]],
        "accepts": [{"user": user, "password": own[key]} for user, key in zip(host["accepts"], host["diallers"]) if key in own],
    }


class FilterModule:
    def filters(self) -> dict:
        return {"peers": peers}
