"""Forked children that answer by how they end, for code that runs in a process of its own."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable


def forked(check: Callable[[], bool], children: int = 1, limit: int = 60) -> list[int]:
    """The statuses of so many children side by side: 0 where ``check()`` was true there within ``limit`` seconds.

    A child that hangs is killed by its alarm, and so has a status too.
    """
    pids = []
    for _ in range(children):
        with warnings.catch_warnings():
            # Python 3.12 warns of fork beside threads: that is what is tested.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            status = 99
            try:
                signal.alarm(limit)
                status = 0 if check() else 1
            finally:
                os._exit(status)
        pids.append(pid)
    return [os.waitpid(pid, 0)[1] for pid in pids]
