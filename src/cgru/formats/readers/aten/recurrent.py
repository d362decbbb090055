"""ATen's recurrent operators: whole stacks, and cells in a loop, which are a stack again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from ....layers import GRU, LSTM, RNN, Recurrent
from .inner_recurrent import inside
from .linear import dense
from .lowering import Lowering, handles
from .pointwise import activated, binary
from .program import Call
from .values import BT, PACKED, TB, Axis, B, Known, Misread, States, T, Tensor, Withheld

_CLASSES: dict[str, Any] = {"gru": GRU, "lstm": LSTM, "rnn_tanh": RNN, "rnn_relu": RNN}


@handles("gru", "lstm", "rnn_tanh", "rnn_relu")
def _stack(lo: Lowering, call: Call) -> list[Any]:
    """torch's gru.input and its like: outputs, then the final states."""
    if call.op.endswith(".data"):
        raise UnsupportedError("a packed sequence as torch keeps it; cgru takes lengths= instead")
    x, given = lo.tensor(call, 0, "input"), lo.arg(call, 1, "hx")
    has_biases, layers = lo.arg(call, 3, "has_biases"), lo.arg(call, 4, "num_layers")
    both, batch_first = lo.arg(call, 7, "bidirectional"), lo.arg(call, 8, "batch_first")
    if lo.arg(call, 6, "train") and lo.arg(call, 5, "dropout"):
        raise UnsupportedError("dropout between layers, in training")
    if len(x.axes) != 3:
        raise UnsupportedError("a recurrent module on something that has not three axes")
    rows, frames = (0, 1) if batch_first else (1, 0)
    if x.axes[rows] in (BT, TB) and isinstance(x.axes[frames], int):
        layer = _layer(lo, call, call.base, lo.arg(call, 2, "params"), has_biases, layers, both)
        return inside(lo, layer, x, rows, frames, given)
    x = lo.at_every_frame(x, frames)
    if x.axes[frames] != T or x.axes[rows] not in (B, None):
        raise Misread(
            f"batch_first={bool(batch_first)}, and the axes it gets are not "
            f"{'(rows, frames, features)' if batch_first else '(frames, rows, features)'}"
        )
    lo.evident = True
    layer = _layer(lo, call, call.base, lo.arg(call, 2, "params"), has_biases, layers, both)
    x = replace(x, name=lo.arranged(x, [2]))
    arrays = list(layer.cell.state)
    begin = [_begin(lo, part, layers * (2 if both else 1)) for part in (given if call.base == "lstm" else [given])]
    mask = lo.packed.get(x.name, "")
    y = _run(lo, layer, x.name, begin, mask)
    axes: tuple[Axis, ...] = (B, T, 0) if batch_first else (T, B, 0)
    axes = tuple(None if axis == B and x.axes[rows] is None else axis for axis in axes)
    sizes = {"h": layer.emitted_size, "c": layer.hidden_size}
    if lo.lengths and x.behind != PACKED:
        if both:
            raise UnsupportedError("rows of several lengths read backwards from the padding behind them; pack them")
        withheld = Withheld("the final state after the padding behind a row's length; pack the rows")
        return [Tensor(y, axes), *[withheld] * len(arrays)]
    ends = [[lo.emit("last_state", scan, array=array, size=sizes[array]) for scan in lo.scans[y]] for array in arrays]
    made = Tensor(y, axes).followed_by(PACKED if lo.lengths else None)
    return [made, *(States(tuple(names)) for names in ends)]


def _layer(
    lo: Lowering, call: Call, kind: str, params: Sequence[Any], biased: bool, layers: int, both: bool
) -> Recurrent:
    arrays = []
    for param in params:
        if not isinstance(param, Known):
            raise UnsupportedError("its weights are computed from the input")
        arrays.append(np.ascontiguousarray(param.array, np.float32))
    suffixes = [f"_l{k}{way}" for k in range(layers) for way in (("", "_reverse") if both else ("",))]
    stems = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if biased else [])]
    if kind == "lstm" and len(arrays) == len(suffixes) * (len(stems) + 1):
        stems.append("weight_hr")
    if len(arrays) != len(stems) * len(suffixes):
        raise UnsupportedError(f"{len(arrays)} weights for {len(suffixes)} directions")
    tensors = dict(zip((stem + suffix for suffix in suffixes for stem in stems), arrays, strict=True))
    more: dict[str, Any] = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    made: Recurrent = _CLASSES[kind].from_torch(tensors, name=call.module or None, **more)
    return made


