"""The BLAS backend: products by SciPy's BLAS, gates by fused loops of our own. Runs wherever SciPy does.

It has kernels for scans, dense layers and activations; other operations go by the reference's equations. A thread
count says how many threads the fused loops may use; the BLAS itself follows its own settings (``OPENBLAS_NUM_THREADS``
for the one in SciPy's wheels).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from ...arrays import Float32
from ...spec.activations import CODES
from ...spec.cells import CELLS
from ...spec.graph import MASK, Graph, Node
from ...spec.operations.recurrent import cell_arrays, emitted_size
from ...weights import Weights
from ..interpreter import Interpreter, Kernel
from ..network import Network
from ..state import StateLayout

#: An OpenMP team does not survive fork: a child that asks for one waits for ever, so it runs on one thread.
_PROCESS = os.getpid()


@cache
def unavailable() -> str | None:
    if find_spec("scipy") is None:
        return "SciPy is not installed; pip install scipy"
    if find_spec("._blas", __package__) is None:
        return "its extension module cgru.engine.backends._blas was not built; install cgru with a C compiler present"
    return None


def unsupported(network: Network) -> None:
    return None


def names(network: Network) -> list[str]:
    lacking = {node.layer for node in network.graph.nodes if not (_has_kernel(node) or node.op in _MOVES)}
    return ["reference" if layer.name in lacking else "blas" for layer in network.layers]


def plan(network: Network, graph: Graph, layout: StateLayout) -> BlasPlan:
    return BlasPlan(network, graph, layout)


#: Operations that a layer of the table is made of beside its kernels, and that compute next to nothing.
_MOVES = {
    *("embedding", "mask_of", "mask_and", "apply_mask"),
    *("concat", "add", "mul", "average", "last_state", "pool_whole"),
}
#: Those of them that give at a frame what that frame has, whatever stands beyond a row's length.
_EACH_FRAME = _MOVES - {"pool_whole"} | {"scan", "dense", "activation", "scale_shift", "layer_norm"}


def _has_kernel(node: Node) -> bool:
    if node.op == "scan":
        from . import _blas

        return node.options["cell"] in _blas.cells()
    return node.op == "dense" or (node.op == "activation" and node.options["activation"] in CODES)


class BlasPlan(Interpreter):
    """A graph with kernels for the nodes that have some."""

    def __init__(self, network: Network, graph: Graph, layout: StateLayout) -> None:
        store = network.store
        kernels = {
            node.name: _kernel(node, graph, store[node.weights] if node.weights else None)
            for node in graph.nodes
            if _has_kernel(node)
        }
        super().__init__(graph, store, layout, kernels=kernels)
        self._lengths_as_mask = _masked_throughout(graph)

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        state: Float32,
        lengths: np.ndarray | None = None,
        *,
        ended: bool = True,
        threads: int = 1,
        out: Float32 | None = None,
    ) -> dict[str, np.ndarray]:
        """See :meth:`cgru.engine.plan.Plan.run`. Rows of several lengths are one batch where a mask can say them."""
        name = self._lengths_as_mask
        if lengths is None or not name:
            return super().run(inputs, state, lengths, ended=ended, threads=threads)
        within = np.arange(inputs[name].shape[1]) < lengths[:, None]
        mask = within & inputs[name + MASK] if name + MASK in inputs else within
        made = super().run({**inputs, name + MASK: mask}, state, ended=ended, threads=threads)
        for output, array in made.items():
            if self.graph.values[output].clock is not None:
                array[~within] = 0
        return made


def _masked_throughout(graph: Graph) -> str:
    """The input whose mask every recurrence obeys, in a graph where nothing else looks from frame to frame; or "".

    There a step beyond a row's length is a step that does not count: the state holds, and the output is cleared.
    """
    timed = graph.timed_inputs
    if len(timed) != 1 or timed[0] + MASK not in graph.optional or graph.static_inputs:
        return ""
    obeyed = {timed[0] + MASK}
    for node in graph.nodes:
        options = node.options
        if node.op == "mask_and" and obeyed & set(node.inputs):
            obeyed.add(node.name)
        if node.op == "scan" and (len(node.inputs) < 2 or node.inputs[1] not in obeyed or options["flip"]):
            return ""
        if node.op not in _EACH_FRAME or (node.op == "last_state" and options["as_output"] and _zeroing(graph, node)):
            return ""
    return timed[0]


def _zeroing(graph: Graph, node: Node) -> bool:
    """Whether the scan that a last output is of gives zero where the last step does not count."""
    scan = graph.node(node.inputs[0])
    return scan is None or not scan.options["repeat"]


# ---- kernels: one function an operation ---------------------------------------------------------------------------


def _kernel(node: Node, graph: Graph, weights: Weights | None) -> Kernel:
    if node.op == "activation":
        return _activation(node)
    assert weights is not None
    return (_scan if node.op == "scan" else _dense)(node, graph, weights)


def _scan(node: Node, graph: Graph, weights: Weights) -> Kernel:
    from . import _blas

    options, cell = node.options, CELLS[node.options["cell"]]
    (value,) = graph.input_values(node)[:1]
    assert value is not None
    arrays: dict[str, Float32] = {
        key: np.zeros(info.shape, np.float32)
        for key, info in cell_arrays(cell, value.size, options["units"], emitted_size(options)).items()
    } | weights.arrays()
    # Biases that only ever add are added here, once; a reset product keeps its own inside.
    bias, vectors, units = arrays["bias_ih"], arrays.get("weight_ph"), options["units"]
    if "bias_hh" in arrays:
        bias = bias + arrays["bias_hh"]
    if cell.separate_candidate_bias:
        vectors = arrays["bias_hh"][-units:]
        bias[-units:] = arrays["bias_ih"][-units:]
    kernel = _blas.ScanKernel(
        cell.name,
        _plain(arrays["weight_ih"]),
        _plain(arrays.get("weight_hh")),
        _plain(arrays.get("weight_hr")),
        _plain(bias),
        _plain(vectors),
        CODES[options["recurrent_activation"]],
        CODES[options["activation"]],
    )
    reverse, repeat, flip = options["reverse"], options["repeat"], options["flip"]

    def run(x: np.ndarray, state: list[Float32], flag: Float32, valid: np.ndarray | None, threads: int) -> np.ndarray:
        x = x.astype(np.float32, copy=False)
        x = x if x.flags.aligned else x.copy()
        y: np.ndarray = kernel(x, state, flag, valid, reverse, repeat, _team(threads))
        return y[:, ::-1] if flip else y

    return run


def _dense(node: Node, graph: Graph, weights: Weights) -> Kernel:
    from . import _blas

    held = {key: _plain(array) for key, array in weights.arrays().items()}
    code = CODES[node.options["activation"]]

    def run(x: np.ndarray, threads: int) -> np.ndarray:
        rows = _plain(x.astype(np.float32, copy=False).reshape(-1, x.shape[-1]))
        y: np.ndarray = _blas.dense(held["weight"], held.get("bias"), code, rows, _team(threads))
        return y.reshape(*x.shape[:-1], y.shape[-1])

    return run


def _activation(node: Node) -> Kernel:
    from . import _blas

    code = CODES[node.options["activation"]]

    def run(x: np.ndarray, threads: int) -> np.ndarray:
        y = np.array(x, dtype=np.float32, order="C")
        _blas.activate(code, y.reshape(-1, x.shape[-1]), _team(threads))
        return y

    return run


def _plain(array: Any) -> Any:
    """``array`` as BLAS takes it: C-ordered and aligned; itself where it already is, or is None."""
    return None if array is None else np.require(array, requirements=("C", "A"))


def _team(threads: int) -> int:
    return threads if threads == 1 or os.getpid() == _PROCESS else 1
