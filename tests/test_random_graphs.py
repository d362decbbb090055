"""Graphs at random under the laws of all: chunks are the whole, a row of a batch is the row alone, threads change
nothing, and the core gives what the equations give. Hypothesis chooses a seed and sizes; numpy builds the graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cgru
from cgru.engine.network import Network

Rng = np.random.Generator


class Drawn:
    """A graph under construction: every value that there is may go into the next operation.

    Values and units are ``wide`` times as many as in a small graph.
    """

    def __init__(self, seed: int, depth: int, whole: bool, wide: int = 1) -> None:
        self.wide = wide
        self.rng = np.random.default_rng(seed)
        self.g = cgru.Graph()
        self.values: list[str] = []
        self.masked = bool(self.rng.random() < 0.3) and whole
        for i in range(int(self.rng.integers(1, 3))):
            self.values.append(self.g.input(self.some(7), name="ab"[i]))
        self.static = self.g.input(3, name="s", time=False) if self.rng.random() < 0.3 else ""
        self.mask = self.g.mask_of_input("a") if self.masked else ""
        for _ in range(depth):
            self.grow()
        if whole:
            self.finish()
            if self.rng.random() < 0.7:  # what is behind whole sequences, beside what is not
                self.values.append(self.join(self.values[-1]))
        if not self.g.nodes:
            self.values.append(self.dense(self.values[0]))
        # Everything that nobody reads goes out, and one value from the middle; or that alone.
        read = {name for node in self.g.nodes for name in node.inputs}
        ends = [node.name for node in self.g.nodes if node.name not in read]
        middle = self.g.nodes[int(self.rng.integers(len(self.g.nodes)))].name
        self.g.output(*dict.fromkeys([*ends, middle] if self.rng.random() < 0.7 else [middle]))

    def arr(self, *shape: int) -> np.ndarray:
        return (self.rng.standard_normal(shape) * 0.6 / np.sqrt(shape[-1])).astype(np.float32)

    def some(self, end: int) -> int:
        return int(self.rng.integers(1, end)) * self.wide

    def pick(self, *of: Any) -> Any:
        return of[int(self.rng.integers(len(of)))]

    def grow(self) -> None:
        kinds = [self.conv, self.conv, self.pool, self.scan, self.dense, self.join, self.join, self.plane, self.crop]
        made = self.pick(*kinds)(self.pick(*self.values))
        if made:
            if self.rng.random() < 0.3:
                made = self.norm(made)
            self.values.append(self.g.activation(made, activation=self.pick("tanh", "silu", "softsign")))

    def size(self, x: str) -> int:
        return self.g.values[x].features[0]

    def sides(self, span: int) -> tuple[int, int]:
        """Causal, centred, or anything else."""
        some = int(self.rng.integers(0, span)), int(self.rng.integers(0, span))
        return self.pick((span - 1, 0), (span // 2, (span - 1) // 2), some)

    def conv(self, x: str) -> str:
        width, dilation = int(self.rng.integers(1, 5)), int(self.rng.integers(1, 3))
        left, right = self.sides((width - 1) * dilation + 1)
        inputs = self.size(x)
        groups = self.pick(1, inputs)
        units = inputs if groups > 1 else self.some(7)
        return self.g.conv1d(
            x, units=units, width=width, dilation=dilation, left=left, right=right, stride=self.pick(1, 1, 1, 2, 3),
            groups=groups, weights={"weight": self.arr(units, inputs // groups, width), "bias": self.arr(units)},
        )  # fmt: skip

    def pool(self, x: str) -> str:
        if self.rng.random() < 0.3:
            return self.g.upsample(x, factor=int(self.rng.integers(2, 4)))
        width = int(self.rng.integers(1, 4))
        left, right = self.sides(width)
        return self.g.pool(
            x, kind=self.pick("max", "average"), width=width, stride=self.pick(1, 2), left=left, right=right,
            count_padding=self.pick(True, False),
        )  # fmt: skip

    def scan(self, x: str) -> str:
        units, inputs = self.some(6), self.size(x)
        cell, gates = self.pick(("gru_reset_after", 3), ("gru_reset_before", 3), ("lstm", 4), ("rnn", 1))
        weights = {
            "weight_ih": self.arr(gates * units, inputs), "weight_hh": self.arr(gates * units, units),
            "bias_ih": self.arr(gates * units), "bias_hh": self.arr(gates * units),
        }  # fmt: skip
        return self.g.scan(x, cell=cell, units=units, weights=weights)

    def dense(self, x: str) -> str:
        units = self.some(7)
        return self.g.dense(x, units=units, weights={"weight": self.arr(units, self.size(x))})

    def plane(self, x: str) -> str:
        """Frames with an inner axis, and back."""
        size = self.size(x)
        y = self.g.reshape(x, features=(1, size))
        width = int(self.rng.integers(1, 4))
        left, right = self.sides(width)
        y = self.g.conv2d(
            y, units=2, width=width, left=left, right=right, kernel=(3,), pads=(1, 1),
            weights={"weight": self.arr(2, 1, width, 3)},
        )  # fmt: skip
        y = self.g.layer_norm(y, axes=self.pick(1, 2), epsilon=0.1)
        return self.g.reshape(self.g.transpose(y, order=(1, 0)), features=(2 * size,))

    def crop(self, x: str) -> str:
        left, right = int(self.rng.integers(-2, 3)), int(self.rng.integers(-2, 3))
        return self.g.pad_time(x, left=left, right=right)

    def norm(self, x: str) -> str:
        size = self.size(x)
        arrays = {"scale": self.rng.uniform(0.5, 1.5, size), "shift": self.arr(size)}
        return self.g.scale_shift(x, weights={key: array.astype(np.float32) for key, array in arrays.items()})

    def join(self, x: str) -> str:
        """With another value of as many frames, however late it is; or with what has no time."""
        clock = self.g.values[x].clock
        others = [name for name in self.values if self.g.values[name].clock == clock]
        if self.static:
            others.append(self.static)
        other = self.pick(*others)
        if self.size(other) == self.size(x) and self.rng.random() < 0.7:
            return self.g.node(self.pick("add", "mul", "sub", "maximum"), x, other)
        return self.g.concat(x, other)

    def finish(self) -> None:
        """What needs the whole sequence, behind some value."""
        x = self.pick(*self.values)
        mask = [self.mask] if self.mask and self.g.values[x].clock == self.g.values["a"].clock else []
        kind = self.pick("norm", "soft", "back", "pool")
        if kind == "norm":
            self.values.append(self.g.group_norm(x, *mask, groups=self.size(x), over_time=True, epsilon=0.1))
        elif kind == "soft":
            one = {"weight": self.arr(1, self.size(x))}
            score = x if self.rng.random() < 0.5 else self.g.dense(x, units=1, weights=one)
            share = self.g.softmax_time(score, *mask)
            self.g.pool_whole(self.g.mul(x, share), kind="sum")
        elif kind == "back":
            self.values.append(self.g.reverse_time(x))
        else:
            self.g.pool_whole(x, *mask, kind=self.pick("max", "mean", "last", "first", "min", "variance"))

    def inputs(self, batch: int, steps: int) -> dict[str, np.ndarray]:
        made = {}
        for name, value in self.g.inputs.items():
            if value.dtype == "float32":
                shape = (batch, *((steps,) if value.clock else ()), *value.features)
                made[name] = self.rng.standard_normal(shape).astype(np.float32)
        return made


def outputs(net: cgru.Model, *args: Any, **options: Any) -> dict[str, np.ndarray]:
    made = net(*args, **options)
    return made if isinstance(made, dict) else {net.graph.outputs[0]: made}


def alike(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], atol: float = 0.0) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=10 * atol, atol=atol, err_msg=name)


SEEDS = st.integers(0, 1 << 20)


@settings(max_examples=120)
@given(seed=SEEDS, depth=st.integers(1, 8), steps=st.integers(0, 40), chunks=st.lists(st.integers(0, 40), max_size=4))
def test_chunks_equal_the_whole(seed: int, depth: int, steps: int, chunks: list[int]) -> None:
    drawn = Drawn(seed, depth, whole=False)
    x = drawn.inputs(2, steps)
    for engine, atol in (("packed", 0.0), ("reference", 1e-6)):
        net = cgru.Model(drawn.g, backend=engine)
        assert set(net.backends) == {engine}
        whole = outputs(net, x)
        stream = net.stream(2)
        bounds = [0, *sorted(min(cut, steps) for cut in chunks), steps]
        parts = []
        for a, b in zip(bounds, bounds[1:], strict=False):
            part = {name: array[:, a:b] if drawn.g.inputs[name].clock else array for name, array in x.items()}
            parts.append(stream.feed(part))
        parts.append(stream.flush())
        parts = [part if isinstance(part, dict) else {net.graph.outputs[0]: part} for part in parts]
        for name, array in whole.items():
            if drawn.g.values[name].clock is None:
                continue
            joined = np.concatenate([part[name] for part in parts], axis=1)
            np.testing.assert_allclose(joined, array, rtol=10 * atol, atol=atol, err_msg=f"{engine} {name}")


@settings(max_examples=120)
@given(
    seed=SEEDS, depth=st.integers(1, 8), whole=st.booleans(), threads=st.integers(1, 3),
    lengths=st.lists(st.integers(0, 24) | st.integers(65, 150), min_size=1, max_size=5),
)  # fmt: skip
def test_a_row_is_the_row_alone_and_the_core_is_the_equations(
    seed: int, depth: int, whole: bool, threads: int, lengths: list[int]
) -> None:
    drawn = Drawn(seed, depth, whole)
    steps = max(lengths)
    x = drawn.inputs(len(lengths), steps)
    mask = drawn.rng.random((len(lengths), steps)) < 0.7 if drawn.mask else None
    masked: Any = {} if mask is None else {"mask": mask}
    net, equations = cgru.Model(drawn.g, backend="packed"), cgru.Model(drawn.g, backend="reference")
    together = outputs(net, x, lengths=lengths, threads=threads, **masked)
    alike(together, outputs(equations, x, lengths=lengths, **masked), 2e-5)
    for row, length in enumerate(lengths):
        own = {
            name: array[row : row + 1, :length] if drawn.g.inputs[name].clock else array[row : row + 1]
            for name, array in x.items()
        }
        alone = outputs(net, own, **({} if mask is None else {"mask": mask[row : row + 1, :length]}))
        for name, array in alone.items():
            if drawn.g.values[name].clock is None:
                np.testing.assert_array_equal(together[name][row], array[0], err_msg=name)
                continue
            frames = array.shape[1]
            np.testing.assert_array_equal(together[name][row, :frames], array[0], err_msg=name)
            assert not together[name][row, frames:].any()


@settings(max_examples=60)
@given(seed=SEEDS, depth=st.integers(1, 8), whole=st.booleans(), steps=st.integers(0, 24))
def test_what_neighbours_take_over_changes_nothing(seed: int, depth: int, whole: bool, steps: int) -> None:
    drawn = Drawn(seed, depth, whole)
    x = drawn.inputs(2, steps)
    as_drawn = cgru.Model(Network(drawn.g.build(), drawn.g.store), backend="reference")
    net = cgru.Model(drawn.g, backend="reference")
    assert len(net.graph.nodes) <= len(as_drawn.graph.nodes)
    alike(outputs(net, x), outputs(as_drawn, x), 2e-6)


@settings(max_examples=25)
@given(seed=SEEDS, depth=st.integers(1, 8), whole=st.booleans(), steps=st.integers(1, 50), batch=st.integers(1, 3))
def test_any_number_of_threads_gives_the_same_bits(seed: int, depth: int, whole: bool, steps: int, batch: int) -> None:
    """Of graphs wide enough that a team shares the frames, the panels and the recurrences of a single row."""
    drawn = Drawn(seed, depth, whole, wide=24)
    x, lengths = drawn.inputs(batch, steps), drawn.rng.integers(0, steps + 1, batch) if seed % 2 else None
    net = cgru.Model(drawn.g, backend="packed")
    alone = outputs(net, x, lengths=lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGRU_CORES", "4")  # threads are as many as are asked for, wherever this runs
        for threads in (2, 3):
            alike(outputs(net, x, lengths=lengths, threads=threads), alone)


#: Operations that read numbers of an input by their places: one more in a frame changes nothing for them.
BY_PLACE = {"copy", "binary", "where", "gather", "reduce", "matmul"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=SEEDS, depth=st.integers(1, 6), whole=st.booleans())
def test_the_core_refuses_what_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, seed: int, depth: int, whole: bool
) -> None:
    """Python infers the types of a graph and so does the core, by itself: sizes and clocks that Python would not have
    given are refused by name, whatever planned them; those that it gave are taken."""
    from cgru.engine.backends import _packed

    taken: list[tuple[Any, ...]] = []
    real = _packed.GraphNet

    def planned(*arguments: Any) -> Any:
        taken.append(arguments)
        return real(*arguments)

    drawn = Drawn(seed, depth, whole)
    with monkeypatch.context() as patch:
        patch.setattr(_packed, "GraphNet", planned)
        outputs(cgru.Model(drawn.g, backend="packed"), drawn.inputs(1, 9))
    ((values, inputs, nodes, results, width),) = taken
    for v, (size, clock, content) in enumerate(values):
        readers = {node["op"] for node in nodes if v in node["inputs"]}
        changes = [(size - 1, clock), (size + 1, clock)]
        if v >= inputs:
            changes += [(size, other) for other in (0, 1, 2) if other != clock]
        elif not readers or readers <= BY_PLACE:
            continue
        for changed in changes:
            wrong = list(values)
            wrong[v] = (*changed, content)
            with pytest.raises(cgru.ShapeError, match="the core found that it does not fit together"):
                real(wrong, inputs, nodes, results, width)
    real(values, inputs, nodes, results, width)
    for i, node in enumerate(nodes):  # a vector of another length than the node reads
        for k, vector in enumerate(node.get("vectors", ())):
            if vector is not None:
                short = [*node["vectors"][:k], np.ravel(vector)[:-1].copy(), *node["vectors"][k + 1 :]]
                with pytest.raises(cgru.ShapeError, match="does not fit together"):
                    real(values, inputs, [*nodes[:i], {**node, "vectors": short}, *nodes[i + 1 :]], results, width)
