# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import cjdroutes
import pytest


@pytest.fixture(scope="module")
def one_daemon():
    daemon = cjdroutes.ScriptedDaemon()
    yield daemon
    daemon.close()


@pytest.fixture
def daemon(one_daemon):
    one_daemon.requests.clear()
    one_daemon.script, one_daemon.cookie, one_daemon.cookies = (lambda request: None), "1700000000", True
    return one_daemon
