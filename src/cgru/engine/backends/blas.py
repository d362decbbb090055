"""The BLAS backend: products by SciPy's BLAS, gates by fused loops of our own. Runs wherever SciPy does.

A thread count says how many threads the fused loops may use; the BLAS itself follows its own settings
(``OPENBLAS_NUM_THREADS`` for the one in SciPy's wheels).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import numpy as np

from ...arrays import Float32
from ...layers import Activation, Dense, Layer, Recurrent, Scan
from ...spec.activations import CODES
from ..state import StateLayout
from .layerwise import LayerStage, ScanKernel, compile_layers

#: An OpenMP team does not survive fork: a child that asks for one waits for ever, so it runs on one thread.
_PROCESS = os.getpid()


@cache
def unavailable() -> str | None:
    if find_spec("scipy") is None:
        return "SciPy is not installed; pip install scipy"
    if find_spec("._blas", __package__) is None:
        return "its extension module cgru.engine.backends._blas was not built; install cgru with a C compiler present"
    return None


def supports(layer: Layer) -> bool:
    if not isinstance(layer, Recurrent):
        return True
    from . import _blas

    return layer.cell.name in _blas.cells()


def compile(layers: Sequence[Layer], layout: StateLayout) -> list[LayerStage]:
    from . import _blas

    return compile_layers(layers, layout, Blas(_blas))


class Blas:
    """float32 through :mod:`cgru.engine.backends._blas`, for :mod:`~cgru.engine.backends.layerwise`."""

    dtype = np.float32

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def prepare_scan(self, layer: Recurrent, scan: Scan, arrays: dict[str, Float32]) -> ScanKernel:
        # Biases that only ever add are added here, once; a reset product keeps its own inside.
        bias, vectors = arrays["bias_ih"], arrays.get("weight_ph")
        if "bias_hh" in arrays:
            bias = bias + arrays["bias_hh"]
        if layer.cell.separate_candidate_bias:
            vectors = arrays["bias_hh"][-layer.hidden_size :]
            bias[-layer.hidden_size :] = arrays["bias_ih"][-layer.hidden_size :]
        matrices = (arrays.get(stem) for stem in ("weight_ih", "weight_hh", "weight_hr"))
        kernel = self.module.ScanKernel(
            layer.cell.name,
            *(None if matrix is None else _plain(matrix) for matrix in matrices),
            _plain(bias),
            None if vectors is None else _plain(vectors),
            CODES[layer.recurrent_activation],
            CODES[layer.activation],
        )

        def run(
            x: np.ndarray,
            state: list[Float32],
            emitted: Float32,
            valid: np.ndarray | None,
            reverse: bool,
            repeat: bool,
            threads: int,
        ) -> np.ndarray:
            return kernel(_aligned(x), state, emitted, valid, reverse, repeat, _team(threads))

        return run

    def prepare_dense(self, layer: Dense) -> Callable[[np.ndarray, int], np.ndarray]:
        held = {key: _plain(array) for key, array in layer.arrays().items()}
        code = CODES[layer.activation]

        def run(x: np.ndarray, threads: int) -> np.ndarray:
            rows = _plain(x.astype(np.float32, copy=False).reshape(-1, x.shape[-1]))
            y = self.module.dense(held["weight"], held.get("bias"), code, rows, _team(threads))
            return y.reshape(*x.shape[:-1], y.shape[-1])

        return run

    def prepare_activation(self, layer: Activation) -> Callable[[np.ndarray, int], np.ndarray]:
        code = CODES[layer.activation]

        def run(x: np.ndarray, threads: int) -> np.ndarray:
            y = np.array(x, dtype=np.float32, order="C")
            self.module.activate(code, y.reshape(-1, x.shape[-1]), _team(threads))
            return y

        return run


def _plain(array: np.ndarray) -> np.ndarray:
    """``array`` as BLAS takes it: C-ordered and aligned; itself where it already is."""
    return np.require(array, requirements=("C", "A"))


def _aligned(array: np.ndarray) -> np.ndarray:
    return array if array.flags.aligned else array.copy()


def _team(threads: int) -> int:
    return threads if threads == 1 or os.getpid() == _PROCESS else 1