def _begin(lo: Lowering, value: Any, count: int) -> list[str] | None:
    """What each direction begins with, or None for zeros."""
    if isinstance(value, Known):
        if not np.any(value.array):
            return None
        if value.array.shape[0] != count or not np.all(value.array == value.array[:, :1]):
            raise UnsupportedError("an initial state that differs from row to row")
        return [lo.constant(value.array[i, 0]) for i in range(count)]
    if isinstance(value, States):
        parts = list(value.parts)
    elif isinstance(value, Tensor):
        if len(value.axes) != 3 or value.axes[1] != B or lo.clock(value) is not None:
            raise Misread("an initial state that is not (layers, rows, features)")
        name = lo.arranged(value, [0, 2])
        units = lo.features(name)[1]
        found = lo.features(name)[0]
        rows = [name] if found == 1 else [
            lo.emit("slice", name, start=i, stop=i + 1, axis=0) for i in range(found)
        ]  # fmt: skip
        parts = [lo.emit("reshape", row, features=(units,)) for row in rows]
    else:
        raise UnsupportedError("an initial state that cgru does not follow")
    if len(parts) == 1 and count > 1:
        parts *= count
    if len(parts) != count:
        raise UnsupportedError(f"{len(parts)} initial states for {count} directions")
    return parts


def _run(lo: Lowering, layer: Recurrent, x: str, begin: Sequence[list[str] | None], mask: str = "") -> str:
    """The stack on a value; which scans it became goes to ``lo.scans``. ``mask``: the frames that there are of it."""
    if all(part is None for part in begin) and not mask:
        before = len(lo.g.nodes)
        y: str = lo.layer(layer, x)
        if y not in lo.scans:
            lo.scans[y] = [node.name for node in lo.g.nodes[before:] if node.op == "scan"]
        return y
    if any(part is None for part in begin) and not all(part is None for part in begin):
        units = [layer.emitted_size, layer.hidden_size]
        zero = [[lo.constant(np.zeros(size, np.float32))] * len(layer.weights) for size in units]
        begin = [zero[i] if part is None else part for i, part in enumerate(begin)]
    names: list[str] = []
    ends: list[str] = []
    title = layer.name
    while title in lo.g._layers:
        title += "_"
    lo.g._layers.add(title)
    for number, scan in enumerate(layer.scans()):
        if number and not number % layer.directions:
            x = ends[0] if len(ends) == 1 else lo.emit("concat", *ends)
            ends = []
        given = [part[number] for part in begin if part is not None]
        y = lo.g.node(
            "scan", x, mask, *given, name=title if len(layer.weights) == 1 else f"{title}.{scan.label}", layer=title,
            weights=layer.weights[scan.suffix], cell=layer.cell.name, units=layer.hidden_size,
            emitted=layer.emitted_size if layer.emitted_size != layer.hidden_size else 0,
            activation=layer.activation, recurrent_activation=layer.recurrent_activation, reverse=scan.reverse,
            repeat=not mask,
        )  # fmt: skip
        names.append(y)
        ends.append(y)
    made = ends[0] if len(ends) == 1 else lo.emit("concat", *ends)
    lo.scans[made] = names
    if mask:
        lo.packed[made] = mask
    return made


# ---- cells in a loop ----------------------------------------------------------------------------------------


@handles("gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell", frames=True)
def _cell(lo: Lowering, call: Call) -> Any:
    """One step of a loop over time: the first makes a recurrence over the whole sequence, the others are its frames."""
    kind = call.base.removesuffix("_cell")
    x, given = lo.tensor(call, 0, "input"), lo.arg(call, 1, "hx")
    states = list(given) if isinstance(given, (list, tuple)) else [given]
    timeless = [v for v in (x, *states) if isinstance(v, Tensor) and v.at is None and lo.clock(v) is None]
    if len(timeless) == 1 + len(states) and all(v.axes == (B, 0) for v in timeless):
        return stepped(lo, call, x, states)  # of a decoder with a fixed number of steps
    if x.at is None or len(x.axes) != 2 or not isinstance(x.axes[1], int):
        raise UnsupportedError("a cell that does not run over the frames of one sequence, in a loop")
    lo.evident = True
    params = [lo.arg(call, 2 + i, name, None) for i, name in enumerate(("w_ih", "w_hh", "b_ih", "b_hh"))]
    source, last = lo.arranged(x, [1]), lo.frames_of(x.name) - 1
    if all(isinstance(s, Tensor) and s.at == x.at and s.name not in lo.loops for s in states):
        return stepped(lo, call, x, states)
    weights = tuple(id(p.array) if isinstance(p, Known) else None for p in params)
    fresh = not any(isinstance(s, Tensor) and s.at is not None for s in states)
    if fresh and x.at in (0, last):
        name = _looped(lo, call, kind, source, params, states, x.at == last and last > 0)
        lo.loops[name] = (source, weights, call.base)
        return _stepped(lo, name, x, kind)
    before = states[0]
    if isinstance(before, Tensor) and before.name in lo.loops:
        name = before.name
        backward = _reversed(lo, name)
        steps = all(isinstance(s, Tensor) and s.name == name and s.at == x.at + (1 if backward else -1) for s in states)
        memory = kind != "lstm" or [s.memory for s in states] == ["", "c"]
        if steps and memory and lo.loops[name] == (source, weights, call.base):
            return _stepped(lo, name, x, kind)
    raise UnsupportedError(
        "a loop over cells where the state does not simply go from step to step, with the same weights: something is "
        "done to it in between, or the loop does not begin at the first frame or the last"
    )


