"""``cgru serve``: a network behind HTTP, WebSockets and gRPC."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CgruError

if TYPE_CHECKING:
    from ..engine.model import Model
    from ..serve import Server

TOKEN = "CGRU_SERVE_TOKEN"


def add_options(sub: argparse.ArgumentParser) -> None:
    """The command's options; the limits' defaults are those of :class:`cgru.serve.Settings`."""
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    sub.add_argument("--port", type=int, default=8080, help="for HTTP and WebSockets (8080; 0: any)")
    sub.add_argument("--grpc-port", type=int, metavar="PORT", help="the V2 protocol over gRPC there too (0: any)")
    sub.add_argument("--name", help="the model's name in the V2 protocol (default: the file's)")
    sub.add_argument("--capacity", type=int, default=1000, help="streams open at once (1000)")
    sub.add_argument("--tick", type=float, default=2.0, metavar="MS", help="longest wait of a step for others (2 ms)")
    sub.add_argument("--idle", type=float, default=60.0, metavar="S", help="end a stream that is silent so long (60 s)")
    sub.add_argument("--keep", type=float, default=300.0, metavar="S", help="keep the state of a lost stream (300 s)")
    sub.add_argument("--states", type=Path, metavar="DIR", help="keep states there too, for the time after a restart")
    sub.add_argument("--max-body", type=int, default=64, metavar="MB", help="largest request (64 MB)")
    sub.add_argument("--request-rate", type=float, default=0.0, metavar="N", help="requests a second of an address")
    sub.add_argument("--stream-rate", type=float, default=0.0, metavar="N", help="steps a second of a stream")
    help_origin = "let pages of that origin call the server, such as https://example.org; may be repeated"
    sub.add_argument("--origin", action="append", default=[], metavar="ORIGIN", help=help_origin)
    help_token = f"require the bearer token in this file (or in the environment, {TOKEN})"
    sub.add_argument("--token-file", type=Path, metavar="FILE", help=help_token)
    sub.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate chain, for TLS")
    sub.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    sub.add_argument("--precision", help="serve in reduced precision: int8, int8x16, bf16, fp16")


def serve(net: Model, options: argparse.Namespace) -> None:
    """Serve ``net`` until it is told to stop."""
    from .. import serve as serving

    token = os.environ.get(TOKEN)
    if options.token_file is not None:
        token = options.token_file.read_text(encoding="ascii").strip()
    if token == "":
        raise CgruError(f"the token is empty; put one into {options.token_file or TOKEN}, or ask for none")
    for which in ("port", "grpc_port"):
        if not 0 <= (getattr(options, which) or 0) <= 65535:
            raise CgruError(f"--{which.replace('_', '-')}: expected 0 to 65535, found {getattr(options, which)}")
    settings = serving.Settings(
        name=options.name or Path(options.file).name.partition(".")[0],
        capacity=options.capacity,
        tick=options.tick / 1000,
        idle=options.idle,
        keep=options.keep,
        states=options.states,
        body=options.max_body << 20,
        request_rate=options.request_rate,
        stream_rate=options.stream_rate,
        origins=tuple(options.origin),
        token=token,
    )
    address = serving.Address(options.host, options.port, options.grpc_port, options.tls_cert, options.tls_key)
    if options.precision:
        net = net.quantize(options.precision)

    def started(server: Server) -> None:
        port, grpc_port = server.ports
        kind = "https" if options.tls_cert else "http"
        beside = f", gRPC on port {grpc_port}" if grpc_port is not None else ""
        print(f"{net!r}: {settings.capacity} streams on {kind}://{options.host}:{port}{beside}", flush=True)

    serving.serve(net, settings, address, started=started)
