"""A client of :func:`cgru.ray.streams`: feeds one session, over whichever replicas live."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ray.exceptions import RayActorError, RayError

from ..errors import CgruError

#: Seconds between tries at most.
_PAUSE = 0.25


class Session:
    """One stream on a cluster: ``Session(handle, "name").feed(x)``, as :meth:`cgru.engine.stream.Stream.feed`.

    ``handle`` is what ``ray.serve.run`` gave. A call that a replica does not survive is made again, at another, for up
    to ``patience`` seconds; its outputs are the same bits, and no step is lost or doubled. ``steps`` counts those done.
    """

    def __init__(self, handle: Any, name: str, *, steps: int = 0, patience: float = 60.0) -> None:
        self._handle = handle.options(session_id=name)
        self.name, self.steps, self._patience = name, steps, patience
        #: Seconds that the last call took, and how often it was made.
        self.took, self.tries = 0.0, 0

    def feed(self, x: Any) -> np.ndarray:
        """Steps x (T, I), or ids (T,) → outputs (T, O)."""
        begun, pause = time.monotonic(), 0.01
        self.tries = 0
        while True:
            self.tries += 1
            left = self._patience - (time.monotonic() - begun)
            try:
                y: np.ndarray = self._handle.feed.remote(self.name, self.steps, x).result(timeout_s=max(0.1, left))
                break
            except (RayActorError, TimeoutError) as error:
                if time.monotonic() - begun > self._patience:
                    raise CgruError(f"session {self.name!r}: no replica answered in {self._patience:g} s") from error
            except RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, CgruError):
                    raise cause from None
                if not isinstance(cause, RayActorError):
                    raise
            time.sleep(pause)
            pause = min(_PAUSE, 2 * pause)
        self.steps += len(y)
        self.took = time.monotonic() - begun
        return y

    def close(self) -> None:
        """Let the session be forgotten."""
        self._handle.close.remote(self.name).result(timeout_s=self._patience)
