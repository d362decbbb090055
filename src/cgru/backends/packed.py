"""The packed backend: our own SIMD kernels. Not built yet."""

from __future__ import annotations

from collections.abc import Sequence

from ..layers import Layer
from ..state import StateLayout


def unavailable() -> str | None:
    return "the packed kernels are not built"


def supports(layer: Layer) -> bool:
    return False


def compile(layers: Sequence[Layer], layout: StateLayout) -> list:
    return []
