"""How a layer of a network runs on top of three operations: scan, dense, activation.

Stacking, directions, lengths, masks and merging are the same for every backend that goes layer by layer; they
stand here once, and the backend brings the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ...arrays import Float32
from ...layers import Activation, Dense, Embedding, LastStep, Layer, Masking, Recurrent, Scan
from ...spec.operations.recurrent import EMITTED
from ..state import Block, StateLayout
from .flow import Flow


class ScanKernel(Protocol):
    """One direction of one layer over all steps: features (B, T, I) → emitted (B, T, H)."""

    def __call__(
        self,
        x: np.ndarray,
        state: list[Float32],
        emitted: Float32,
        valid: np.ndarray | None,
        reverse: bool,
        repeat: bool,
        threads: int,
    ) -> np.ndarray:
        """Advance ``state`` (views (B, H), changed in place) from the first step processed to the last.

        Where ``valid`` (B, T) is False the state holds, and the output repeats the last one (zero before any)
        or is zero without ``repeat``. ``emitted`` (B,) is 1 once a row has had a valid step. ``reverse`` walks
        time from its end; outputs stay at their input's time.
        """
        ...


class Arithmetic(Protocol):
    """What a layerwise backend brings. ``prepare`` calls happen once, when a network is made ready."""

    @property
    def dtype(self) -> type[np.floating]: ...

    def prepare_scan(self, layer: Recurrent, scan: Scan, arrays: dict[str, Float32]) -> ScanKernel: ...

    def prepare_dense(self, layer: Dense) -> Any: ...

    def prepare_activation(self, layer: Activation) -> Any: ...


class LayerStage:
    """One layer on one backend's arithmetic."""

    def __init__(self, layer: Layer, blocks: list[Block], arithmetic: Arithmetic) -> None:
        self.layers = (layer,)
        self.layer = layer
        self.blocks = blocks
        self.dtype = arithmetic.dtype
        if isinstance(layer, Recurrent):
            held = layer.arrays()
            self.scans = list(layer.scans())
            self.kernels = [arithmetic.prepare_scan(layer, scan, layer.scan_arrays(scan, held)) for scan in self.scans]
        elif isinstance(layer, Dense):
            self.pointwise = arithmetic.prepare_dense(layer)
        elif isinstance(layer, Activation):
            self.pointwise = arithmetic.prepare_activation(layer)
        elif isinstance(layer, Embedding):
            self.table = layer.arrays()["weight"].astype(self.dtype, copy=False)

    def run(self, flow: Flow, state: Float32, threads: int, out: Float32 | None = None) -> Flow:
        layer = self.layer
        if isinstance(layer, Embedding):
            if layer.mask_zero:
                flow = flow.masked_by(flow.x != 0)
            flow = flow.with_x(self.table[flow.x])
        elif isinstance(layer, Masking):
            mask = np.any(flow.x != np.float32(layer.mask_value), axis=-1)
            flow = flow.masked_by(mask).with_x(np.where(mask[..., None], flow.x, flow.x.dtype.type(0)))
        elif isinstance(layer, LastStep):
            return Flow(_last_step(flow), last=True)
        elif isinstance(layer, Recurrent):
            return self._recur(layer, flow, state, threads)
        else:
            flow = flow.with_x(self.pointwise(flow.x, threads))
        return _clear_beyond(flow)

    def _recur(self, layer: Recurrent, flow: Flow, state: Float32, threads: int) -> Flow:
        valid, within = flow.valid(), flow.within()
        repeat = not layer.zero_output_for_mask
        x = flow.x.astype(self.dtype, copy=False)
        outputs: list[np.ndarray] = []
        for k in range(layer.num_layers):
            outputs = []
            for scan, block, kernel in zip(self.scans, self.blocks, self.kernels, strict=True):
                if scan.layer != k:
                    continue
                emitted = state[:, block.aux]
                views = block.views(state)
                reverse = scan.reverse or layer.go_backwards
                y = kernel(x, views, emitted, valid, reverse, repeat, threads)
                if k == layer.num_layers - 1 and not layer.return_sequences:
                    shown = emitted == EMITTED if repeat else (emitted == EMITTED) & _ends_counted(flow, valid, reverse)
                    y = np.where(shown[:, None], views[0], 0).astype(y.dtype)
                elif within is not None:
                    y = np.where(within[..., None], y, y.dtype.type(0))
                outputs.append(y)
            if k < layer.num_layers - 1:
                x = np.concatenate(outputs, axis=-1)
        if layer.go_backwards and layer.return_sequences:
            outputs = [_backwards(y, flow) for y in outputs]
        merged = merge(outputs, layer.merge_mode)
        if not layer.return_sequences:
            return Flow(merged, last=True)
        # The mask stays as it is even where go_backwards has turned the outputs round: so Keras does.
        return flow.with_x(merged)


def merge(outputs: Sequence[np.ndarray], mode: str | None) -> Any:
    """Join the outputs of the two directions as Keras' Bidirectional does; one alone passes through."""
    if len(outputs) == 1:
        return outputs[0]
    forward, backward = outputs
    if mode == "concat":
        return np.concatenate([forward, backward], axis=-1)
    if mode == "sum":
        return forward + backward
    if mode == "mul":
        return forward * backward
    if mode == "ave":
        return (forward + backward) * forward.dtype.type(0.5)
    return forward, backward


def _last_step(flow: Flow) -> np.ndarray:
    """(B, F): the features at each row's last step; zeros for a row without any."""
    batch, steps, features = flow.x.shape
    if not steps:
        return np.zeros((batch, features), flow.x.dtype)
    if flow.lengths is None:
        return np.ascontiguousarray(flow.x[:, -1])
    last = flow.x[np.arange(batch), np.maximum(flow.lengths - 1, 0)]
    return np.where((flow.lengths > 0)[:, None], last, last.dtype.type(0))


def _ends_counted(flow: Flow, valid: np.ndarray | None, reverse: bool) -> np.ndarray:
    """(B,): whether the last step processed counts (True for a row that has no step at all)."""
    batch, steps = flow.x.shape[:2]
    if valid is None or not steps:
        return np.ones(batch, bool)
    ends = np.full(batch, steps) if flow.lengths is None else flow.lengths
    last = np.zeros(batch, np.int64) if reverse else np.maximum(ends - 1, 0)
    return valid[np.arange(batch), last] | (ends == 0)


def _backwards(values: np.ndarray, flow: Flow) -> np.ndarray:
    """Reverse time, each row within its own length."""
    if flow.lengths is None:
        return values[:, ::-1]
    steps = np.arange(values.shape[1])
    index = np.where(steps < flow.lengths[:, None], flow.lengths[:, None] - 1 - steps, steps)
    return np.take_along_axis(values, index.reshape(*index.shape, *[1] * (values.ndim - 2)), axis=1)


def _clear_beyond(flow: Flow) -> Flow:
    """Zero the features past each row's length, so that padding stays padding."""
    within = flow.within()
    if within is None:
        return flow
    return flow.with_x(np.where(within[..., None], flow.x, flow.x.dtype.type(0)))


def compile_layers(layers: Sequence[Layer], layout: StateLayout, arithmetic: Arithmetic) -> list[LayerStage]:
    return [LayerStage(layer, layout.of_layer(layer.name), arithmetic) for layer in layers]
