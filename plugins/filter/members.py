# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The table of the playbook members. The filter is documented in members_table.yml beside this file."""

from __future__ import annotations

# No cell has a space in it: YAML, which Ansible may print results as, breaks long lines at single ones.
HEADER = ("node", "address", "status", "role", "peers(up/known)", "services", "converged")
CONFLICT = "*"


def _text(value) -> str:
    """What is shown of a value that others wrote: one line, without what would move a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(str(value).split()))


def _cell(value) -> str:
    return _text(value).replace(" ", "_") or "-"


def _services(services: dict) -> str:
    return ",".join(name if status == "passing" else f"{name}({status})" for name, status in sorted(services.items()))


def _peers(told: dict) -> str:
    return f"{told['peers_up']}/{told['peers_known']}" if "peers_up" in told and "peers_known" in told else "-"


def _row(name: str, variables) -> tuple[str, ...]:
    status = _cell(variables.get("mesh_status", "")) + (CONFLICT if variables.get("mesh_conflicts") else "")
    return (
        _cell(name),
        _cell(variables.get("mesh_address") or variables.get("ansible_host") or ""),
        status,
        _cell(variables.get("mesh_role", "")),
        _peers(variables.get("members_cjdns") or {}),
        _cell(_services(variables.get("mesh_services") or {})),
        _cell(variables.get("mesh_converged", "")),
    )


def _notes(name: str, variables) -> list[str]:
    notes = [f"{_text(name)}{CONFLICT} {_text(conflict)}" for conflict in variables.get("mesh_conflicts") or []]
    told = variables.get("members_cjdns") or {}
    if told.get("failed") or told.get("unreachable"):
        notes.append(f"{_text(name)} did not tell its peers, {_text(told.get('msg', 'and no reason'))}")
    return notes


def members_table(names: list[str], hostvars) -> list[str]:
    """Lay out what is known of each host as the lines of a table, with notes below it."""
    names = sorted(set(names))
    rows = [HEADER] + [_row(name, hostvars[name]) for name in names]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return lines + [note for name in names for note in _notes(name, hostvars[name])]


class FilterModule:
    def filters(self) -> dict:
        return {"members_table": members_table}
