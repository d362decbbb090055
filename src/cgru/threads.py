"""How many threads a call may use: ``threads=``, the environment, or what this process was given.

More threads than cores only wait for each other (64 on one core: 4.6 ms for a call of 0.3), so every number is capped
at the cores this process may use. ``CGRU_CORES`` says how many those are where the system does not know.
"""

from __future__ import annotations

import math
import os

from .arrays import brief, positive
from .errors import CgruError

#: More than any machine has cores for: a larger number is a mistake.
MOST = 4096


def resolve(threads: int | str | None) -> int:
    """A thread count from ``threads=``, at most the cores allowed.

    None means ``CGRU_NUM_THREADS`` or 1; "auto" all of those cores.
    """
    if threads is None:
        text = os.environ.get("CGRU_NUM_THREADS", "").strip()
        if not text:
            return 1
        if text != "auto" and not (text.isdecimal() and int(text) >= 1):
            raise CgruError(f"CGRU_NUM_THREADS={text!r}: expected a whole number of at least 1, or auto")
        threads = text if text == "auto" else int(text)
    if isinstance(threads, str):
        if threads == "auto":
            return available()
        raise CgruError(f"threads={brief(threads)}: expected a whole number of at least 1, or 'auto'")
    count = positive(threads, "threads")
    if count > MOST:
        raise CgruError(f"threads: expected at most {MOST}, found {brief(count)}")
    return count if count == 1 else min(count, _affinity())


def available() -> int:
    """The cores this process may use: its affinity, capped by the cgroup's CPU quota where there is one."""
    quota = None if os.environ.get("CGRU_CORES", "").strip() else _cgroup_quota()
    cores = _affinity()
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _affinity() -> int:
    """The cores this process may run on, or as many as ``CGRU_CORES`` says; no file is read for it."""
    text = os.environ.get("CGRU_CORES", "").strip()
    if text:
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MOST):
            raise CgruError(f"CGRU_CORES={text!r}: expected a whole number from 1 to {MOST}")
        return int(text[:9])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cgroup_quota() -> float | None:
    """CPUs allowed by cgroup v2 or v1; None where there is no limit or no such file (that is no error)."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()[:2]
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", encoding="ascii") as file:
                quota = file.read().strip()
            with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us", encoding="ascii") as file:
                period = file.read().strip()
        except (OSError, ValueError):
            return None
    try:
        limit, span = int(quota), int(period)
    except ValueError:  # cgroup v2 says "max" where there is no limit
        return None
    return limit / span if limit > 0 and span > 0 else None
