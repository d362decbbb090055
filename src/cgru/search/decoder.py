"""A network ready to be searched: what its encoder made of the input, and rows of its decoder at their first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import arrays
from ..arrays import Float32
from ..engine.encoder_decoder import DECODE, ENCODE
from ..engine.entries import Entries
from ..engine.given_once import LENGTHS
from ..engine.model import Model
from ..engine.rows import Rows, StepPlan, plan_of
from ..errors import ArgumentTypeError, CgruError, ShapeError, TooLargeError, UnsupportedError
from ..spec.graph import Graph

#: Steps of a sequence, rows of a call, and tokens or values that it may give, at most.
MOST_STEPS, MOST_ROWS, MOST_NUMBERS = 1 << 20, 1 << 22, 1 << 28


class Decoded(tuple[Any, Any]):
    """What a search found: ``tokens, scores = …``, and ``kept``, other outputs of the decoder by name.

    Of one input without a batch axis these are its own, of a batch lists with an entry for each input.
    """

    kept: dict[str, Any]

    def __new__(cls, tokens: Any, scores: Any, kept: Mapping[str, Any] | None = None) -> Decoded:
        made = super().__new__(cls, (tokens, scores))
        made.kept = dict({} if kept is None else arrays.mapping(kept, "kept", "a mapping from output to its frames"))
        return made

    @property
    def tokens(self) -> Any:
        return self[0]

    @property
    def scores(self) -> Any:
        return self[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Decoded, (self[0], self[1], self.kept)


def network(net: Any) -> Model:
    """``net`` if it is one."""
    if not isinstance(net, Model):
        raise ArgumentTypeError(f"net: expected a cgru.Model, found {type(net).__name__}")
    return net


def bounded(value: Any, where: str, most: int, least: int = 1) -> int:
    """``value`` as a whole number from ``least`` to ``most``."""
    number = arrays.whole(value, where, least)
    if number > most:
        raise CgruError(f"{where}: expected at most {most}, found {arrays.brief(number)}")
    return number


def check_numbers(rows: int, steps: int) -> None:
    """Raise :class:`TooLargeError` where so many rows of so many steps are more than a call should hold."""
    if rows > MOST_ROWS or rows * steps > MOST_NUMBERS:
        found = f"{arrays.brief(rows)} rows of {arrays.brief(steps)} steps"
        raise TooLargeError(f"{found} at once are too many; take fewer of them a call")


class Settings(NamedTuple):
    """What every search over tokens is told, checked."""

    start: np.ndarray
    stop: int  # −1: nothing stops
    max_steps: int
    min_steps: int
    keep: tuple[str, ...]


class Vocabulary(NamedTuple):
    """The tokens of a network that steps."""

    token: str  # the input that takes them
    size: int  # how many the first output scores
    known: int  # how many the input takes
    probabilities: bool  # whether the scores come of a softmax


class Decoder:
    """The decoder of a network over some inputs: its rows, and how its scores are read.

    ``net`` is a decoder by itself, with what it is given once as ``inputs``, or a network with the entries "encode" and
    "decode", whose encoder reads ``x``. A network that is given nothing once continues ``batch`` rows from ``state``.
    """

    def __init__(self, net: Model, x: Any, lengths: Any, inputs: Any, state: Any, batch: int | None) -> None:
        network(net)
        given = dict(arrays.mapping({} if inputs is None else inputs, "inputs"))
        if isinstance(net, Entries):
            if DECODE not in net:
                raise CgruError(f"net: it has no entry {DECODE!r}; its entries are {', '.join(net.entries)}")
            if x is not None:
                if ENCODE not in net:
                    raise CgruError(f"x: the network has no entry {ENCODE!r} that reads it")
                given = _encoded(net[ENCODE], x, lengths, plan_of(net[DECODE])) | given
            net = net[DECODE]
        elif x is not None or lengths is not None:
            raise CgruError("x: this network is a decoder by itself; what it is given once are its inputs=")
        self.net, self.plan = net, plan_of(net)
        self.single, self.batch = _rows_of(self.plan, given, batch)
        self.once = self.plan.given(given, self.batch)
        self.state = self.plan.net._layout.zeros(self.batch) if state is None else net._state(state, self.batch)._data

    def rows(self, repeat: int = 1) -> Rows:
        """Rows at their first step, each input ``repeat`` times, one after the other."""
        if repeat == 1:
            return Rows(self.plan, self.once, self.state.copy())
        index = np.repeat(np.arange(self.batch), repeat)
        return Rows(self.plan, {name: array[index] for name, array in self.once.items()}, self.state[index])

    # ---- tokens -----------------------------------------------------------------------------------------------

    @property
    def token(self) -> str:
        """The input that takes the token of the step before."""
        return _vocabulary_of(self.plan).token

    @property
    def vocabulary(self) -> int:
        """How many tokens the first output scores."""
        return _vocabulary_of(self.plan).size

    @property
    def probabilities(self) -> bool:
        """Whether the first output ends in a softmax; else it gives logits, or log-probabilities, which are logits."""
        return _vocabulary_of(self.plan).probabilities

    def settings(self, start: Any, stop: Any, max_steps: Any, min_steps: Any, keep: Any) -> Settings:
        """The settings of a search over tokens, or a :class:`CgruError` that names the one that cannot be."""
        vocabulary, known = self.vocabulary, _vocabulary_of(self.plan).known
        if isinstance(start, (int, np.integer)):
            first = np.repeat(arrays.ids([arrays.whole(start, "start")], "start", known), self.batch)
        else:
            first = arrays.ids(start, "start", known)
        if first.shape != (self.batch,):
            raise ShapeError(f"start: expected one token, or one for each of {self.batch} rows; found {first.shape}")
        end = -1 if stop is None else arrays.whole(stop, "stop")
        if end >= vocabulary:
            raise CgruError(f"stop: token {arrays.brief(end)} is outside the vocabulary [0, {vocabulary})")
        most, least = bounded(max_steps, "max_steps", MOST_STEPS), arrays.whole(min_steps, "min_steps")
        check_numbers(self.batch, most)
        if least > most:
            raise CgruError(f"min_steps: {arrays.brief(least)} is more than max_steps, {most}")
        kept = (keep,) if isinstance(keep, str) else tuple(arrays.sequence(keep, "keep", "names of outputs"))
        for output in kept:
            if not isinstance(output, str) or output not in self.plan.outputs[1:]:
                others = ", ".join(self.plan.outputs[1:]) or "none"
                raise CgruError(f"keep: {arrays.brief(output)} is no other output of the decoder; there are {others}")
        return Settings(first, end, most, least, kept)

    def allowed(self, given: Any) -> Callable[[int, Callable[[], list[np.ndarray]]], np.ndarray | None] | None:
        """What may be chosen at a step of n rows, (n, V) booleans, from the tokens they have chosen so far."""
        if given is None:
            return None
        vocabulary = self.vocabulary
        fixed = None if callable(given) else _permitted(given, 1, vocabulary, "allowed")

        def at(rows: int, tokens: Callable[[], list[np.ndarray]]) -> np.ndarray | None:
            if fixed is not None:
                return np.ascontiguousarray(np.broadcast_to(fixed, (rows, vocabulary)))
            try:
                found = given(tokens())
            except Exception as error:
                raise CgruError(f"allowed: the function failed: {type(error).__name__}: {str(error)[:200]}") from error
            return None if found is None else _permitted(found, rows, vocabulary, "allowed(tokens)")

        return at


def _vocabulary_of(plan: StepPlan) -> Vocabulary:
    """The tokens of a plan, worked out at the first search and kept with it."""
    held = vars(plan)
    if "_vocabulary" not in held:  # two threads may both come here, and then agree
        held["_vocabulary"] = _read_vocabulary(plan)
    found: Vocabulary = held["_vocabulary"]
    return found


def _read_vocabulary(plan: StepPlan) -> Vocabulary:
    graph = plan.graph
    ids = [name for name in plan.timed if graph.inputs[name].dtype == "int64"]
    if len(ids) != 1 or len(plan.timed) != 1:
        found = ", ".join(f"{name} {graph.inputs[name].describe()}" for name in plan.timed)
        raise UnsupportedError(f"net: a search feeds back tokens, one id a step; this network takes {found}")
    token, output = ids[0], plan.outputs[0]
    value, taken = graph.values[output], plan.net.vocabulary_of(token)
    if len(value.features) != 1 or (taken and value.size > taken):
        raise ShapeError(
            f"net: its first output, {output!r} {value.describe()}, must score the tokens of a vocabulary that its "
            f"input {token!r} takes ({taken} ids)"
        )
    return Vocabulary(token, value.size, taken or 1 << 31, _ends_in_softmax(graph, output))


def _permitted(given: Any, rows: int, vocabulary: int, where: str) -> np.ndarray:
    array = arrays.as_array(given, where, "booleans or ids")
    if array.dtype.kind == "b" and array.shape in ((vocabulary,), (rows, vocabulary)):
        return np.ascontiguousarray(np.broadcast_to(array, (rows, vocabulary)))
    if array.dtype.kind in "iu" and array.ndim == 1:
        made = np.zeros((rows, vocabulary), bool)
        made[:, arrays.ids(array, where, vocabulary)] = True
        return made
    raise ShapeError(
        f"{where}: expected ids (n,), or booleans ({vocabulary},) or ({rows}, {vocabulary}); found {array.dtype} "
        f"{array.shape}"
    )


def _encoded(encoder: Model, x: Any, lengths: Any, plan: StepPlan) -> dict[str, Any]:
    """What the encoder made of x under the names of the decoder's inputs, with the lengths of what has a time axis."""
    graph = encoder.graph
    made, _ = encoder.run(x, lengths=lengths)
    found = made if isinstance(made, dict) else {graph.outputs[0]: made}
    wanted = [name for name in plan.net.graph.static_inputs if name not in plan.net.graph.optional]
    given = {name: array for name, array in found.items() if name in wanted}
    if lengths is None:
        return given
    rows = arrays.as_array(lengths, "lengths", "integers")
    if rows.size and rows.min() == 0:
        raise CgruError("lengths: a row of length 0 says nothing that could be decoded; leave it out")
    for name in tuple(given):
        clock = graph.values[name].clock
        if clock is not None:
            counted = np.array([clock.count(int(n)) for n in np.atleast_1d(rows)])
            given[name + LENGTHS] = counted if rows.ndim else int(counted[0])
    return given


