"""A lock that a fork respects: a child inherits locks that are held, but not the threads that would release them."""

from __future__ import annotations

import os
import threading


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
