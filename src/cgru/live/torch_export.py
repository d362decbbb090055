"""A live torch module → a traced program, by torch.export. PyTorch is not imported: the module brings its own."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np

from ..errors import UnsupportedError
from ..formats.readers.aten.program import Argument, Call, Program, Ref
from ..layers.conventions import plain
from .torch_packed import following


class Untraceable(UnsupportedError):
    """torch.export cannot follow the module's forward()."""


def exported(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
    """The module's forward() on an example as a program; raises :class:`Untraceable` with torch's reason."""
    torch: Any = sys.modules["torch"]
    from torch.export import export

    with _quiet(), following(torch):
        try:
            found = export(module, args, dict(kwargs), strict=False)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            text = f"torch.export cannot follow its forward(): {type(error).__name__}: {reason}"
            if "DataDependent" in type(error).__name__:
                # No comparison on a few inputs would show the branch that they do not take.
                raise UnsupportedError(f"{text}; what it does hangs on the values of its input") from None
            raise Untraceable(text) from None
    return _program(torch, found)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export prints and logs the graph of what it could not trace; the error says enough."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _program(torch: Any, found: Any) -> Program:
    inputs, constants, titles = [], {}, {}
    kinds = {spec.arg.name: spec for spec in found.graph_signature.input_specs}
    calls, outputs = [], []
    for node in found.graph.nodes:
        if node.op == "placeholder":
            spec = kinds[node.name]
            if spec.kind.name == "USER_INPUT":
                value = node.meta.get("val")
                if not isinstance(value, torch.Tensor):
                    continue  # a number or None of the example: the calls have it as it is
                if value.dtype == torch.bool:
                    raise UnsupportedError(
                        f"its input {node.name!r} holds truth values, which no input of a network does: have forward() "
                        "take the rows' lengths, or a mask of floats 1 and 0"
                    )
                integer = not value.is_floating_point()
                inputs.append(Argument(node.name, tuple(map(int, value.shape)), integer))
            else:
                store = found.state_dict if spec.target in found.state_dict else found.constants
                constants[node.name], titles[node.name] = np.asarray(plain(store[spec.target])), spec.target
        elif node.op == "call_function":
            calls.append(_call(torch, node))
        elif node.op == "output":
            outputs = [_argument(torch, value) for value in node.args[0]]
    mutated = [spec for spec in found.graph_signature.output_specs if spec.kind.name != "USER_OUTPUT"]
    names = _names(found.call_spec.out_spec, len(outputs) - len(mutated))
    return Program(inputs, constants, titles, calls, list(zip(names, outputs[len(mutated) :], strict=False)))


def _names(spec: Any, count: int) -> list[str]:
    """What each output is called: the key in a mapping, or its place."""
    kind = getattr(spec, "type", None)
    children = spec.children() if callable(getattr(spec, "children", None)) else getattr(spec, "children_specs", [])
    if kind is dict:
        names: list[str] = []
        for key, child in zip(spec.context, children, strict=True):
            inner = _names(child, child.num_leaves)
            names += [str(key)] if len(inner) == 1 else [f"{key}.{name}" for name in inner]
        return names
    return [str(i) for i in range(count)]


def _call(torch: Any, node: Any) -> Call:
    value = node.meta.get("val")
    shape = tuple(map(int, value.shape)) if isinstance(value, torch.Tensor) else None
    target = str(node.target).removeprefix("aten.").removesuffix(".default")
    if "getitem" in target:
        target = "getitem"
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(modules[-1][0]) if modules else ""
    args = tuple(_argument(torch, value) for value in node.args)
    kwargs = {key: _argument(torch, value) for key, value in node.kwargs.items()}
    return Call(node.name, target, args, kwargs, shape, path, source_line(node.meta.get("stack_trace") or ""))


def _argument(torch: Any, value: Any) -> Any:
    if isinstance(value, torch.fx.Node):
        return Ref(value.name)
    if isinstance(value, (list, tuple)):
        return [_argument(torch, part) for part in value]
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    return str(value)


_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)[^\n]*(?:\n\s+([^\n]+))?')


def source_line(trace: str) -> str:
    """The innermost line outside torch in a stack trace: ``model.py:12: y = torch.relu(x)``."""
    lines = [found for found in _FRAME.findall(trace) if "/torch/" not in found[0].replace(os.sep, "/")]
    if not lines:
        return ""
    path, number, _, text = lines[-1]
    return f"{os.path.basename(path)}:{number}: {text.strip()}"[:160]
