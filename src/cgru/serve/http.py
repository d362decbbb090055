"""The HTTP side of a server: an ASGI application for one network."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from .. import __version__
from ..cli.files import encode_output
from ..engine.model import Model
from ..errors import CgruError
from .conversation import Conversation
from .guard import Guard
from .refusals import Busy
from .service import Service
from .settings import Settings
from .texts import file_input, json_input, json_output
from .translation import NUMBER
from .v2 import rest
from .v2.inference import Inference
from .v2.request import V2Error

#: The page loads nothing from elsewhere and talks to its own server alone.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
_NPY, _WAV = "application/x-npy", "audio/wav"


class Streams:
    """The WebSocket's route, as plain ASGI: a frame passes no layer that adds nothing."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
        await Conversation(self._service, scope, receive, send).run()


def application(net: Model, settings: Settings | None = None) -> Starlette:
    """An ASGI application that serves ``net``; its streams live as long as its lifespan. For any ASGI server.

    ``application.state.service`` is the :class:`~cgru.serve.service.Service` behind it.
    """
    service = Service(net, settings or Settings())
    inference = Inference(service)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with service:
            yield

    async def page(_: Request) -> Response:
        text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"content-security-policy": _POLICY})

    async def healthy(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> Response:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def model(_: Request) -> Response:
        return JSONResponse(describe(service))

    async def run(request: Request) -> Response:
        return await sequences(service, request)

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/healthz", healthy),
            Route("/readyz", ready),
            Route("/metrics", metrics),
            Route("/v1/model", model),
            Route("/v1/run", run, methods=["POST"]),
            WebSocketRoute("/v1/stream", Streams(service)),
            *rest.routes(inference),
        ],
        middleware=[Middleware(Guard, settings=service.settings, metrics=service.metrics, door=service.door)],
        exception_handlers={CgruError: _refused, MemoryError: _refused, 404: _unknown, 405: _unknown},
        lifespan=lifespan,
    )
    app.state.service, app.state.inference = service, inference
    return app


def describe(service: Service) -> dict[str, Any]:
    """What a client wants to know of the network and the server."""
    net = service.net
    return {
        "name": service.settings.name,
        "version": __version__,
        "input_size": net.input_size,
        "output_size": net.output_size,
        "takes_ids": service.ids,
        "gives_last": net.gives_last,
        "precision": net.precision,
        "parameters": net.parameters,
        "streams": service.why_not is None,
        "why_no_streams": service.why_not,
        "formats": list(service.forms),
        "capacity": service.settings.capacity,
    }


async def sequences(service: Service, request: Request) -> Response:
    """Whole sequences: JSON ``{"x": …, "lengths": …}`` → ``{"y": …}``; .npy, .npz or .wav → .npy, .npz or .wav."""
    body = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    accepted = request.headers.get("accept", "")
    if kind == "application/json" or body[:1] == b"{":
        x, lengths = await service.translate(len(body), json_input, body, service.ids)
        y = await service.run(x, lengths)
        size = NUMBER * sum(part.size for part in (y if isinstance(y, tuple) else (y,)))
        return Response(await service.translate(size, json_output, y), media_type="application/json")
    given = await service.translate(len(body), file_input, body, service.ids, service.net.input_size)
    if given.mask is not None:
        raise CgruError("mask: this route takes x and lengths; leave the mask away")
    y = await service.run(given.x, given.lengths)
    answer = "npz" if isinstance(y, tuple) else "npy"
    if given.rate is not None and _WAV in accepted:
        answer = "wav"
    elif "text/csv" in accepted:
        answer = "csv"
    media = {"npy": _NPY, "npz": "application/zip", "wav": _WAV, "csv": "text/csv"}[answer]
    size = NUMBER * y.size if answer == "csv" and not isinstance(y, tuple) else 0
    content = await service.translate(size, encode_output, "the answer", y, answer, given.rate)
    return Response(bytes(content), media_type=media)


async def _refused(_: Request, error: Exception) -> Response:
    """What the request got wrong, or why not now."""
    status, headers = 400, {}
    if isinstance(error, V2Error):
        status = error.status
    elif isinstance(error, Busy):
        status = 503
    elif isinstance(error, MemoryError):
        status = 413
    if status == 503:
        headers["retry-after"] = "1"
    return JSONResponse({"error": str(error) or "not enough memory for this request"}, status, headers)


async def _unknown(request: Request, error: Any) -> Response:
    said = f"{request.method} {request.url.path[:200]}: this server has no such route; docs/serving.md lists them"
    return JSONResponse({"error": said}, error.status_code)
