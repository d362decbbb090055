"""Tensors under PyTorch's names → layers: inferred where names and shapes leave one reading, else as told.

A file of tensors says neither in which order data passes the modules nor which activations lie between
them. So inference accepts only networks of the form [Embedding] recurrent… [Linear] whose modules can be put
in one order by their sizes. Everything else needs ``layers=``, and the error shows what to write there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import numpy as np

from ...arrays import brief, optional_text
from ...errors import CgruError, FormatError, UnsupportedError
from ...layers import GRU, LSTM, RNN, Activation, Dense, Embedding, LastStep, Layer, Recurrent
from ...layers.recurrent import torch_stack
from ...spec.activations import ACTIVATIONS
from ..containers.messages import some
from ..containers.tensorfile import TensorFile
from .naming import error_prefix
from .reparametrization import folded

#: Rows of ``weight_hh`` for each hidden unit → the cell.
_CELLS = {1: "rnn", 3: "gru", 4: "lstm"}

#: The layers that a file's modules can become, by the word ``layers=`` knows them by.
_LAYERS: dict[str, type[Layer]] = {"gru": GRU, "lstm": LSTM, "rnn": RNN, "dense": Dense, "embedding": Embedding}

_RECURRENT_LEAF = re.compile(r"(?:weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(_l\d{1,3}(?:_reverse)?)?\Z")
_POINTWISE_LEAVES = ("weight", "bias")
#: What of a sequence goes on; the first where the other two mean the same.
_LAST = ("last", "last_state", LastStep.kind)
# The forms inference accepts, in the letters of _Step.letter.
_SOUND = re.compile(r"e?r+d?|d|e")
_MAX_MODULES = 32
_MAX_ORDERS = 64
_MAX_VISITS = 20_000
_MAX_ADVICE = 600
_MAX_PATTERNS = 300


@dataclass(frozen=True)
class TorchModule:
    """One torch module of the file: where its tensors lie, and what it may be.

    ``kind`` is "gru", "lstm", "rnn", "dense", or "table" for a lone 2-D ``weight``, which is an Embedding or
    a Linear without bias.
    """

    path: str
    kind: str
    tensors: Mapping[str, np.ndarray]

    @property
    def is_recurrent(self) -> bool:
        return self.kind in _CELLS.values()

    @property
    def is_cell(self) -> bool:
        return "weight_hh" in self.tensors

    def full_name(self, leaf: str) -> str:
        return f"{self.path}.{leaf}" if self.path else leaf


@dataclass(frozen=True)
class _Step:
    """A module in one of the roles it may play, or an activation (``module`` None, ``kind`` its name)."""

    kind: str
    module: TorchModule | None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def letter(self) -> str:
        return {"embedding": "e", "table": "e", "dense": "d"}.get(self.kind, "r")

    @property
    def is_recurrent(self) -> bool:
        return self.module is not None and self.module.is_recurrent

    @property
    def is_bidirectional(self) -> bool:
        return self.module is not None and any(key.endswith("_reverse") for key in self.module.tensors)

    def sizes(self) -> tuple[int | None, int]:
        """Features in (None: token ids) and features out, by the shapes alone."""
        assert self.module is not None
        tensors = self.module.tensors
        if not self.is_recurrent:
            rows, columns = tensors["weight"].shape
            return (None, columns) if self.kind == "embedding" else (columns, rows)
        first = next((tensors[key] for key in ("weight_ih_l0", "weight_ih") if key in tensors), None)
        hidden = next((tensors[key] for key in ("weight_hh_l0", "weight_hh") if key in tensors), None)
        if first is None or hidden is None or first.ndim != 2 or hidden.ndim != 2:
            raise FormatError(
                f"{self.module.path or 'the recurrent module'}: weight_ih or weight_hh of its first layer is "
                f"missing or has not 2 axes; found {_listed(_named(self.module))}"
            )
        return first.shape[1], hidden.shape[1] * (2 if self.is_bidirectional else 1)


_Order = tuple[_Step, ...]


def layers_from(
    file: TensorFile,
    layers: str | Sequence[Any] | None = None,
    prefix: str | None = None,
    kinds: Mapping[str, str] | None = None,
    nonlinearities: Mapping[str, str] | None = None,
) -> list[Layer]:
    """The layers of a file of tensors, in the order data passes them; see :func:`cgru.load`.

    ``kinds`` ("embedding" or "dense" by module path) settles what a lone ``weight`` is where a live module
    has told, and ``nonlinearities`` what an nn.RNN applies. Raises :class:`UnsupportedError` where the tensors
    leave more than one reading or hold what cgru
    does not run, and :class:`CgruError` where ``layers`` does not fit the tensors.
    """
    with error_prefix(file.shown):
        return Reading(file, optional_text(prefix, "prefix"), kinds or {}, nonlinearities or {}).layers(layers)


def suggestion(file: TensorFile, prefix: str | None = None) -> list[Any]:
    """``layers=`` as one may paste it: a plausible chain of the file's modules, not what is known to be right.

    Empty where there is none: the modules' sizes do not fit together, or some look as if they lay side by side.
    """
    reading = Reading(file, optional_text(prefix, "prefix"), {}, {})
    entries = reading._offered() or reading._by_sizes()
    if not entries:
        return []
    kinds = {path: module.kind for path, module in reading.modules.items()}
    said: list[Any] = [
        {"rnn": entry, "nonlinearity": "tanh"} if isinstance(entry, str) and kinds.get(entry) == "rnn" else entry
        for entry in entries
    ]
    used = {module.full_name(leaf) for module in reading.modules.values() for leaf in module.tensors}
    left = [name for name, root in reading.roots.items() if name not in used and root not in used]
    return [*said, {"ignore": reading._covering(left)}] if left else said


def assumption(layers: Sequence[Layer]) -> str:
    """What :func:`layers_from` takes for granted where it infers: a file of tensors does not hold forward()."""
    chain = " → ".join(layer.name for layer in layers)
    return (
        f"inferred from names and shapes: {chain}; assumed, since tensors do not hold forward(): nothing lies between "
        "these, and every step has an output; compare with outputs of the trained network: cgru.verify(net, x, y)"
    )


class Reading:
    """One file while its tensors are being turned into layers."""

    def __init__(
        self, file: TensorFile, prefix: str | None, kinds: Mapping[str, str], nonlinearities: Mapping[str, str]
    ) -> None:
        head = f"{prefix.rstrip('.')}." if prefix else ""
        self.kinds = kinds
        self.nonlinearities = nonlinearities
        self.in_order = file.kind == "torch"
        given = {name[len(head) :]: array for name, array in file.tensors.items() if name.startswith(head)}
        self.tensors = folded(given)
        #: Name below the prefix → the tensor whose memory it shows.
        self.roots = {name: file.aliases.get(head + name, head + name) for name in self.tensors}
        if not self.tensors:
            if not file.tensors:
                raise FormatError("holds no tensors; expected the weights of a network")
            raise FormatError(f"prefix: no tensor's name begins with {head!r}; there are {_listed(file.tensors)}")
        self.modules = self._grouped()

    def layers(self, said: str | Sequence[Any] | None) -> list[Layer]:
        if said is None:
            self.check_used(list(self.modules.values()), ())
            steps = self._inferred()
        else:
            steps, ignored = self.said(said)
            self.check_used([step.module for step in steps if step.module is not None], ignored)
        return [built(self.with_nonlinearity(step, steps)) for step in steps]

    def with_nonlinearity(self, step: _Step, steps: Sequence[_Step]) -> _Step:
        """An nn.RNN's tensors do not say which nonlinearity it has: a live module does, or the caller."""
        if step.kind != "rnn" or step.module is None or {"nonlinearity", "activation"} & step.options.keys():
            return step
        path = step.module.path
        if path in self.nonlinearities:
            return replace(step, options=step.options | {"nonlinearity": self.nonlinearities[path]})
        advice = [
            {"rnn": _path(one), "nonlinearity": "tanh"} if one.kind == "rnn" else _entry(one)
            for one in steps
            if one.module is not None
        ]
        raise UnsupportedError(
            f"{path or 'the file'} is an nn.RNN, and its tensors do not say whether its nonlinearity is tanh or relu: "
            f'pass layers={advice!r}, with "relu" if it is that'
        )

    # Modules

    def _grouped(self) -> dict[str, TorchModule]:
        groups: dict[str, dict[str, np.ndarray]] = {}
        for name, array in self.tensors.items():
            path, _, leaf = name.rpartition(".")
            if _RECURRENT_LEAF.match(leaf) or leaf in _POINTWISE_LEAVES:
                groups.setdefault(path, {})[leaf] = array
        found = {}
        for path, parts in groups.items():
            if kind := _kind(parts):
                found[path] = TorchModule(path, kind, parts)
        return found

    def check_used(self, modules: Sequence[TorchModule], ignored: Sequence[str]) -> None:
        """Every tensor belongs to one of ``modules``, shows the memory of one that does, or is ignored."""
        used = {module.full_name(leaf) for module in modules for leaf in module.tensors}
        roots = {self.roots[name] for name in used}
        left = [
            name
            for name, root in self.roots.items()
            if name not in used and root not in roots and not any(fnmatchcase(name, text) for text in ignored)
        ]
        if not left:
            return
        unused = {name: self.tensors[name] for name in left}
        reason = _known_as(unused)
        given = {module.path for module in modules}
        paths = [path for path in self.modules if path not in given]
        entries = self._offered()
        if paths and modules:
            advice = 'list their modules too, or leave them out on purpose with {"ignore": [...]} in layers='
        elif entries:
            entries.append({"ignore": self._covering(left)})
            advice = (
                f"if the network gives the right numbers without them, pass layers={entries!r}, and compare by "
                "check=(x, y)"
            )
        elif self.modules:
            advice = (
                "if the network gives the right numbers without them, leave them out on purpose with "
                f'{{"ignore": {self._covering(left)!r}}} in layers=, beside its modules in the order data passes them'
            )
        else:
            advice = "cgru reads modules named as PyTorch names them; build others with cgru.GRU.from_arrays"
        raise UnsupportedError(f"nothing uses {_listed(unused)}{reason}; {advice}")

    # Inference

    def _inferred(self) -> list[_Step]:
        if len(self.modules) > _MAX_MODULES:
            raise self._ambiguous(f"{len(self.modules)} modules are too many to order by their sizes")
        orders = list(self._orders())
        if len(orders) > 1:
            # Where sizes leave it open, a name does not.
            orders = [order for order in orders if self._as_named(order)] or orders
        sound = [order for order in orders if _is_sound(order)]
        paths = list(self.modules)
        if not orders:
            raise self._ambiguous("the modules fit together by their sizes in no order")
        if len(sound) != 1 and len(orders) > 1:
            raise self._ambiguous("the modules fit together by their sizes in more than one way")
        if not sound:
            raise self._ambiguous(
                "a Linear before the recurrent module, or two in a row, may have an activation between them "
                "that the file does not hold"
            )
        sound_paths = [_path(step) for step in sound[0]]
        if sum([_path(step) for step in order] == sound_paths for order in orders) > 1:
            raise self._ambiguous("a weight without bias may be an Embedding or a Linear")
        # A state_dict keeps the order in which the modules were defined. It settles whether a lone recurrent
        # module and its head (1 → 32 → 1) come in this order or the other, but never overrules the sizes.
        if len(orders) > 1 and not (self.in_order and sound_paths == paths):
            raise self._ambiguous("the modules fit together by their sizes in more than one order")
        if _is_encoder_decoder([module for module in self.modules.values() if module.is_recurrent]):
            raise self._ambiguous("they look like an encoder and a decoder, not a chain")
        return list(sound[0])

    def _orders(self) -> Iterator[_Order]:
        """Every order and reading of all modules in which each output fits the next input; bounded."""
        roles = [self._roles(module) for module in self.modules.values()]
        start: tuple[_Order, int | None, frozenset[int]] = ((), None, frozenset(range(len(roles))))
        stack = [start]
        found = visits = 0
        while stack:
            chain, size, rest = stack.pop()
            visits += 1
            if not rest:
                yield chain
                found += 1
            if found == _MAX_ORDERS or visits == _MAX_VISITS:
                raise self._ambiguous("the modules fit together by their sizes in many ways")
            for index in sorted(rest, reverse=True):
                for step in roles[index]:
                    taken, given = step.sizes()
                    if not chain or taken == size:
                        stack.append(((*chain, step), given, rest - {index}))

    def _roles(self, module: TorchModule) -> list[_Step]:
        if module.kind != "table":
            return [_Step(module.kind, module)]
        kind = self.kinds.get(module.path)
        return [_Step(kind, module)] if kind else [_Step("embedding", module), _Step("dense", module)]

    def _as_named(self, order: _Order) -> bool:
        """Whether every lone ``weight`` that is named like an embedding is one."""
        tables = (step for step in order if step.module is not None and step.module.kind == "table")
        return all(step.kind == "embedding" or not _named_embedding(_path(step)) for step in tables)

    def _first_table(self, module: TorchModule, after: _Step | None) -> str | None:
        """What a lone ``weight`` that comes first is: by the live module, by the size of the next one, by its name."""
        rows, columns = module.tensors["weight"].shape
        size = after.sizes()[0] if after is not None and after.kind != "table" else None
        if module.path in self.kinds:
            return self.kinds[module.path]
        if size is not None and (rows == size) != (columns == size):
            return "embedding" if columns == size else "dense"
        return "embedding" if _named_embedding(module.path) else None

    # Advice

    def _guess(self) -> list[_Step]:
        """A plausible order, for the advice in messages only."""
        modules = list(self.modules.values())
        if not self.in_order:
            # Other writers sort the tensors by name; embeddings come first and heads last in most networks.
            modules.sort(key=lambda module: ("table", *_CELLS.values(), "dense").index(module.kind))
        # A lone weight that does not come first is no Embedding.
        steps = [_Step("dense" if module.kind == "table" else module.kind, module) for module in modules]
        if modules and modules[0].kind == "table":
            kind = self._first_table(modules[0], steps[1] if len(steps) > 1 else None)
            steps[0] = _Step(kind or "table", modules[0])
        return steps

    def _offered(self) -> list[Any]:
        """``layers=`` as one may paste it: empty where that would be refused, or run what is no chain as one."""
        steps = self._guess()
        modules = [step.module for step in steps if step.module is not None and step.is_recurrent]
        if not steps or len(steps) > _MAX_MODULES or self._side_by_side() or _is_encoder_decoder(modules):
            return []
        for before, after in pairwise(steps):
            if before.kind != "table" and after.sizes()[0] != before.sizes()[1]:
                return []
        entries = [_entry(step) for step in steps]
        return entries if len(repr(entries)) <= _MAX_ADVICE else []

    def _by_sizes(self) -> list[Any]:
        """The first order in which the modules' sizes fit together."""
        modules = [module for module in self.modules.values() if module.is_recurrent]
        if not self.modules or len(self.modules) > _MAX_MODULES or self._side_by_side() or _is_encoder_decoder(modules):
            return []
        return [_entry(step) for step in next(self._orders(), ())]

    def _side_by_side(self) -> tuple[str, str] | None:
        """Two modules of one kind and size whose names differ in more than a number: real and imaginary, say."""
        seen: dict[Any, str] = {}
        for path, module in self.modules.items():
            sizes = tuple((leaf, array.shape) for leaf, array in module.tensors.items())
            other = seen.setdefault((module.kind, sizes), path)
            if re.sub(r"\d+", "", other) != re.sub(r"\d+", "", path):
                return other, path
        return None

    def _covering(self, names: Sequence[str]) -> list[str]:
        """Patterns that match all of ``names``, in few letters; matching a module that is listed does no harm."""
        owners = {name: name.rpartition(".")[0] for name in names}
        close = [f"{path}.*" if path and path not in self.modules else name for name, path in owners.items()]
        tops = [f"{name.partition('.')[0]}.*" if "." in name else name for name in names]
        for patterns in (close, tops):
            found = list(dict.fromkeys(patterns))
            if len(repr(found)) <= _MAX_PATTERNS:
                return found
        return ["*"]

    def _ambiguous(self, why: str) -> UnsupportedError:
        letters = "".join(step.letter for step in self._guess())
        hint = ""
        if "dd" in letters or re.search("d.*r", letters):
            hint = ', with "relu", "tanh" or another activation wherever the network has one between them'
        entries = self._offered()
        if entries:
            advice = f"Name the modules in the order data passes them: layers={entries!r}{hint}"
        elif beside := self._side_by_side():
            first, second = beside
            advice = (
                f"{first[:120]!r} and {second[:120]!r} have the same sizes and may lie side by side, which layers= "
                f"cannot say; where they are one after the other, name all modules in that order by layers={hint}"
            )
        else:
            advice = f"If they are a chain, name the modules in the order data passes them by layers={hint}"
        return UnsupportedError(
            f"the tensors do not say which network they are: {why}. Found {_listed(self.tensors)}. {advice}; "
            "prefix= takes one part of a file alone"
        )

    # What the caller says

    def said(self, said: str | Sequence[Any]) -> tuple[list[_Step], list[str]]:
        if isinstance(said, str):
            said = [part.strip() for part in said.split(",")]
        if not isinstance(said, (list, tuple)) or not said:
            raise CgruError(f"layers: expected a list of modules, activations and options, found {brief(said)}")
        steps: list[_Step] = []
        ignored: list[str] = []
        for item in said:
            if isinstance(item, str) and item.rstrip(".") not in self.modules:
                steps = self._word(item, steps)
            elif isinstance(item, str):
                module = self.modules[item.rstrip(".")]
                steps.append(_Step(module.kind, module))
            elif isinstance(item, dict) and item.keys() == {"ignore"}:
                ignored += self.patterns(item["ignore"])
            elif isinstance(item, dict):
                steps.append(self._with_options(item))
            else:
                raise CgruError(f"layers: {brief(item)} is neither a name nor a dict of options")
        if not any(step.module for step in steps):
            raise CgruError(f"layers: names no module of the file; there are {self._known_modules()}")
        twice = [_path(step) for step in steps if step.module is not None]
        if len(set(twice)) != len(twice):
            raise UnsupportedError(f"layers: names a module twice: {', '.join(twice)}; each can come once")
        return [self._settled(steps, index) for index in range(len(steps))], ignored

    def _word(self, word: str, steps: list[_Step]) -> list[_Step]:
        """An activation's name, or what of a sequence goes on."""
        if word in ACTIVATIONS:
            return [*steps, _Step(word, None)]
        if word not in _LAST:
            known = f"the file's modules are {self._known_modules()}; activations are {', '.join(ACTIVATIONS)}"
            words = ", ".join(map(repr, _LAST))
            raise CgruError(f"layers: {word!r} is neither a module nor an activation, nor one of {words}; {known}")
        for index in reversed(range(len(steps))):
            step = steps[index]
            if step.is_recurrent and step.is_bidirectional and word == "last":
                raise CgruError(
                    f"layers: {_path(step)!r} is bidirectional, so 'last' can mean two things: 'last_state', each "
                    "direction's final state (torch's h_n), or 'last_step', the outputs at the last step (out[:, -1])"
                )
            if step.is_recurrent and step.is_bidirectional and word == "last_step":
                return [*steps, _Step(word, None)]
            if step.is_recurrent:
                options = step.options | {"return_sequences": False}
                return [*steps[:index], _Step(step.kind, step.module, options), *steps[index + 1 :]]
        raise CgruError(f"layers: {word!r} takes a recurrent module's last output, and none comes before it")

    def _with_options(self, item: Mapping[str, Any]) -> _Step:
        kinds = [key for key in item if key in _LAYERS]
        if len(kinds) != 1:
            raise CgruError(
                f"layers: {item!r} must say exactly one of {', '.join(_LAYERS)}, or ignore: "
                '{"gru": "rnn", "reset": "before"}'
            )
        kind, path = kinds[0], item[kinds[0]]
        path = path.rstrip(".") if isinstance(path, str) else path
        if not isinstance(path, str) or path not in self.modules:
            raise CgruError(f"layers: {kind} {path!r} is no module of the file; there are {self._known_modules()}")
        module = self.modules[path]
        if module.kind not in (kind, "table") or (module.kind == "table" and kind not in ("dense", "embedding")):
            raise CgruError(f"layers: {path!r} is no {kind}; it holds {_listed(_named(module))}")
        options = {key: value for key, value in item.items() if key != kind}
        for key in ("num_layers", "bidirectional"):
            if key in options:
                raise CgruError(f"layers: {key} of {path!r} follows from its tensors; leave it out")
        return _Step(kind, module, options)

    def _settled(self, steps: Sequence[_Step], index: int) -> _Step:
        """A lone ``weight`` given without a kind becomes an Embedding or a Dense by name, place and size."""
        step = steps[index]
        if step.kind != "table" or step.module is None:
            return step
        before = next((earlier for earlier in reversed(steps[:index]) if earlier.module is not None), None)
        if before is not None:
            # Only a matrix can come here; a table that was put here is left one, for the error to say so.
            fits = before.kind != "table" and before.sizes()[1] == step.module.tensors["weight"].shape[1]
            named = "embedding" if _named_embedding(step.module.path) and not fits else "dense"
            return _Step(self.kinds.get(step.module.path, named), step.module)
        kind = self._first_table(step.module, next((later for later in steps[1:] if later.module is not None), None))
        if kind is None:
            (rows, columns), path = step.module.tensors["weight"].shape, step.module.path
            raise UnsupportedError(
                f"layers: {path!r} is an Embedding or a Linear without bias, ({rows}, {columns}); "
                f"write {{'embedding': {path!r}}} or {{'dense': {path!r}}}"
            )
        return _Step(kind, step.module)

    def patterns(self, patterns: Any) -> list[str]:
        texts = [patterns] if isinstance(patterns, str) else patterns
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise CgruError(f"layers: ignore takes a pattern such as 'decoder.*' or a list of them, found {patterns!r}")
        for text in texts:
            if not any(fnmatchcase(name, text) for name in self.tensors):
                raise CgruError(f"layers: ignore: no tensor matches {text!r}; there are {_listed(self.tensors)}")
        return list(texts)

    def _known_modules(self) -> str:
        return some(map(repr, self.modules)) or "none that cgru knows"


