"""Loops over the frames of a sequence in a traced program, which has every step of them one after the other.

What a step computes of its frame and of what the step before left is found by comparing steps: where all of them are
alike, one of them stands for the loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .program import FILLED, Call, Program, Ref, needed, refs

#: Steps that must be there to see that the middle ones are alike.
FEWEST = 4


#: Calls that are moved from a step to the next, one after the other, at most.
_MOST_DELAYS = 16
_LINEAR = frozenset(("linear", "matmul", "mm", "addmm", "chunk", "split", "split_with_sizes", "unbind", "slice", "mul"))


class Sweep(NamedTuple):
    """All frames of a value along one axis, each taken by a call of its own."""

    source: str
    dim: int


class Loop(NamedTuple):
    """A loop of ``steps`` steps, ``backward`` from the last frame to the first.

    ``body`` are the calls of the second step, in order. They read ``frames`` (names → the sweep that they are a frame
    of), values from outside, and ``carried`` (what the first step left: the name there → the one of the second step
    and what stands for it when the loop begins, None for zeros). ``results`` gives for each name of any step that is
    read outside the step and the body's name of it.
    """

    steps: int
    backward: bool
    body: Sequence[Call]
    frames: Mapping[str, Sweep]
    carried: Mapping[str, tuple[str, Any]]
    results: Mapping[str, tuple[int, str]]
    members: frozenset[str]
    #: What a first step of its own gives instead, by the body's name of what the others compute.
    starts: Mapping[str, str] = {}


def loops_of(program: Program) -> list[Loop]:
    """The loops of a program whose steps are alike; those it is not sure of are left out."""
    calls = needed(program)
    taken = _frames_taken(program, calls)
    found: list[Loop] = []
    for steps in sorted({n for _, _, n in taken.values()}, reverse=True):
        for backward in (False, True):
            members = frozenset().union(*(loop.members for loop in found)) if found else frozenset()
            loop = _Finder(program, calls, taken, steps, backward, members).loop()
            if loop is not None:
                found.append(loop)
    return found


def _frames_taken(program: Program, calls: Sequence[Call]) -> dict[str, tuple[Sweep, int, int]]:
    """Names of lone frames → the sweep, which frame it is, and of how many."""
    shapes = {a.name: a.shape for a in program.inputs} | {c.name: c.shape for c in calls}
    by_name = {call.name: call for call in calls}
    single: dict[str, tuple[Sweep, int, int]] = {}
    for call in calls:
        entry = _taken(call, by_name, shapes)
        if entry is not None and entry[2] >= FEWEST and 0 <= entry[1] < entry[2]:
            single[call.name] = entry
    seen: dict[Sweep, set[int]] = {}
    for sweep, index, _ in single.values():
        seen.setdefault(sweep, set()).add(index)
    return {name: entry for name, entry in single.items() if len(seen[entry[0]]) == entry[2]}


def _taken(
    call: Call, by_name: Mapping[str, Call], shapes: Mapping[str, tuple[int, ...] | None]
) -> tuple[Sweep, int, int] | None:
    def argument(of: Call, place: int, name: str, default: Any) -> Any:
        return of.args[place] if place < len(of.args) else of.kwargs.get(name, default)

    source, index, whole = argument(call, 0, "self", None), None, call
    if call.base == "select":
        dim, index = argument(call, 1, "dim", 0), argument(call, 2, "index", 0)
    elif call.base == "slice":
        dim, start, end = (argument(call, i, n, d) for i, n, d in ((1, "dim", 0), (2, "start", 0), (3, "end", None)))
        if not isinstance(start, int) or end != start + 1:
            return None
        index = start
    elif call.base == "getitem" and isinstance(source, Ref) and source.name in by_name:
        whole = by_name[source.name]
        if whole.base == "unbind":
            dim = argument(whole, 1, "dim", 0)
        elif whole.base == "split" and argument(whole, 1, "split_size", 0) == 1:
            dim = argument(whole, 2, "dim", 0)
        else:
            return None
        index, source = call.args[1], argument(whole, 0, "self", None)
    shape = shapes.get(source.name) if isinstance(source, Ref) else None
    if shape is None or not isinstance(index, int):
        return None
    dim %= len(shape)
    return Sweep(source.name, dim), index % shape[dim] if index < 0 else index, shape[dim]


class _Mismatch(Exception):
    pass


class _Finder:
    """Looks for one loop of so many steps, in one direction."""

    def __init__(
        self, program: Program, calls: Sequence[Call], taken: Mapping[str, tuple[Sweep, int, int]], steps: int,
        backward: bool, members: frozenset[str],
    ) -> None:  # fmt: skip
        self.calls = [call for call in calls if call.name not in members]
        self.by_name = {call.name: call for call in calls}
        self.taken, self.steps, self.backward, self.program = taken, steps, backward, program
        self.level: dict[str, int] = {}
        for call in self.calls:
            self.level[call.name] = self._level(call)
        self.groups: list[list[Call]] = [[] for _ in range(steps)]
        for call in self.calls:
            if self.level[call.name] >= 0:
                self.groups[self.level[call.name]].append(call)
        self._ranks: dict[str, tuple[str, int]] = {}
        self._first_groups = self.groups
        for _ in range(_MOST_DELAYS):
            if not self._delayed():
                break
        #: The key of each call among those of its step, the same in every step that is alike.
        self.keys: dict[str, Any] = {}
        self._interned: dict[Any, int] = {}
        self._static: dict[str, Any] = {}
        self.starts: dict[str, str] = {}

    def _step(self, name: str) -> int | None:
        if name not in self.taken or self.taken[name][2] != self.steps:
            return None
        index = self.taken[name][1]
        return self.steps - 1 - index if self.backward else index

    def _level(self, call: Call) -> int:
        step = self._step(call.name)
        if step is not None:
            return step
        if call.base == "written":  # what is put together of all steps
            return self.steps - 1
        if call.base in FILLED:  # of a frame its shape alone
            return -1
        return max((self.level.get(name, -1) for name in _read(call)), default=-1)

    def _delayed(self) -> bool:
        """Products of a state for the next step's sake are the next step's: what is carried is the state alone.

        Decided at the second step, and done in all of them.
        """
        if len(self.groups[1]) == 0 or self.steps < FEWEST:
            return False
        crossing = set(self._crossing(1))
        self._origins: dict[str, str | None] = {}
        readers: dict[str, set[int]] = {}
        for call in self.calls:
            for name in _read(call):
                readers.setdefault(name, set()).add(self.level[call.name])
        outside = {name for _, value in self.program.outputs for name in refs(value)}
        chosen = [
            self._rank(1, call) for call in self.groups[1]
            if call.name in crossing and readers[call.name] == {2} and call.name not in outside
            and self._delayable(call, crossing)
        ]  # fmt: skip
        for step in range(self.steps - 1):
            for call in [c for c in self.groups[step] if self._rank(step, c) in chosen]:
                self.level[call.name] = step + 1
        self.groups = [[] for _ in range(self.steps)]
        for call in self.calls:
            if self.level[call.name] >= 0:
                self.groups[self.level[call.name]].append(call)
        return bool(chosen)

    def _delayable(self, call: Call, crossing: set[str]) -> bool:
        if self._step(call.name) is not None:
            return False
        own = [name for name in _read(call) if self.level.get(name, -1) == 1]
        if not own:
            return False
        source = self.by_name[own[0]]
        parts = call.base == "getitem" and source.base in ("chunk", "split", "split_with_sizes", "unbind")
        if call.base == "getitem" and not parts:
            return False  # one of several results of an operator, of which the whole is no value
        if self._shared(call, crossing):
            return True
        return len(own) == 1 and self._step(own[0]) is None and (parts or call.base in _LINEAR)

    def _shared(self, call: Call, crossing: set[str]) -> bool:
        """Whether it is computed of one value alone, of which something else that crosses is, or which does itself."""
        own = self._origin(call.name)
        if own is None or own == call.name:
            return False
        return own in crossing or any(other != call.name and self._origin(other) == own for other in crossing)

    def _origin(self, name: str) -> str | None:
        """The only value of the second step, made of its frame or of the step before, that a value is computed of."""
        if name not in self._origins:
            read = [other for other in _read(self.by_name[name]) if self.level.get(other, -1) >= 0]
            if self._step(name) is not None or any(self.level[o] != 1 or self._step(o) is not None for o in read):
                self._origins[name] = name
            else:
                found = {self._origin(other) for other in read}
                self._origins[name] = next(iter(found)) if len(found) == 1 else None
        return self._origins[name]

    def _rank(self, step: int, call: Call) -> tuple[str, int]:
        """What a call does beside what it reads of steps, and the how many-th such call of its step it is."""
        if call.name not in self._ranks:
            counts: dict[str, int] = {}
            for other in self._first_groups[step]:
                text = repr((other.op, [self._unstepped(v) for v in (*other.args, *sorted(other.kwargs.items()))]))
                self._ranks[other.name] = (text, counts.setdefault(text, 0))
                counts[text] += 1
        return self._ranks.get(call.name, ("", -1))

    def _unstepped(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return None if value.name in self.by_name else value.name
        return [self._unstepped(part) for part in value] if isinstance(value, (list, tuple)) else value

    def loop(self) -> Loop | None:
        last = self.steps - 1
        crossing = [self._crossing(step) for step in range(last - 1)]
        if not crossing or not crossing[1] or any(len(names) != len(crossing[1]) for names in crossing):
            return None
        places = [{name: j for j, name in enumerate(names)} for names in crossing]
        for step in range(1, last - 1):
            self._key_group(step, places[step - 1])
        wanted = [self.keys[name] for name in crossing[1]]
        if any([self.keys[name] for name in names] != wanted for names in crossing[2:]):
            return None
        # Of the last step but one everything that the last one reads is told by its key, and so on.
        self._key_group(last - 1, places[last - 2])
        by_key = [self._by_key(step) for step in range(self.steps)]
        if any(key not in by_key[last - 1] for key in wanted):
            return None
        places_of = {key: j for j, key in enumerate(wanted)}
        before = {call.name: self.keys[call.name] for call in self.groups[last - 1] if call.name in self.keys}
        self._key_group(last, {name: places_of[key] for name, key in before.items() if key in places_of})
        by_key[last] = self._by_key(last)
        common = set(by_key[1])
        for step in range(2, last):
            common &= set(by_key[step])
        try:
            return self._made(crossing, by_key, common, wanted)
        except _Mismatch:
            return None

    def _by_key(self, step: int) -> dict[Any, str]:
        return {self.keys[call.name]: call.name for call in reversed(self.groups[step]) if call.name in self.keys}

    def _crossing(self, step: int) -> list[str]:
        """What a step leaves for the next, in order."""
        read = {name for call in self.groups[step + 1] for name in _read(call)}
        return [call.name for call in self.groups[step] if call.name in read]

    def _key_group(self, step: int, carried: Mapping[str, int]) -> None:
        for call in self.groups[step]:
            if self._step(call.name) == step:
                key: Any = ("frame", self.taken[call.name][0])
            else:
                key = (call.op, self._shown([*call.args, sorted(call.kwargs.items())], step, carried))
            self.keys[call.name] = self._interned.setdefault(repr(key), len(self._interned))

    def _shown(self, value: Any, step: int, carried: Mapping[str, int]) -> Any:
        if isinstance(value, Ref):
            level = self.level.get(value.name, -1)
            if level == step:
                return ("here", self.keys[value.name])
            if level < 0:
                return ("outside", self._static_key(value.name))
            return ("carried", carried[value.name]) if value.name in carried else ("far", value.name)
        if isinstance(value, (list, tuple)):
            return [self._shown(part, step, carried) for part in value]
        return value

    def _static_key(self, name: str) -> Any:
        """The same for equal calls on equal things that no frame goes into."""
        call = self.by_name.get(name)
        if call is None:
            return name
        if name not in self._static:
            key = (call.op, [self._static_arg(value) for value in (*call.args, *sorted(call.kwargs.items()))])
            self._static[name] = self._interned.setdefault(repr(key), len(self._interned))
        return self._static[name]

    def _static_arg(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return ("of", self._static_key(value.name))
        return [self._static_arg(part) for part in value] if isinstance(value, (list, tuple)) else value

    # ---- one step for all --------------------------------------------------------------------------------------

    def _made(
        self, crossing: Sequence[Sequence[str]], by_key: Sequence[Mapping[Any, str]], common: set[Any],
        wanted: Sequence[Any],
    ) -> Loop:  # fmt: skip
        carried = {name: j for j, name in enumerate(crossing[0])}
        begins: dict[int, Any] = {}
        for first, second in zip(crossing[0], crossing[1], strict=True):
            try:
                begins.update(self._matched(second, first, carried, begins))
            except _Mismatch:
                self.starts[second] = first
        member = {
            call.name: (step, by_key[1][self.keys[call.name]])
            for step in range(1, self.steps) for call in self.groups[step]
            if self.keys.get(call.name) in common and self._step(call.name) is None
        }  # fmt: skip
        firsts = {call.name for call in self.groups[0]}
        outside = {name for call in self.calls if call.name not in member and call.name not in firsts
                   for name in _read(call)}  # fmt: skip
        outside |= {name for _, value in self.program.outputs for name in refs(value)}
        results = {name: place for name, place in member.items() if name in outside}
        for call in self.groups[0]:
            j = carried.get(call.name)
            if call.name in outside and (j is not None or self._step(call.name) is None):
                twin = crossing[1][j] if j is not None else self._twin(call, by_key[1], common, carried, begins)
                if twin is not None:
                    results[call.name] = (0, twin)
        body_names = self._closure({name for _, name in results.values()} | set(crossing[1]))
        body = [call for call in self.groups[1] if call.name in body_names]
        frames = {call.name: self.taken[call.name][0] for call in body if self._step(call.name) == 1}
        for call in body:  # nothing of it may come of a step further back
            for name in _read(call):
                if name not in body_names and self.level.get(name, -1) >= 0 and name not in carried:
                    raise _Mismatch
        pairs = {name: (crossing[1][j], begins.get(j)) for name, j in carried.items()}
        members = {name for name, (_, twin) in member.items() if twin in body_names} | set(self._first_step(results))
        members |= {name for name, (step, _) in results.items() if step == 0}
        members |= {name for name in member if self.keys[name] in wanted}
        calls = [call for call in body if call.name not in frames]
        members -= self._before(set(self.starts.values()))
        return Loop(self.steps, self.backward, calls, frames, pairs, results, frozenset(members), dict(self.starts))

    def _before(self, names: set[str]) -> set[str]:
        """The names and all that they are computed of."""
        found, todo = set(names), list(names)
        while todo:
            call = self.by_name.get(todo.pop())
            new = [name for name in _read(call) if name not in found] if call is not None else []
            found.update(new)
            todo += new
        return found

    def _first_step(self, results: Mapping[str, Any]) -> Iterator[str]:
        """The calls of the first step that nobody outside reads: they go into others of it, or into the second."""
        read = {name for call in self.calls if self.level[call.name] != 0 and call.name not in results
                and self.level[call.name] != 1 for name in _read(call)}  # fmt: skip
        for call in self.groups[0]:
            if call.name not in read:
                yield call.name

    def _closure(self, names: set[str]) -> set[str]:
        found, todo = set(names), list(names)
        while todo:
            for name in _read(self.by_name[todo.pop()]):
                if self.level.get(name, -1) == 1 and name not in found:
                    found.add(name)
                    todo.append(name)
        return found

    def _twin(
        self, call: Call, second: Mapping[Any, str], common: set[Any], carried: Mapping[str, int],
        begins: Mapping[int, Any],
    ) -> str | None:  # fmt: skip
        """The second step's call that does what this one of the first does."""
        for key, name in second.items():
            if key in common and self.by_name[name].op == call.op:
                try:
                    made = self._matched(name, call.name, carried, begins)
                except _Mismatch:
                    continue
                if all(begins.get(j, value) == value for j, value in made.items()):
                    return name
        return None

    def _matched(
        self, second: str, first: Any, carried: Mapping[str, int], begins: Mapping[int, Any]
    ) -> dict[int, Any]:
        """What stands for each carried value at the first step, so that ``second``, a name of the second step, is
        what ``first`` is there; :class:`_Mismatch` where it cannot be."""
        if second in self.starts:
            if (first.name if isinstance(first, Ref) else first) != self.starts[second]:
                raise _Mismatch
            return dict(begins)
        if second in carried:
            j = carried[second]
            if j in begins and begins[j] != first:
                raise _Mismatch
            return {**begins, j: first}
        if not isinstance(first, Ref) and not isinstance(first, str):
            raise _Mismatch
        name = first.name if isinstance(first, Ref) else first
        level = self.level.get(second, -1)
        if level < 0:
            if self._static_key(second) != self._static_key(name):
                raise _Mismatch
            return dict(begins)
        if level != 1:
            raise _Mismatch
        if self._step(second) == 1:
            if self._step(name) != 0 or self.taken[second][0] != self.taken[name][0]:
                raise _Mismatch
            return dict(begins)
        ours, theirs = self.by_name[second], self.by_name.get(name)
        if theirs is not None and ours.op == theirs.op:
            try:
                return self._arguments(
                    [*ours.args, *sorted(ours.kwargs.items())], [*theirs.args, *sorted(theirs.kwargs.items())],
                    carried, begins,
                )  # fmt: skip
            except _Mismatch:
                pass
        # a + f(carried) with f(0) = 0, of which the first step has the other term alone.
        if ours.base == "add" and len(ours.args) == 2 and all(isinstance(a, Ref) for a in ours.args):
            for term, other in (ours.args, ours.args[::-1]):
                vanishing = self._vanishes(term.name, carried)
                if vanishing is not None and vanishing not in begins:
                    return self._matched(other.name, first, carried, {**begins, vanishing: None})
        raise _Mismatch

    def _vanishes(self, name: str, carried: Mapping[str, int]) -> int | None:
        """The carried value whose zero makes this zero."""
        if name in carried:
            return carried[name]
        call = self.by_name.get(name)
        if call is None or self.level.get(name, -1) < 0:
            return None
        if call.base == "mul":
            return next((j for a in _read(call) if (j := self._vanishes(a, carried)) is not None), None)
        if call.base in ("linear", "matmul", "mm", "tanh", "neg") and len(call.args) <= 2 + (call.base != "linear"):
            return self._vanishes(_read(call)[0], carried)
        return None

    def _arguments(self, ours: Any, theirs: Any, carried: Mapping[str, int], begins: Mapping[int, Any]) -> Any:
        if len(ours) != len(theirs):
            raise _Mismatch
        for a, b in zip(ours, theirs, strict=True):
            if isinstance(a, Ref):
                begins = self._matched(a.name, b, carried, begins)
            elif isinstance(a, (list, tuple)):
                if not isinstance(b, (list, tuple)):
                    raise _Mismatch
                begins = self._arguments(a, b, carried, begins)
            elif a != b:
                raise _Mismatch
        return dict(begins)


def _read(call: Call) -> list[str]:
    return refs([*call.args, *call.kwargs.values()])
