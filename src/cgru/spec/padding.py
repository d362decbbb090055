"""Zeros before a convolution are the convolution's own: without a node of its own for them, a step stays a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .graph import Node
from .operation import operation

#: Operations whose ``left`` and ``right`` are frames of zeros.
CONVOLUTIONS = ("conv1d", "conv2d")


def absorb_padding(nodes: Sequence[Node], outputs: Sequence[str]) -> list[Node]:
    """The nodes with every ``pad_time`` of zeros in the convolutions that read it, and without those that none reads.

    PyTorch and ONNX write a causal convolution as padding and a convolution without. Padding gives several frames for
    the first step, so a pool, which takes a step at a time, could not run it. No result changes: a frame of zeros is
    the same from either. Padding that reaches further than the kernel stays, as all that something else reads.
    """
    zeros: dict[str, _Zeros] = {}
    made: list[Node] = []
    for node in nodes:
        if node.op in CONVOLUTIONS and node.inputs[0] in zeros:
            node = _with(node, zeros[node.inputs[0]])
        elif node.op == "pad_time" and node.options["mode"] == "constant":
            left, right = node.options["left"], node.options["right"]
            if min(left, right) >= 0:
                before = zeros.get(node.inputs[0], _Zeros(node.inputs[0], 0, 0))
                zeros[node.name] = _Zeros(before.of, before.left + left, before.right + right)
        made.append(node)
    return _read(made, outputs, zeros)


class _Zeros(NamedTuple):
    """So many frames of zeros before and behind a value."""

    of: str
    left: int
    right: int


def _with(node: Node, zeros: _Zeros) -> Node:
    left, right = node.options["left"] + zeros.left, node.options["right"] + zeros.right
    if max(left, right) >= operation(node.op, node.name).window(node.options).span:
        return node
    options = {**node.options, "left": left, "right": right}
    return node._replace(inputs=(zeros.of, *node.inputs[1:]), options=options)


def _read(nodes: Sequence[Node], outputs: Sequence[str], zeros: dict[str, _Zeros]) -> list[Node]:
    """The nodes but for padding that nothing reads."""
    read, kept = set(outputs), []
    for node in reversed(nodes):
        if node.name not in zeros or node.name in read:
            read.update(node.inputs)
            kept.append(node)
    return kept[::-1]
