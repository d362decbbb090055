"""A torch.export archive → a network: its JSON graph as a traced program, lowered as a live module's is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...builder import Graph
from ...errors import FormatError, UnsupportedError
from ...layers import Layer
from ..containers import pt2
from ..containers.file_bytes import Source
from ..containers.zip_members import ZipMembers
from .aten.network import traced
from .aten.program import Argument, Call, Program, Ref

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in [^\n]*(?:\n\s+([^\n]+))?')
_SPECS = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}


def load(source: Source) -> list[Layer] | Graph:
    members = ZipMembers(source)
    document = pt2.document(members)
    try:
        program = _program(document, pt2.tensors(members))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, StopIteration) as error:
        if isinstance(error, (FormatError, UnsupportedError)):
            raise
        raise FormatError(f"models/model.json is no program as torch.export writes it ({error!r:.120})") from None
    return traced(program, exported=True).made


def _program(document: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Program:
    module = document["graph_module"]
    graph, signature = module["graph"], module["signature"]
    inputs, constants, titles = [], {}, {}
    for spec in signature["input_specs"]:
        ((kind, entry),) = spec.items()
        if kind in _SPECS:
            name, title = _name(entry["arg"]["name"]), entry[_SPECS[kind]]
            if title not in tensors:
                raise FormatError(f"{str(title)[:80]}: its tensor is missing")
            constants[name], titles[name] = tensors[title], title
        elif kind == "user_input":
            if "as_tensor" not in entry["arg"]:
                continue
            name = _name(entry["arg"]["as_tensor"]["name"])
            shape = _shape(graph, name)
            inputs.append(Argument(name, shape or (), graph["tensor_values"][name]["dtype"] in (1, 2, 3, 4, 5)))
        else:
            raise UnsupportedError(f"an input of the program that is a {str(kind)[:40]}")
    calls = [call for i, node in enumerate(graph["nodes"]) for call in _calls(graph, node, i)]
    values = [
        _argument(graph, next(iter(spec.values()))["arg"])
        for spec in signature["output_specs"]
        if next(iter(spec)) == "user_output"
    ]
    return Program(inputs, constants, titles, calls, list(zip(_names(module, len(values)), values, strict=True)))


def _names(module: Mapping[str, Any], count: int) -> list[str]:
    """The keys of a mapping that forward() returns, or places."""
    root = next(entry for entry in module["module_call_graph"] if entry["fqn"] == "")
    spec = json.loads(root["signature"]["out_spec"])[1]
    if spec["type"] == "builtins.dict":
        keys = json.loads(spec["context"])
        if len(keys) == count:
            return [str(key) for key in keys]
    return [str(i) for i in range(count)]


def _shape(graph: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    meta = graph["tensor_values"].get(name)
    return None if meta is None else tuple(_integer(size) for size in meta["sizes"])


def _integer(value: Mapping[str, Any]) -> int:
    """A size: a number, or an expression with the number it had when it was traced."""
    found = value["as_int"] if "as_int" in value else value["as_expr"]["hint"]["as_int"]
    if type(found) is not int or not 0 <= found < 1 << 40:
        raise FormatError(f"a size of {str(found)[:40]}")
    return found


def _calls(graph: Mapping[str, Any], node: Mapping[str, Any], place: int) -> list[Call]:
    target = str(node["target"]).removeprefix("torch.ops.aten.").removesuffix(".default")
    if not str(node["target"]).startswith("torch.ops.aten."):
        target = str(node["target"])
    kwargs = {item["name"]: _argument(graph, item["arg"]) for item in node["inputs"]}
    metadata = node.get("metadata") or {}
    line = _line(metadata.get("stack_trace") or "")
    stack = [entry.split(",") for entry in (metadata.get("nn_module_stack") or "").split(";") if entry]
    module = stack[-1][1] if stack and len(stack[-1]) > 1 else ""
    outputs = [_argument(graph, output) for output in node["outputs"]]
    if len(outputs) == 1 and isinstance(outputs[0], Ref):
        name = outputs[0].name
        return [Call(name, target, (), kwargs, _shape(graph, name), module, line)]
    several = outputs[0] if len(outputs) == 1 and isinstance(outputs[0], list) else outputs
    whole = f"call {place}"
    made = [Call(whole, target, (), kwargs, None, module, line)]
    for i, part in enumerate(several):
        if isinstance(part, Ref):
            made.append(Call(part.name, "getitem", (Ref(whole), i), {}, _shape(graph, part.name), module, line))
    return made


def _argument(graph: Mapping[str, Any], arg: Mapping[str, Any]) -> Any:
    ((kind, value),) = arg.items()
    if kind == "as_tensor":
        return Ref(_name(value["name"]))
    if kind in ("as_tensors", "as_optional_tensors"):
        return [_argument(graph, {"as_tensor": v}) if "name" in v else _argument(graph, v) for v in value]
    if kind == "as_float" and isinstance(value, str):  # JSON has no word for these
        return float(value)
    if kind in ("as_int", "as_float", "as_bool", "as_string"):
        return value
    if kind in ("as_ints", "as_floats", "as_bools", "as_strings"):
        return list(value)
    if kind == "as_none":
        return None
    if kind == "as_sym_int":
        return value["as_int"] if "as_int" in value else _integer(graph["sym_int_values"][value["as_name"]])
    if kind == "as_sym_ints":
        return [_argument(graph, {"as_sym_int": v}) for v in value]
    return str(value)


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise FormatError(f"a tensor named {str(value)[:40]}")
    return value


def _line(trace: str) -> str:
    lines = [found for found in _FRAME.findall(trace) if "/torch/" not in found[0].replace(os.sep, "/")]
    if not lines:
        return ""
    path, number, text = lines[-1]
    return f"{os.path.basename(path)}:{number}: {text.strip()}"[:160]
