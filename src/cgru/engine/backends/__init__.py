"""The door to the three backends: which one runs a layer, and how layers become stages that run.

A *stage* is one or more consecutive layers made ready by one backend. A model is a list of stages; running it
hands a :class:`~cgru.engine.backends.flow.Flow` from one to the next. ``reference`` and ``blas`` make one stage of each
layer; ``packed`` makes one of every run of its layers. Adding a backend is one module with the three functions
of :class:`Backend` and one line in :data:`BACKENDS`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from itertools import groupby
from typing import Protocol, cast

from ...arrays import Float32, brief
from ...errors import UnsupportedError
from ...layers import Layer
from ..state import StateLayout
from .flow import Flow


class Stage(Protocol):
    """Consecutive layers, ready to run on any batch and any number of steps; shared between threads."""

    layers: tuple[Layer, ...]

    def run(self, flow: Flow, state: Float32, threads: int, out: Float32 | None = None) -> Flow:
        """Advance ``state`` (B, width) in place and return what flows on; ``out`` may receive the result."""
        ...


class Backend(Protocol):
    def unavailable(self) -> str | None:
        """Why the backend cannot run here, or None."""
        ...

    def supports(self, layer: Layer) -> bool: ...

    def compile(self, layers: Sequence[Layer], layout: StateLayout) -> list[Stage]: ...


BACKENDS = {"packed": ".packed", "blas": ".blas", "reference": ".reference"}


def backend(name: str) -> Backend:
    return cast(Backend, importlib.import_module(BACKENDS[name], __name__))


def resolve(layer: Layer, wanted: str) -> str:
    """The backend that runs ``layer``: the one asked for, or by sizes and instruction set alone for "auto"."""
    if wanted != "auto":
        if reason := backend(wanted).unavailable():
            raise UnsupportedError(f"backend={wanted!r} cannot run here: {reason}")
        return wanted if backend(wanted).supports(layer) else "reference"
    for name in BACKENDS:
        if backend(name).unavailable() is None and backend(name).supports(layer):
            return name
    raise AssertionError("the reference backend runs every layer")


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


def compile_stages(layers: Sequence[Layer], layout: StateLayout, wanted: str) -> tuple[list[Stage], list[str]]:
    """The stages of a network and, for each layer, the name of the backend that runs it."""
    names = [resolve(layer, wanted) for layer in layers]
    stages: list[Stage] = []
    for name, group in groupby(zip(names, layers, strict=True), key=lambda pair: pair[0]):
        stages += backend(name).compile([layer for _, layer in group], layout)
    return stages, names
