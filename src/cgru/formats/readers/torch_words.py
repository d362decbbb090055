"""What ``layers=`` says beyond a chain of layers: means, residuals, norms and convolutions of a file of tensors.

Such a network is a graph. Tensors show what a convolution or a normalisation is, but not how it is padded, nor the
sizes of groups: that must be said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...arrays import brief, optional_text
from ...builder import Graph
from ...errors import CgruError, UnsupportedError
from ...layers import Layer
from ...spec.activations import ACTIVATIONS
from ..containers.tensorfile import TensorFile
from .naming import error_prefix
from .torch_layers import Reading, TorchModule, built, layers_from

#: Words for one frame of a whole sequence, as pool_whole calls them.
_WHOLE = {"mean": "mean", "max": "max", "last_step": "last", "last": "last"}
#: What a module of other tensors may be said to be, with its options.
_SAID: dict[str, dict[str, type]] = {
    "conv1d": {"padding": int, "stride": int, "dilation": int, "left": int, "right": int, "activation": str},
    "batch_norm": {"eps": float},
    "layer_norm": {"eps": float},
    "rms_norm": {"eps": float},
    "group_norm": {"groups": int, "eps": float, "over_time": bool},
    "prelu": {},
}
_LEAVES = frozenset(("weight", "bias", "running_mean", "running_var", "num_batches_tracked"))
_MOST_NESTED = 8


def network_from(
    file: TensorFile,
    layers: str | Sequence[Any] | None = None,
    prefix: str | None = None,
    kinds: Mapping[str, str] | None = None,
    nonlinearities: Mapping[str, str] | None = None,
) -> list[Layer] | Graph:
    """The layers of a file of tensors, or, where ``layers`` says more than a chain, their graph; see
    :func:`cgru.load` and :func:`.torch_layers.layers_from`."""
    said = _parted(layers) if isinstance(layers, str) else layers
    if not isinstance(said, (list, tuple)):
        return layers_from(file, layers, prefix, kinds, nonlinearities)
    with error_prefix(file.shown):
        file, said = _renamed(file, said, prefix)
        reading = Reading(file, optional_text(prefix, "prefix"), kinds or {}, nonlinearities or {})
        words = _Words(reading)
        if not words.needed(said):
            return layers_from(file, said, prefix, kinds, nonlinearities)
        return words.graph(said)


def _renamed(file: TensorFile, said: Sequence[Any], prefix: str | None) -> tuple[TensorFile, list[Any]]:
    """Modules that are said by a mapping from their tensors' names to the file's, as if the file had named them so:
    {"gru": {"weight_ih_l0": "enc/W", …}}."""
    head = f"{prefix.rstrip('.')}." if prefix else ""
    tensors, aliases, made = dict(file.tensors), dict(file.aliases), []
    for place, item in enumerate(said):
        kinds = [key for key, value in item.items() if isinstance(value, Mapping)] if isinstance(item, dict) else []
        if len(kinds) != 1:
            made.append(item)
            continue
        (kind,) = kinds
        path = f"{kind}_{place}"
        for own, name in item[kind].items():
            where = f"{head}{name}" if isinstance(name, str) else ""
            if not isinstance(own, str) or where not in tensors:
                raise CgruError(f"layers: {kind}: the file has no tensor {brief(name)}; it has {_some(tensors)}")
            tensors[f"{head}{path}.{own}"] = tensors.pop(where)
            aliases.pop(where, None)
        made.append({**item, kind: path})
    if len(made) == len(said) and all(a is b for a, b in zip(made, said, strict=True)):
        return file, list(said)
    return file._replace(tensors=tensors, aliases=aliases), made


def _some(tensors: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(tensors)[:12]))


def _parted(text: str) -> list[Any]:
    """ "a, residual(b, relu), c" → ["a", {"residual": ["b", "relu"]}, "c"]."""
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"residual\s*\(|[(),]|[^(),]+", text):
        word = token.strip()
        if word.startswith("residual"):
            if len(stack) > _MOST_NESTED:
                raise CgruError(f"layers: more than {_MOST_NESTED} residuals in each other")
            inner: list[Any] = []
            stack[-1].append({"residual": inner})
            stack.append(inner)
        elif word == ")" and len(stack) > 1:
            stack.pop()
        elif word in ("(", ")"):
            raise CgruError(f"layers: a {word!r} without its other in {text[:80]!r}")
        elif word and word != ",":
            stack[-1].append(word)
    if len(stack) > 1:
        raise CgruError(f"layers: a '(' without its ')' in {text[:80]!r}")
    return stack[0]


class _Words:
    """Builds the graph that ``layers=`` says."""

    def __init__(self, reading: Reading) -> None:
        self.reading, self.g = reading, Graph()
        self.others = _other_modules(reading)
        self.used: list[TorchModule] = []
        self.ignored: list[str] = []

    def needed(self, said: Sequence[Any]) -> bool:
        """Whether anything is said that is no layer of a chain."""
        return any(
            (isinstance(item, str) and (item in ("mean", "max") or item.rstrip(".") in self.others))
            or (isinstance(item, dict) and (item.keys() == {"residual"} or bool(item.keys() & _SAID.keys())))
            for item in said
        )

    def graph(self, said: Sequence[Any]) -> Graph:
        x = self._input(said)
        self.g.output(self._sequence(said, x, 0))
        self.reading.check_used(self.used, self.ignored)
        return self.g

    def _input(self, said: Sequence[Any]) -> str:
        """The network's input, of as many features as the first module takes."""
        for item in said:
            while isinstance(item, dict) and item.keys() == {"residual"} and item["residual"]:
                item = item["residual"][0]
            path = item if isinstance(item, str) else next(iter(item.values()), "") if isinstance(item, dict) else ""
            other = self.others.get(str(path).rstrip("."))
            if other is not None:
                weight = next(iter(other.tensors.values()))
                grouped = weight.ndim == 3 and weight.shape[1] == 1 and weight.shape[0] > 1
                if grouped:
                    raise UnsupportedError(
                        f"layers: {path} begins the network and may have groups, which its tensors do not show"
                    )
                return self.g.input(int(weight.shape[1] if weight.ndim == 3 else weight.shape[0]))
            if str(path).rstrip(".") in self.reading.modules:
                step = self.reading.said([item])[0][0]
                size, _ = step.sizes()
                return self.g.input(dtype="int64") if size is None else self.g.input(size)
        raise CgruError("layers: names no module of the file that says how many features the network takes")

    def _sequence(self, said: Sequence[Any], x: str, depth: int) -> str:
        if not isinstance(said, (list, tuple)) or depth > _MOST_NESTED:
            raise CgruError(f"layers: residual takes a list of at most {_MOST_NESTED} within each other")
        run: list[Any] = []
        for item in said:
            if self._chained(item, run):
                run.append(item)
                continue
            x, run = self._run(run, x), []
            x = self._one(item, x, depth)
        return self._run(run, x)

    def _chained(self, item: Any, run: Sequence[Any]) -> bool:
        """Whether an item belongs to a chain of layers: a module that is one, or a word behind such."""
        if isinstance(item, str):
            word = item.rstrip(".")
            return word in self.reading.modules or (
                item not in ("mean", "max") and word not in self.others and bool(run)
            )
        return isinstance(item, dict) and item.keys() != {"residual"} and not item.keys() & _SAID.keys()

    def _run(self, run: Sequence[Any], x: str) -> str:
        """A chain of layers, as :mod:`.torch_layers` reads it."""
        run = [item for item in run if not self._ignore(item)]
        if not run:
            return x
        steps, _ = self.reading.said(run)
        for step in steps:
            if step.module is not None:
                self._use(step.module)
            x = self.g.layer(built(self.reading.with_nonlinearity(step, steps)), x)
        return x

    def _ignore(self, item: Any) -> bool:
        if isinstance(item, dict) and item.keys() == {"ignore"}:
            self.ignored += self.reading.patterns(item["ignore"])
            return True
        return False

    def _use(self, module: TorchModule) -> None:
        if any(module.path == other.path for other in self.used):
            raise UnsupportedError(f"layers: names a module twice: {module.path}; each can come once")
        self.used.append(module)

    def _one(self, item: Any, x: str, depth: int) -> str:
        if isinstance(item, dict) and item.keys() == {"residual"}:
            inner = self._sequence(item["residual"], x, depth + 1)
            if self.g.values[inner] != self.g.values[x]:
                raise CgruError(
                    f"layers: a residual adds {self.g.values[x].describe()} to {self.g.values[inner].describe()}"
                )
            return self.g.node("add", x, inner)
        if isinstance(item, str) and item in _WHOLE:
            if self.g.values[x].clock is None:
                raise CgruError(f"layers: {item!r} takes a sequence, and one frame is left of it already")
            return self.g.node("pool_whole", x, kind=_WHOLE[item])
        if isinstance(item, str) and item in ACTIVATIONS:
            return self.g.node("activation", x, activation=item)
        kind, path, options = self._module_said(item)
        module = self.others[path]
        self._use(module)
        made: str = getattr(self, f"_{kind}")(module, x, options)
        return made

    def _module_said(self, item: Any) -> tuple[str, str, dict[str, Any]]:
        """What an item says of a module of other tensors: its kind, its path and options."""
        if isinstance(item, str):
            path = item.rstrip(".")
            if path not in self.others:
                known = ", ".join(map(repr, [*self.reading.modules, *self.others][:12]))
                raise CgruError(
                    f"layers: {item[:60]!r} is neither a module nor a word; modules are {known}; words are "
                    "activations, 'mean', 'max', 'last_step', 'last_state' and residual(…)"
                )
            return _kind_of(self.others[path]), path, {}
        kinds = [key for key in item if key in _SAID] if isinstance(item, dict) else []
        if len(kinds) != 1:
            raise CgruError(f"layers: {brief(item)} is neither a name nor a dict of options")
        (kind,) = kinds
        path, options = str(item[kind]).rstrip("."), {key: value for key, value in item.items() if key != kind}
        if path not in self.others or _kind_of(self.others[path]) not in (kind, _ALIKE.get(kind)):
            raise CgruError(f"layers: {path[:60]!r} is no {kind} of the file")
        for key, value in options.items():
            wanted = _SAID[kind].get(key)
            if wanted is None or not isinstance(value, (int, float) if wanted is float else wanted):
                known = ", ".join(_SAID[kind]) or "none"
                raise CgruError(
                    f"layers: {kind} {path!r} has no option {str(key)[:40]!r} as {brief(value)}; it has {known}"
                )
        return kind, path, options

    # ---- modules ------------------------------------------------------------------------------------------------

    def _named(self, module: TorchModule) -> dict[str, Any]:
        return {"name": module.path, "layer": module.path} if module.path and module.path not in self.g.values else {}

    def _conv1d(self, module: TorchModule, x: str, options: Mapping[str, Any]) -> str:
        weight = module.tensors["weight"]
        width, channels = weight.shape[2], self.g.values[x].size
        given = {key: options[key] for key in ("stride", "dilation", "activation") if key in options}
        if width > 1 and not options.keys() & {"padding", "left", "right"}:
            raise UnsupportedError(
                f"layers: {module.path} is a convolution of width {width}, and tensors do not show its padding: write "
                f'{{"conv1d": {module.path!r}, "padding": {width // 2}}}, or "left" and "right" where they differ; '
                '"stride" and "dilation" where they are not 1'
            )
        if not weight.shape[1] or channels % weight.shape[1]:
            raise CgruError(f"layers: {module.path} takes {weight.shape[1]} channels, found {channels}")
        left = options.get("left", options.get("padding", 0))
        right = options.get("right", options.get("padding", 0))
        return self.g.node(
            "conv1d", x, units=weight.shape[0], width=width, groups=channels // weight.shape[1], left=left, right=right,
            weights=_floats(module, ("weight", "bias")), **given, **self._named(module),
        )  # fmt: skip

    def _batch_norm(self, module: TorchModule, x: str, options: Mapping[str, Any]) -> str:
        parts = {key: array.astype(np.float64) for key, array in module.tensors.items()}
        scale = parts.get("weight", 1.0) / np.sqrt(parts["running_var"] + options.get("eps", 1e-5))
        shift = parts.get("bias", 0.0) - parts["running_mean"] * scale
        arrays = {"scale": scale.astype(np.float32), "shift": shift.astype(np.float32)}
        return self.g.node("scale_shift", x, weights=arrays, **self._named(module))

    def _layer_norm(self, module: TorchModule, x: str, options: Mapping[str, Any], mean: bool = True) -> str:
        arrays = _floats(module, ("weight", "bias"))
        least = 1e-5 if mean else float(np.finfo(np.float32).eps)  # torch's own
        return self.g.node(
            "layer_norm",
            x,
            weights=arrays,
            epsilon=options.get("eps", least),
            subtract_mean=mean,
            **self._named(module),
        )

    def _rms_norm(self, module: TorchModule, x: str, options: Mapping[str, Any]) -> str:
        return self._layer_norm(module, x, options, False)

    def _group_norm(self, module: TorchModule, x: str, options: Mapping[str, Any]) -> str:
        if "groups" not in options or "over_time" not in options:
            raise CgruError(f'layers: group_norm {module.path!r} needs "groups" and "over_time"')
        return self.g.node(
            "group_norm", x, weights=_floats(module, ("weight", "bias")), groups=options["groups"],
            over_time=options["over_time"], epsilon=options.get("eps", 1e-5), **self._named(module),
        )  # fmt: skip

    def _prelu(self, module: TorchModule, x: str, options: Mapping[str, Any]) -> str:
        slope = module.tensors["weight"].astype(np.float32)
        size = self.g.values[x].size
        return self.g.node("prelu", x, weights={"slope": np.broadcast_to(slope, (size,)).copy()}, **self._named(module))