def _rows_of(plan: StepPlan, given: Mapping[str, Any], batch: int | None) -> tuple[bool, int]:
    """Whether the inputs came without a batch axis, and how many rows there are."""
    graph = plan.net.graph
    for name in graph.static_inputs:
        if name in graph.optional or name not in given:
            continue
        value = graph.inputs[name]
        axes = len(value.features) + (value.clock is not None)
        array = arrays.as_array(given[name], f"inputs[{name!r}]", "numbers")
        single, rows = array.ndim == axes, array.shape[0] if array.ndim > axes else 1
        if batch is not None and rows != batch:
            raise ShapeError(f"batch: the inputs have {rows} rows, found {batch}")
        if rows == 0:
            raise ShapeError(f"inputs[{name!r}]: there are no rows in it")
        return single, rows
    return batch is None, 1 if batch is None else bounded(batch, "batch", MOST_ROWS)


def _ends_in_softmax(graph: Graph, name: str) -> bool:
    node = graph.node(name)
    while node is not None and (node.op == "reshape" or node.options.get("activation") == "linear"):
        if node.op not in ("reshape", "activation"):
            return False
        node = graph.node(node.inputs[0])
    if node is None:
        return False
    return node.options.get("activation") == "softmax" or (node.op == "softmax" and not node.options["log"])


def so_far(chosen: np.ndarray, steps: int) -> list[np.ndarray]:
    """The tokens of each row after so many steps."""
    return [row[:steps].copy() for row in chosen]


def spread(kept: list[Float32]) -> Float32:
    """The frames of an output at the steps of one sequence, (n, F)."""
    return np.stack(kept) if kept else np.zeros((0, 0), np.float32)
