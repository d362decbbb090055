"""What an ONNX file says, as plain immutable records: no protobuf, no bytes, no rules of any operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

#: An axis: its size, the name under which the file leaves it open, or None where it says nothing.
Dimension: TypeAlias = "int | str | None"


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """A value as the file declares it.

    ``dtype`` is numpy's name of the type it is read as; empty where the file does not say, and ``sequence``,
    ``map``, ``optional`` or ``sparse`` for what is no tensor. ``shape`` is None where the file does not say.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...] | None


@dataclass(frozen=True, slots=True)
class Reference:
    """Inside a function: the attribute that the node calling it gives under this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. An empty name among ``inputs`` is an optional input left out, among ``outputs`` one unused.

    ``version`` is that of the operator set the node is of. Attributes are int, float, str, arrays, graphs, and
    tuples of these.
    """

    name: str
    op: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    overload: str = ""

    def __str__(self) -> str:
        """How messages name the node: its name, or where it has none its first output."""
        label = self.name or next((name for name in self.outputs if name), "")
        return f"node {shortened(label)} ({f'{self.domain}.' if self.domain else ''}{shortened(self.op, '')})"

    def subgraphs(self) -> Iterator[tuple[str, Graph]]:
        """The graphs among the attributes, each with a name of its own within the node."""
        for name, value in self.attributes.items():
            if isinstance(value, Graph):
                yield name, value
            elif isinstance(value, tuple):
                yield from ((f"{name}.{i}", item) for i, item in enumerate(value) if isinstance(item, Graph))

    def reads(self) -> Iterator[str]:
        """Every name the node needs: its inputs, and what its subgraphs take from around them."""
        yield from (name for name in self.inputs if name)
        for _, graph in self.subgraphs():
            yield from graph.captures


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph whose nodes stand in an order in which each comes after what it reads.

    ``inputs`` leaves out those that have an initializer. ``captures`` are the names a subgraph takes from the
    graphs around it. ``declared`` holds what the file says of values within.
    """

    name: str
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    nodes: tuple[Node, ...]
    initializers: Mapping[str, np.ndarray]
    declared: Mapping[str, ValueInfo] = field(default_factory=dict)
    captures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A whole file. ``opsets`` maps a domain ("" is ONNX' own) to its version."""

    shown: str
    graph: Graph
    opsets: Mapping[str, int]
    ir_version: int
    producer: str
    metadata: Mapping[str, str]


def shortened(text: str, quote: str = "'", most: int = 80) -> str:
    """A name from a file as messages show it: on one line, and never long."""
    shown = repr(text)[1:-1]
    return quote + (shown if len(shown) <= most else shown[: most - 1] + "…") + quote
