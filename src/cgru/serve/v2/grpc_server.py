"""The V2 protocol over gRPC, on the loop of the HTTP server."""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from ..guard import Rate
from .inference import Inference
from .request import DTYPES, Request, V2Error, tensor

_SERVICE = "inference.GRPCInferenceService"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED, 404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED, 503: grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip
#: Where a datatype's numbers stand in InferTensorContents.
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip


def messages() -> dict[str, Any]:
    """The protocol's message classes by name, from the descriptor set; in a pool of their own, beside any client's."""
    compiled = files(__package__).joinpath("open_inference.binpb").read_bytes()
    found = descriptor_pb2.FileDescriptorSet.FromString(compiled)
    pool = descriptor_pool.DescriptorPool()
    for file in found.file:
        pool.Add(file)
    names = [message.name for file in found.file for message in file.message_type]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in names}


class GrpcFace:
    """The methods of the service."""

    def __init__(self, inference: Inference) -> None:
        self._inference, self._types = inference, messages()
        settings = inference.service.settings
        self._token, self._rate = settings.token, Rate(settings.request_rate)

    def handlers(self) -> Any:
        """What a gRPC server is given."""
        methods = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server,
            "ModelMetadata": self._metadata,
            "ModelInfer": self._infer,
        }
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    self._answered(name, method),
                    request_deserializer=self._types[f"{name}Request"].FromString,
                    response_serializer=self._types[f"{name}Response"].SerializeToString,
                )
                for name, method in methods.items()
            },
        )

    def _answered(self, name: str, method: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        """A method behind the guard, its errors as gRPC's."""
        metrics = self._inference.service.metrics

        async def answer(request: Any, context: Any) -> Any:
            begun, status = time.perf_counter(), "OK"
            try:
                if name not in ("ServerLive", "ServerReady"):
                    self._admit(context)
                return await method(request)
            except V2Error as error:
                code = _CODES[error.status]
                status = code.name
                await context.abort(code, str(error))
            finally:
                metrics.requests.labels(f"grpc {name}", status).inc()
                metrics.request_seconds.labels(f"grpc {name}").observe(time.perf_counter() - begun)

        return answer

    def _admit(self, context: Any) -> None:
        refused = self._inference.service.metrics.refused
        if self._token is not None:
            shown = str(dict(context.invocation_metadata() or ()).get("authorization", ""))
            kind, _, token = shown.partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token.encode()):
                refused.labels("token").inc()
                raise V2Error(401, "expected the metadata authorization: Bearer TOKEN")
        if self._rate.wait(context.peer().rpartition(":")[0]):
            refused.labels("rate").inc()
            raise V2Error(429, "more requests a second from this address than the server allows")

    async def _live(self, _: Any) -> Any:
        return self._types["ServerLiveResponse"](live=True)

    async def _ready(self, _: Any) -> Any:
        return self._types["ServerReadyResponse"](ready=self._inference.service.ready)

    async def _model_ready(self, request: Any) -> Any:
        self._inference.check(request.name, request.version)
        return self._types["ModelReadyResponse"](ready=self._inference.service.ready)

    async def _server(self, _: Any) -> Any:
        return self._types["ServerMetadataResponse"](**self._inference.server())

    async def _metadata(self, request: Any) -> Any:
        return self._types["ModelMetadataResponse"](**self._inference.metadata(request.name, request.version))

    async def _infer(self, request: Any) -> Any:
        asked = self._decoded(request)
        found = await self._inference.infer(request.model_name, request.model_version, asked)
        answer = self._types["ModelInferResponse"](model_name=request.model_name, model_version="1", id=request.id)
        for name, y in found.items():
            answer.outputs.add(name=name, datatype="FP32", shape=y.shape)
            answer.raw_output_contents.append(np.ascontiguousarray(y, "<f4").tobytes())
        return answer

    def _decoded(self, request: Any) -> Request:
        raw = list(request.raw_input_contents)
        if raw and len(raw) != len(request.inputs):
            raise V2Error(400, f"raw_input_contents: {len(raw)} for {len(request.inputs)} inputs; give one of each")
        inputs: dict[str, np.ndarray] = {}
        for at, given in enumerate(request.inputs):
            if given.name in inputs:
                raise V2Error(400, f"input {given.name[:80]!r} stands twice")
            if raw:
                if given.HasField("contents"):
                    raise V2Error(400, f"input {given.name[:80]!r}: it has contents beside raw_input_contents")
                data: Any = raw[at]
            elif given.datatype in _CONTENTS:
                data = np.array(getattr(given.contents, _CONTENTS[given.datatype]), DTYPES[given.datatype])
            else:
                data = b""  # FP16 comes raw alone; what is no datatype at all is refused below
            inputs[given.name] = tensor(given.name, given.datatype, list(given.shape), data)
        parameters = {
            name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
            for name, value in request.parameters.items()
        }
        return Request(inputs, request.id, parameters, tuple(output.name for output in request.outputs))


async def start(inference: Inference, host: str, port: int, tls: tuple[Path, Path] | None) -> tuple[Any, int]:
    """A running server and its port."""
    most = inference.service.settings.body
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", most),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a second server on the port is an error, as with HTTP
        ]
    )
    server.add_generic_rpc_handlers((GrpcFace(inference).handlers(),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if tls is None:
        bound = server.add_insecure_port(address)
    else:
        certificate, key = tls
        bound = server.add_secure_port(
            address, grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        )
    await server.start()
    return server, bound