#: Kinds whose tensors are those of another.
_ALIKE = {"group_norm": "layer_norm", "rms_norm": "prelu"}


def _other_modules(reading: Reading) -> dict[str, TorchModule]:
    """The modules of tensors that are no layer of a chain, and are one of :data:`_SAID`."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, array in reading.tensors.items():
        path, _, leaf = name.rpartition(".")
        groups.setdefault(path, {})[leaf] = array
    found = {}
    for path, parts in groups.items():
        if path not in reading.modules and parts.keys() <= _LEAVES and "weight" in (parts.keys() | {"weight"}):
            module = TorchModule(path, "", parts)
            if _kind_of(module):
                found[path] = module
    return found


def _kind_of(module: TorchModule) -> str:
    """What the tensors are: a convolution by three axes, a batch normalisation by its statistics, a layer
    normalisation by its scale and shift, a PReLU (or RMS normalisation) by its slopes alone."""
    parts = module.tensors
    one = all(array.ndim == 1 for leaf, array in parts.items() if leaf != "num_batches_tracked")
    if {"running_mean", "running_var"} <= parts.keys():
        return "batch_norm" if one else ""
    weight = parts.get("weight")
    if weight is None or parts.keys() - {"weight", "bias"}:
        return ""
    if weight.ndim == 3:
        return "conv1d"
    if weight.ndim != 1 or not one:
        return ""
    return "layer_norm" if "bias" in parts else "prelu"


def _floats(module: TorchModule, leaves: Sequence[str]) -> dict[str, np.ndarray]:
    return {leaf: module.tensors[leaf].astype(np.float32) for leaf in leaves if leaf in module.tensors}
