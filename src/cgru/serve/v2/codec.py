"""The V2 protocol's HTTP bodies: JSON, and tensors as bytes behind it (the binary tensor data extension).

Runs in the translating process where a text is long, and so imports nothing that a server needs besides.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ...json_numbers import no_number
from .request import Request, V2Error, tensor


def decode(body: bytes, header: str | None) -> tuple[Request, set[str] | bool]:
    """A request's body; and which outputs are wanted as bytes, True for all of them."""
    told, rest = body, memoryview(b"")
    if header is not None:
        if not header.isdecimal() or not 0 < int(header) <= len(body):
            raise V2Error(400, f"Inference-Header-Content-Length: expected 1 to {len(body)}, found {header[:40]!r}")
        told, rest = body[: int(header)], memoryview(body)[int(header) :]
    try:
        asked = json.loads(told, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise V2Error(400, f"the request is no valid JSON ({str(error)[:120]})") from None
    if not isinstance(asked, dict):
        raise V2Error(400, "the request must be a JSON object with inputs")
    inputs: dict[str, np.ndarray] = {}
    for found in _objects(asked, "inputs", required=True):
        name = found["name"]
        if name in inputs:
            raise V2Error(400, f"input {name[:80]!r} stands twice")
        size = _parameters(found).get("binary_data_size")
        if size is None:
            if "data" not in found:
                raise V2Error(400, f"input {name[:80]!r}: it has neither data nor binary_data_size")
            data: Any = found["data"]
        else:
            if type(size) is not int or not 0 <= size <= len(rest):
                raise V2Error(400, f"input {name[:80]!r}: binary_data_size {size!r}, but {len(rest)} bytes are left")
            data, rest = rest[:size], rest[size:]
        inputs[name] = tensor(name, found.get("datatype", ""), found.get("shape"), data)
    if len(rest):
        raise V2Error(400, f"{len(rest)} bytes of tensor data belong to no input")
    parameters = _parameters(asked)
    wanted = _objects(asked, "outputs", required=False)
    names = [found["name"] for found in wanted]
    as_bytes = {found["name"] for found in wanted if _parameters(found).get("binary_data") is True}
    if parameters.get("binary_data_output") is True:
        as_bytes |= {found["name"] for found in wanted if "binary_data" not in _parameters(found)}
    every = parameters.get("binary_data_output") is True and not wanted
    identity = asked.get("id", "")
    if not isinstance(identity, str):
        raise V2Error(400, "id: expected a text")
    return Request(inputs, identity, parameters, tuple(names)), every or as_bytes


def encode(
    model: str, asked: Request, outputs: dict[str, np.ndarray], binary: set[str] | bool
) -> tuple[bytes, int | None]:
    """The answer, and how many bytes of it are JSON where tensors follow; None: it is JSON alone."""
    told: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, y in outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(y.shape)}
        if binary is True or (isinstance(binary, set) and name in binary):
            parts.append(np.ascontiguousarray(y, "<f4").tobytes())
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        elif np.isfinite(y).all():
            entry["data"] = y.ravel().tolist()
        else:
            raise V2Error(400, f"output {name!r} has NaN or infinity, which JSON cannot hold; ask for binary data")
        told.append(entry)
    answer: dict[str, Any] = {"model_name": model, "model_version": "1", "outputs": told}
    if asked.id:
        answer["id"] = asked.id
    head = json.dumps(answer).encode()
    return b"".join([head, *parts]), len(head) if parts else None


def _objects(asked: dict[str, Any], key: str, *, required: bool) -> list[dict[str, Any]]:
    found = asked.get(key, [])
    right = isinstance(found, list) and all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in found)
    if not right or (required and not found):
        raise V2Error(400, f"{key}: expected a list of objects, each with a name")
    return found


def _parameters(found: dict[str, Any]) -> dict[str, Any]:
    parameters = found.get("parameters", {})
    if not isinstance(parameters, dict):
        raise V2Error(400, "parameters: expected an object")
    return parameters
