"""What ONNX computes behind the ends of rows, where recurrences are given ``sequence_lens``.

cgru's frames end with each row, so that nothing behind counts in anything. ONNX' tensors go on to the longest row:
recurrences leave zeros there, and every other operator computes with what it finds. Where that would reach a frame that
counts, or one number of a whole sequence, the two differ, and the graph is refused.
"""

from __future__ import annotations

from ...builder import Graph as Builder
from ...errors import UnsupportedError
from ...spec.graph import Node
from ...spec.operation import operation

#: Operations of which zeros make zeros, where nothing is added to them.
_KEEP = frozenset((
    "reshape", "transpose", "slice", "take", "broadcast", "activation", "unary", "dense", "add", "sub", "reverse_time",
    "concat", "reduce", "clip", "prelu", "matmul", "conv1d",
))  # fmt: skip
_KEEPING_FUNCTIONS = ("relu", "tanh", "linear", "softsign", "elu", "abs", "sqrt", "neg", "sign", "sin", "asinh", "atan")
_KEEPING_SUMS = ("sum", "mean", "max", "min", "l1", "l2", "sum_square")


def check_ends(g: Builder, endless: set[str]) -> None:
    """Refuse a graph whose results what is behind a row's end would be part of.

    The network's inputs hold zeros there, as sequences are padded. ``endless`` are recurrences without
    ``sequence_lens``, which go on behind the ends.
    """
    zero = set(g.inputs)
    for node in g.nodes:
        timed = [name for name in node.inputs if name and g.values[name].clock is not None]
        if not timed:
            continue
        kept = zero.issuperset(timed)
        if not (kept and _sums(node)) and _reaches(node, kept):
            raise UnsupportedError(
                f"{node.layer}: {node.op} over frames, where rows have lengths (sequence_lens): what is behind a row's "
                "end counts in it in ONNX, and never in cgru; export the network without lengths, or with sums instead"
            )
        if node.name not in endless and _makes_zeros(g, node, zero):
            zero.add(node.name)


def _sums(node: Node) -> bool:
    return node.op == "pool_whole" and node.options["kind"] == "sum"


def _reaches(node: Node, kept: bool) -> bool:
    """Whether frames behind a row's end are part of what the operation gives."""
    kind = operation(node.op, node.name)
    if node.op in ("scan", "scan_rows", "last_state", "reverse_time", "expand_time", "carry", "carried"):
        return False
    if node.op == "pool_whole" and node.options["kind"] == "first":
        return False
    if kind.is_whole(node.options):
        return True
    if not kind.windowed:
        return False
    window = kind.window(node.options)
    if window.right < 0:
        return True  # it cuts off the ends of the longest row alone
    later = window.right > 0 or (node.op == "conv_transpose" and node.options["right"] > 0)
    return later and (not kept or node.op == "pool")


def _makes_zeros(g: Builder, node: Node, zero: set[str]) -> bool:
    if node.op in ("scan", "scan_rows") or (node.op == "mul" and zero.intersection(node.inputs)):
        return True
    if node.op not in _KEEP or not zero.issuperset(name for name in node.inputs if name):
        return False
    if node.op in ("dense", "conv1d"):
        biased = "bias" in g.store[node.weights].shapes if node.weights else False
        return not biased and node.options["activation"] in _KEEPING_FUNCTIONS
    if node.op == "activation":
        return node.options["activation"] in _KEEPING_FUNCTIONS and node.options["alpha"] is None
    if node.op in ("unary", "reduce"):
        return node.options["kind"] in (*_KEEPING_FUNCTIONS, *_KEEPING_SUMS)
    return node.op != "clip" or node.options["low"] <= 0 <= node.options["high"]
