"""A client of :func:`cgru.ray.streams`: feeds one session, over whichever replicas live."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ray.exceptions import RayActorError, RayError, RayTaskError

from ..errors import CgruError

#: Seconds between tries at most.
_PAUSE = 0.25
#: Seconds after which a replica that has not answered is doubted, if its calls lately took no third of that.
_DOUBT = 0.4
#: Seconds that a session's first call may take (a replica may be starting), and what each call keeps of what is usual.
_FIRST, _KEPT = 1.0, 0.7
#: Calls elsewhere that follow one another after a quarter of the doubt, before they become rarer: each reaches another
#: replica by chance.
_SOON = 6
#: Seconds between looks at several calls that are all under way.
_LOOK = 0.01


class Session:
    """One stream on a cluster: ``Session(handle, "name").feed(x)``, as :meth:`cgru.engine.stream.Stream.feed`.

    ``handle`` is what ``ray.serve.run`` gave. A call that a replica does not survive is made again, at another, for up
    to ``patience`` seconds; one that takes far longer than those before it is made at another as well, and the first
    answer counts: Ray takes seconds to find a lost node. The outputs are the same bits, whoever gives them, and no step
    is lost or doubled. ``steps`` counts those done.
    """

    def __init__(self, handle: Any, name: str, *, steps: int = 0, patience: float = 60.0) -> None:
        self._handle, self._patience = handle, patience
        self.name, self.steps = name, steps
        #: What the router goes by, the name or what led to the replica that answered last; and the handle with it.
        self._route, self._routed = name, handle.options(session_id=name)
        #: Seconds that a call takes at most, going by those before; None before the first.
        self._usual: float | None = None
        #: Seconds that the last call took, and how often it was made.
        self.took, self.tries = 0.0, 0

    def feed(self, x: Any) -> np.ndarray:
        """Steps x (T, I), or ids (T,) → outputs (T, O)."""
        begun = time.monotonic()
        y = self._answer(x, begun)
        self.steps += len(y)
        self.took = time.monotonic() - begun
        return y

    def _answer(self, x: Any, begun: float) -> np.ndarray:
        """The first answer of as many calls as it takes."""
        self.tries, pause, route, handle = 0, 0.01, self._route, self._routed
        calls: dict[str, tuple[Any, Any, float]] = {}
        doubt = min(max(_DOUBT, 3 * (self._usual or _FIRST)), self._patience / 4)
        while True:
            self.tries += 1
            made = time.monotonic()
            calls[route] = handle, handle.feed.remote(self.name, self.steps, x), made
            last: Exception | None = None
            until = min(made + doubt, begun + self._patience)
            if self.tries == 1 or self.tries > _SOON:
                doubt *= 0.25 if self.tries == 1 else 2
            while calls and time.monotonic() < until:
                for route, (handle, call, made) in list(calls.items()):
                    left = until - time.monotonic() if len(calls) == 1 else _LOOK
                    try:
                        y: np.ndarray = call.result(timeout_s=max(0.001, left))
                    except Exception as error:
                        if isinstance(error, TimeoutError) and not isinstance(error, RayTaskError):
                            continue
                        last = _passing(error)
                        del calls[route]
                    else:
                        self._route, self._routed = route, handle
                        self._usual = max(time.monotonic() - made, _KEPT * (self._usual or 0.0))
                        return y
            if isinstance(last, CgruError) and not calls:
                raise last from None
            if time.monotonic() >= begun + self._patience:
                said = f"session {self.name!r}: no replica answered in {self._patience:g} s"
                raise CgruError(said) from last
            if not calls:
                time.sleep(pause)
                pause = min(_PAUSE, 2 * pause)
            # Another word for the router to hash leads to another replica, sooner or later.
            route = self.name if not calls and self._route != self.name else f"{self.name}#{self.tries}"
            handle = self._handle.options(session_id=route)

    def close(self) -> None:
        """Let the session be forgotten."""
        self._routed.close.remote(self.name).result(timeout_s=self._patience)


def _passing(error: Exception) -> Exception:
    """An error after which the call may be made again, or a :class:`CgruError`; raises any other."""
    if isinstance(error, RayActorError | TimeoutError):
        return error
    cause = getattr(error, "cause", None)
    if isinstance(error, RayError) and isinstance(cause, CgruError | RayActorError):
        return cause
    raise error
