"""What the operating system is told of work that may wait: whole sequences and long texts come after the streams."""

from __future__ import annotations

import os
import threading

#: How much less than the streams it counts (nice levels).
_NICE = 10


def later() -> int:
    """The nice level of work that may wait, in this process; it has no meaning where there are none (Windows)."""
    return min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICE) if hasattr(os, "getpriority") else 0


def less_urgent(level: int) -> None:
    """Put the thread that calls it on a level, and what it starts; nothing where threads have no level (but Linux)."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), level)
