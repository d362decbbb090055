"""Lowerings of recurrences, over time and inside a frame, and of the states that a graph reads and writes itself."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ...spec.activations import CODES
from ...spec.cells import CELLS
from ...spec.graph import Node
from ...spec.operations.recurrent import emitted_size
from ...spec.values import Value
from .graph_lowering import Context, first, lowers, weights_of
from .packed import packed_scan, packing


def _packed(c: Context, cell: str, activation: str, recurrent: str, emitted: int) -> Any:
    assert c.weights is not None
    with packing:
        return packed_scan(c.weights, cell, CODES[activation], CODES[recurrent], c.node.options["units"], emitted)


@lowers("scan")
def _scan(c: Context) -> dict[str, Any]:
    options = c.node.options
    scan = _packed(c, options["cell"], options["activation"], options["recurrent_activation"], emitted_size(options))
    (block,) = c.layout.blocks[c.node.name]
    return {"scan": (scan, options["reverse"], block.offset, block.aux, options["repeat"], options["flip"])}


@lowers("last_state")
def _last_state(c: Context) -> dict[str, Any]:
    scan = c.graph.node(c.node.inputs[0])
    assert scan is not None
    (block,) = c.layout.blocks[scan.name]
    names = CELLS[scan.options["cell"]].state
    before = block.sizes[: names.index(c.node.options["array"])]
    return {
        "offset": block.offset + sum(before),
        "flag": int(c.node.options["as_output"]),
        "numbers": [block.aux, int(not scan.options["repeat"]), int(scan.options["reverse"])],
    }


# ---- lines of a frame -----------------------------------------------------------------------------------------------

#: The cells of ONNX' operators by the core's names: gated, and the activation of the candidate.
_CELLS = {"gru_after": "gru_reset_after", "gru_before": "gru_reset_before", "lstm": "lstm", "rnn": "rnn"}


def _plain_cell(node: Node, result: Value, inputs: list[Value | None]) -> bool:
    """Whether it is a cell of the core's, without the switches of ONNX'; an LSTM's two tanhs are one option there."""
    options, names = node.options, node.options["activations"]
    known = all(name in CODES and name != "softmax" for name in names)
    return known and (options["cell"] != "lstm" or names[1] == names[2]) and not options["clip"] + options["coupled"]


def _lines(c: Context) -> Any:
    options = c.node.options
    assert c.weights is not None
    cell, names = _CELLS[options["cell"]], options["activations"]
    if options["cell"] == "lstm" and "weight_ph" in c.weights.shapes:
        cell = "lstm_peephole"
    gate, candidate = (names[0], names[0]) if options["cell"] == "rnn" else names[:2]
    return _packed(c, cell, candidate, gate, options["units"])


@lowers("scan_rows", where=_plain_cell)
def _scan_rows(c: Context) -> dict[str, Any]:
    (block,) = c.layout.blocks[c.node.name]
    return {
        "scan": (_lines(c), c.node.options["reverse"], block.offset, block.aux, False, False),
        "lines": True,
        "numbers": [prod(first(c).features[:-1])],
    }


@lowers("scan_inner", where=_plain_cell)
def _scan_inner(c: Context) -> dict[str, Any]:
    options, shape = c.node.options, first(c).features
    return {
        "scan": (_lines(c), options["reverse"], 0, 0, False, False),
        "lines": True,
        "kind": int(options["emit"] == "c"),
        "numbers": [prod(shape[:-2]), shape[-2]],
    }


# ---- states ---------------------------------------------------------------------------------------------------------


@lowers("carried")
def _carried(c: Context) -> dict[str, Any]:
    (block,) = c.layout.blocks[c.node.name]
    return {"offset": block.offset}


@lowers("positions")
def _positions(c: Context) -> dict[str, Any]:
    (block,) = c.layout.blocks[c.node.name]
    table = np.ascontiguousarray(weights_of(c)["table"])
    return {"offset": block.offset, "vectors": [table], "numbers": [c.node.options["limit"]]}


@lowers("carry")
def _carry(c: Context) -> dict[str, Any]:
    (block,) = c.layout.blocks[c.node.inputs[1]]
    return {"offset": block.offset}