def stepped(lo: Lowering, call: Call, x: Tensor, states: Sequence[Tensor]) -> Any:
    """One step of a cell in a loop that does something else as well: its equations, gate by gate.

    Source: torch.nn.GRUCell, LSTMCell and RNNCell.
    """
    kind, h = call.base.removesuffix("_cell"), states[0]
    w_ih, w_hh, b_ih, b_hh = (
        lo.known(call, 2 + i, name, None) for i, name in enumerate(("w_ih", "w_hh", "b_ih", "b_hh"))
    )
    bare = call._replace(module="")
    from_x, from_h = dense(lo, bare, x, w_ih, b_ih), dense(lo, bare, h, w_hh, b_hh)
    if kind.startswith("rnn"):
        return activated(lo, binary(lo, "add", from_x, from_h), kind[4:])
    size = lo.features(h)[-1]

    def part(value: Tensor, place: int) -> Tensor:
        name = lo.emit("slice", value.name, start=place * size, stop=(place + 1) * size, axis=0)
        return replace(value, name=name)

    if kind == "lstm":
        gates = binary(lo, "add", from_x, from_h)
        i, f, g, o = (activated(lo, part(gates, k), "tanh" if k == 2 else "sigmoid") for k in range(4))
        c = binary(lo, "add", binary(lo, "mul", f, states[1]), binary(lo, "mul", i, g))
        return [binary(lo, "mul", o, activated(lo, c, "tanh")), c]
    r, z = (activated(lo, binary(lo, "add", part(from_x, k), part(from_h, k)), "sigmoid") for k in (0, 1))
    n = activated(lo, binary(lo, "add", part(from_x, 2), binary(lo, "mul", r, part(from_h, 2))), "tanh")
    kept = binary(lo, "sub", h, n)
    return binary(lo, "add", n, binary(lo, "mul", z, kept))


def _reversed(lo: Lowering, name: str) -> bool:
    return any(node.name == name and node.options["reverse"] for node in lo.g.nodes)


def _looped(
    lo: Lowering, call: Call, kind: str, x: str, params: Sequence[Any], states: Sequence[Any], backward: bool
) -> str:
    """The recurrence that a loop is, from its first step on."""
    given = [p for p in params if p is not None]
    layer = _layer(lo, call, kind, given, len(given) == 4, 1, False)
    begin: list[list[str] | None] = []
    for state in states:
        if isinstance(state, Known) and not np.any(state.array):
            begin.append(None)
        elif isinstance(state, Known):
            if not np.all(state.array == state.array[:1]):
                raise UnsupportedError("an initial state that differs from row to row")
            begin.append([lo.constant(state.array[0])])
        elif isinstance(state, Tensor) and lo.clock(state) is None and len(state.axes) == 2:
            begin.append([lo.arranged(state, [1])])
        else:
            raise UnsupportedError("an initial state that cgru does not follow")
    if not backward:
        return _run(lo, layer, x, begin)
    if any(part is not None for part in begin):
        raise UnsupportedError("a loop backwards in time that begins with a state")
    (scan,) = layer.scans()
    name = lo.g._unused(layer).name
    return lo.g.node(
        "scan", x, name=name, weights=layer.weights[scan.suffix], cell=layer.cell.name, units=layer.hidden_size,
        activation=layer.activation, recurrent_activation=layer.recurrent_activation, reverse=True,
    )  # fmt: skip


def _stepped(lo: Lowering, name: str, x: Tensor, kind: str) -> Any:
    h = Tensor(name, (x.axes[0], 0), at=x.at)
    return [h, replace(h, memory="c")] if kind == "lstm" else h
