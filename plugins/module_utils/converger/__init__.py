# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The program vdloo-mesh-converge: with it a node converges the whole mesh, by itself and one node at a time."""

from __future__ import annotations
