"""What reading a file may cost, measured in a forked child: processor time and memory, and how the reading ended.

The bounds are linear in the bytes that were read: 2.5 s of processor time and 0.3 s a megabyte; 128 MB of resident
memory and 32 times the file. A child that does not come back is ended by the kernel at four times its time.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

MEGABYTE = 1 << 20
MAX_MESSAGE = 2000


@dataclass(frozen=True)
class Cost:
    """``ended`` is "returned", the name of the exception, or how the child died; ``message`` what it said."""

    ended: str
    message: str
    seconds: float
    grew: int
    value: Any = None


def time_bound(size: int) -> float:
    """Seconds of processor time that a file of ``size`` bytes may take."""
    return 2.5 + 0.3 * size / MEGABYTE


def memory_bound(size: int) -> int:
    """Bytes by which reading a file of ``size`` bytes may make the process grow."""
    return 128 * MEGABYTE + 32 * size


def cost(task: Callable[[], Any], *, limit: float) -> Cost:
    """``task()`` in a forked child: how it ended, what it took. ``limit`` is in seconds of processor time."""
    # Memory that this process has freed but holds would hide what the child takes.
    gc.collect()
    _libc().malloc_trim(0)
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(reader)
        found = _in_child(task, limit)
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(found, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        ended = "never: out of time" if name in ("SIGXCPU", "SIGKILL") else f"crashed: {name}"
        return Cost(ended, "", limit, 0)
    return pickle.loads(told)


def _in_child(task: Callable[[], Any], limit: float) -> Cost:
    seconds = int(limit) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _reset_peak()
    before, start = _memory("VmRSS"), _seconds()
    value, message = None, ""
    try:
        value, ended = task(), "returned"
    except BaseException as error:
        ended, message = type(error).__name__, str(error)
    return Cost(ended, message, _seconds() - start, _memory("VmHWM") - before, value)


def assert_bounded(found: Cost, size: int) -> None:
    """``found`` kept within the bounds for a file of ``size`` bytes, and said no more than a screenful."""
    assert found.seconds <= time_bound(size), f"{found.ended} after {found.seconds:.1f} s for {size} bytes"
    assert found.grew <= memory_bound(size), f"{found.ended}, grew by {found.grew >> 20} MB for {size} bytes"
    assert len(found.message) <= MAX_MESSAGE, f"a message of {len(found.message)} characters"


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)


def _seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _reset_peak() -> None:
    """Linux forgets the largest size so far; a child starts with its own anyway, pages of the parent included."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def _memory(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))
