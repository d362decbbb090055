"""The reference backend: the oracle's equations in float64, one step at a time. Slow, and always there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import reference
from ...arrays import Float32
from ...layers import Activation, Dense, Layer, Recurrent, Scan
from ...spec.activations import ACTIVATIONS
from ...spec.operations.recurrent import EMITTED
from ..state import StateLayout
from .layerwise import LayerStage, ScanKernel, compile_layers


def unavailable() -> None:
    return None


def supports(layer: Layer) -> bool:
    return True


def compile(
    layers: Sequence[Layer], layout: StateLayout, record: dict[str, dict[str, Float32]] | None = None
) -> list[LayerStage]:
    return compile_layers(layers, layout, Float64(record))


class Float64:
    """The arithmetic of :mod:`cgru.reference`, for :mod:`~cgru.engine.backends.layerwise`."""

    dtype = np.float64

    def __init__(self, record: dict[str, dict[str, Float32]] | None = None) -> None:
        """``record`` receives what every gate did, in the form that :meth:`Model.gates` gives."""
        self.record = record

    def prepare_scan(self, layer: Recurrent, scan: Scan, arrays: dict[str, Float32]) -> ScanKernel:
        weights = [arrays[key].astype(np.float64) for key in layer.cell.arrays]
        σ, φ = ACTIVATIONS[layer.recurrent_activation], ACTIVATIONS[layer.activation]
        step = layer.cell.step
        recorded: dict[str, Float32] | None = None
        if self.record is not None:
            recorded = self.record.setdefault(f"{layer.name}.{scan.label}", {})

        def run(
            x: np.ndarray,
            state: list[Float32],
            emitted: Float32,
            valid: np.ndarray | None,
            reverse: bool,
            repeat: bool,
            threads: int,
        ) -> np.ndarray:
            h = [array.astype(np.float64) for array in state]
            batch, steps = x.shape[:2]
            y = np.zeros((batch, steps, layer.emitted_size))
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                for t in reversed(range(steps)) if reverse else range(steps):
                    *new, gates = step(x[:, t], *h, *weights, σ, φ)
                    ok = np.ones(batch, bool) if valid is None else valid[:, t]
                    h = [np.where(ok[:, None], a, b) for a, b in zip(new, h, strict=True)]
                    if recorded is not None:
                        held = dict(zip(layer.cell.state, h, strict=True)) | {"z": 1.0}
                        for name, value in gates.items():
                            if name not in recorded:
                                recorded[name] = np.zeros((batch, steps, value.shape[-1]), np.float32)
                            recorded[name][:, t] = np.where(ok[:, None], value, held.get(name, 0.0))
                    emitted[ok] = EMITTED
                    shown = emitted == EMITTED if repeat else ok
                    y[:, t] = np.where(shown[:, None], h[0], 0)
                for array, value in zip(state, h, strict=True):
                    array[...] = value
            return y

        return run

    def prepare_dense(self, layer: Dense) -> Any:
        held = {key: array.astype(np.float64) for key, array in layer.arrays().items()}
        φ = ACTIVATIONS[layer.activation]
        return lambda x, threads: reference.dense(x.astype(np.float64), held["weight"], held.get("bias"), φ)

    def prepare_activation(self, layer: Activation) -> Any:
        return lambda x, threads: ACTIVATIONS[layer.activation](x.astype(np.float64))
