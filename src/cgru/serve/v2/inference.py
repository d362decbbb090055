"""What a V2 request asks of a network, whichever of the protocol's two forms it came in.

The network's input is the tensor ``x`` (B, T, I) or (T, I), FP32, or ids (B, T), INT64; ``lengths`` (B,) may come with
it. Its output is ``y``, or ``y_0``, ``y_1``, … where it gives several. Requests with a ``sequence_id`` (Triton's
sequence extension) are steps of a stream of that name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import __version__
from ...errors import CgruError
from ..refusals import Busy
from ..service import Service
from .request import Request, V2Error
from .sequences import Sequences

VERSION = "1"
PLATFORM = "cgru"
EXTENSIONS = ["binary_tensor_data", "sequence"]


class Inference:
    """A service by the protocol's words."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.sequences = Sequences(service)

    def server(self) -> dict[str, Any]:
        return {"name": "cgru", "version": __version__, "extensions": EXTENSIONS}

    def check(self, model: str, version: str) -> None:
        if model != self.service.settings.name:
            raise V2Error(404, f"no model is named {model[:80]!r}; this server has {self.service.settings.name!r}")
        if version not in ("", VERSION):
            raise V2Error(404, f"model {model!r} has no version {version[:40]!r}; there is {VERSION!r}")

    def metadata(self, model: str, version: str) -> dict[str, Any]:
        self.check(model, version)
        net = self.service.net
        x: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [-1, -1, net.input_size]}
        if self.service.ids:
            x = {"name": "x", "datatype": "INT64", "shape": [-1, -1]}
        shape = [-1, net.output_size or net.input_size]
        y = {"name": "y", "datatype": "FP32", "shape": shape if net.gives_last else [-1, *shape]}
        return {"name": model, "versions": [VERSION], "platform": PLATFORM, "inputs": [x], "outputs": [y]}

    async def infer(self, model: str, version: str, request: Request) -> dict[str, np.ndarray]:
        """The outputs by name. Raises :class:`V2Error`."""
        self.check(model, version)
        unknown = request.inputs.keys() - {"x", "lengths"}
        if unknown or "x" not in request.inputs:
            found = ", ".join(sorted(name[:40] for name in request.inputs)) or "none"
            raise V2Error(400, f"inputs: expected x, and lengths where wanted; found {found}")
        x, lengths = request.inputs["x"], request.inputs.get("lengths")
        if x.dtype.kind not in ("iu" if self.service.ids else "f"):
            raise V2Error(400, f"input 'x': expected {'whole numbers (INT64)' if self.service.ids else 'FP32'}")
        try:
            sequence = request.parameters.get("sequence_id", 0)
            if sequence not in (0, ""):
                if lengths is not None:
                    raise V2Error(400, "input 'lengths': a sequence goes on step by step and has none")
                y = await self.sequences.advance(sequence, x, request.parameters)
            else:
                y = await self.service.run(x, lengths)
        except Busy as error:
            raise V2Error(503, str(error)) from error
        except V2Error:
            raise
        except CgruError as error:
            raise V2Error(400, str(error)) from error
        named = {f"y_{i}": part for i, part in enumerate(y)} if isinstance(y, tuple) else {"y": y}
        for name in request.outputs:
            if name not in named:
                raise V2Error(400, f"outputs: no output is named {name[:80]!r}; there is {', '.join(named)}")
        return {name: named[name] for name in request.outputs} if request.outputs else named
