"""The V2 protocol over HTTP: JSON, and tensors as bytes behind it (the binary tensor data extension)."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..translation import NUMBER
from .codec import decode, encode
from .inference import Inference

_HEADER = "inference-header-content-length"


def routes(inference: Inference) -> list[BaseRoute]:
    """The protocol's routes."""
    service = inference.service

    async def server(_: HttpRequest) -> Response:
        return JSONResponse(inference.server())

    async def live(_: HttpRequest) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: HttpRequest) -> Response:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    async def model_ready(request: HttpRequest) -> Response:
        inference.check(*_named(request))
        return JSONResponse({"name": service.settings.name, "ready": service.ready}, 200 if service.ready else 503)

    async def metadata(request: HttpRequest) -> Response:
        return JSONResponse(inference.metadata(*_named(request)))

    async def infer(request: HttpRequest) -> Response:
        model, version = _named(request)
        inference.check(model, version)
        body, header = await request.body(), request.headers.get(_HEADER)
        text = int(header) if header is not None and header.isdecimal() else len(body)
        asked, binary = await service.translate(text, decode, body, header)
        outputs = await inference.infer(model, version, asked)
        size = 0 if binary is True else NUMBER * sum(y.size for y in outputs.values())
        content, head = await service.translate(size, encode, model, asked, outputs, binary)
        if head is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={_HEADER: str(head)}, media_type="application/octet-stream")

    model = "/v2/models/{model}"
    return [
        Route("/v2", server),
        Route("/v2/", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        *(Route(f"{at}/ready", model_ready) for at in (model, model + "/versions/{version}")),
        *(Route(f"{at}/infer", infer, methods=["POST"]) for at in (model, model + "/versions/{version}")),
        *(Route(at, metadata) for at in (model, model + "/versions/{version}")),
    ]


def _named(request: HttpRequest) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")
