"""What a fork leaves of threads: a child inherits locks that are held and calls under way, but not their threads."""

from __future__ import annotations

import os
import threading

from .errors import CgruError


class Lock:
    """A re-entrant lock for work that ends by itself. A fork waits for that work, so that the child finds the lock
    free and what it guards whole. It lasts as long as the process: one for each module that needs one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._lock.release
            )

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def in_use(called: str, inherited: bool) -> CgruError:
    """What to say where another thread is in the midst of a call, ``inherited`` from before a fork or not."""
    if inherited:
        return CgruError(f"this {called} was in use by another thread when this process was forked; make a new one")
    advice = "it takes one step at a time" if called == "pool" else "give each thread its own"
    return CgruError(f"this {called} is in use by another thread; {advice}")
