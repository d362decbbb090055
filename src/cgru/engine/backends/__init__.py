"""The door to the three backends: which one runs a network, and its plan.

A backend is one module with the functions of :class:`Backend` and one line in :data:`BACKENDS`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Protocol, cast

from ...arrays import brief
from ...errors import UnsupportedError

if TYPE_CHECKING:
    from ...spec.graph import Graph
    from ..network import Network
    from ..plan import Plan
    from ..state import StateLayout


class Backend(Protocol):
    def unavailable(self) -> str | None:
        """Why the backend cannot run here, or None."""
        ...

    def unsupported(self, network: Network) -> str | None:
        """The first operation that keeps the backend from running the network, or None."""
        ...

    def names(self, network: Network) -> list[str]:
        """For each layer, the backend that does its work: another where this one has no kernel for it."""
        ...

    def plan(self, network: Network, graph: Graph, layout: StateLayout) -> Plan:
        """The network made ready; ``graph`` is its own, or that for the number of features at hand."""
        ...


BACKENDS = {"packed": ".packed", "blas": ".blas", "reference": ".reference"}


def backend(name: str) -> Backend:
    return cast(Backend, importlib.import_module(BACKENDS[name], __name__))


def resolve(network: Network, wanted: str) -> str:
    """The backend that runs ``network``: the one asked for, or the reference where it lacks an operation.

    "auto" is the first that this machine has.
    """
    if wanted == "auto":
        wanted = next(name for name in BACKENDS if backend(name).unavailable() is None)
    elif reason := backend(wanted).unavailable():
        raise UnsupportedError(f"backend={wanted!r} cannot run here: {reason}")
    return wanted if backend(wanted).unsupported(network) is None else "reference"


def choose(wanted: str | None) -> str:
    """``backend=`` as given, or the environment's ``CGRU_BACKEND``, or auto."""
    if wanted is not None:
        return checked(wanted)
    return checked(os.environ.get("CGRU_BACKEND") or "auto", "CGRU_BACKEND")


def checked(name: object, where: str = "backend") -> str:
    """``name`` if it is a backend's or "auto", else an :class:`UnsupportedError` that lists them."""
    if not isinstance(name, str) or name not in ("auto", *BACKENDS):
        raise UnsupportedError(f"{where}={brief(name)}: expected one of auto, {', '.join(BACKENDS)}")
    return name