def _kind(parts: Mapping[str, np.ndarray]) -> str | None:
    """What the tensors below one path are, or None for no module cgru knows."""
    recurrent = [leaf for leaf in parts if leaf not in _POINTWISE_LEAVES]
    if recurrent:
        if len(recurrent) != len(parts):
            return None
        hidden = next((parts[leaf] for leaf in ("weight_hh_l0", "weight_hh") if leaf in parts), None)
        if hidden is None or hidden.ndim != 2:
            return "gru"
        projected = next((array for leaf, array in parts.items() if leaf.startswith("weight_hr")), None)
        units = hidden.shape[1] if projected is None or projected.ndim != 2 else projected.shape[1]
        exact = units > 0 and hidden.shape[0] % units == 0
        return _CELLS.get(hidden.shape[0] // units, "gru") if exact else "gru"
    weight, bias = parts.get("weight"), parts.get("bias")
    if weight is None or weight.ndim != 2:
        return None
    if bias is None:
        return "table"
    return "dense" if bias.ndim == 1 else None


def built(step: _Step) -> Layer:
    if step.module is None:
        return LastStep() if step.kind == LastStep.kind else Activation(step.kind)
    path = step.module.path
    name = path if path and not path.isdigit() else step.kind
    options, arrays = dict(step.options), dict(step.module.tensors)
    if issubclass(_LAYERS[step.kind], Recurrent):
        arrays, options["num_layers"], options["bidirectional"] = torch_stack(arrays, "", name)
    return _LAYERS[step.kind].from_parts(name, options, arrays)


def _is_sound(order: Sequence[_Step]) -> bool:
    return _SOUND.fullmatch("".join(step.letter for step in order)) is not None


def _is_encoder_decoder(modules: Sequence[TorchModule]) -> bool:
    """Whether several recurrent modules look as if one starts from the other's state."""
    if len({module.is_cell for module in modules}) > 1:
        return True
    words = [re.split(r"[._]", module.path.lower()) for module in modules]
    encoders, decoders = (any(word.startswith(start) for parts in words for word in parts) for start in ("enc", "dec"))
    return encoders and decoders


def _named_embedding(path: str) -> bool:
    return any(word.startswith("emb") or "embed" in word for word in re.split(r"[._]", path.lower()))


def _path(step: _Step) -> str:
    assert step.module is not None
    return step.module.path


def _entry(step: _Step) -> Any:
    """How ``layers=`` says this step."""
    assert step.module is not None
    said = step.module.kind == "table" and step.kind != "table"
    return {step.kind: step.module.path} if said else step.module.path


def _named(module: TorchModule) -> dict[str, np.ndarray]:
    return {module.full_name(leaf): array for leaf, array in module.tensors.items()}


def _listed(tensors: Mapping[str, np.ndarray]) -> str:
    """Names and shapes on one line of bounded length."""
    return some(f"{name[:120]} {array.shape}" for name, array in tensors.items())


def _known_as(tensors: Mapping[str, np.ndarray]) -> str:
    """What tensors without a use probably belong to."""
    leaves = {name.rpartition(".")[2] for name in tensors}
    owners = {name.rpartition(".")[0]: array for name, array in tensors.items() if name.rpartition(".")[2] == "weight"}
    weights = [array.ndim for array in owners.values()]
    if any("parametrizations." in name for name in tensors) or leaves & {"weight_g", "weight_v"}:
        return (
            " (weight_norm or another parametrization: fold it in with "
            "torch.nn.utils.parametrize.remove_parametrizations and save again)"
        )
    if leaves & {"running_mean", "running_var", "num_batches_tracked"}:
        return " (a BatchNorm, which cgru does not run)"
    if 1 in weights:
        scales = {path: array for path, array in owners.items() if array.ndim == 1}
        if any(f"{path}.bias" in tensors for path in scales):
            return " (a normalisation layer, which cgru does not run)"
        slopes = all(array.size == 1 or "prelu" in path.lower() for path, array in scales.items())
        what = "a PReLU" if slopes else "a normalisation layer without bias, or a PReLU"
        return f" ({what}, which cgru does not run)"
    if any(axes > 2 for axes in weights):
        return " (a convolution, which cgru does not run)"
    return ""
