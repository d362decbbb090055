"""What a server allows, in one place. Seconds, bytes and counts; the defaults suit one machine on a private network."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import CgruError

_MAY_BE_ZERO = {"tick", "stream_rate", "request_rate", "keep", "saved", "replay", "drain"}


@dataclass(frozen=True)
class Settings:
    """Limits of a server. Raises :class:`CgruError` for one that makes no sense."""

    #: The model's name in the V2 protocol.
    name: str = "model"
    #: Streams open at once; the next is answered 503.
    capacity: int = 1000
    #: Seconds that a step waits for company at most.
    tick: float = 0.002
    #: Steps of one stream that may wait to be done, and outputs that may wait to be read.
    ahead: int = 256
    behind: int = 256
    #: Bytes of one WebSocket message, and of one HTTP or gRPC request.
    message: int = 1 << 20
    body: int = 64 << 20
    #: Whole-sequence requests that may wait or run at once; the next is answered 503.
    jobs: int = 32
    #: Steps a second of one stream (it is read more slowly), requests a second of one address (429); 0: no limit.
    stream_rate: float = 0.0
    request_rate: float = 0.0
    #: Seconds without a message, and seconds without reading what is sent, after which a stream is closed.
    idle: float = 60.0
    stall: float = 10.0
    #: Seconds for which the state of a stream that ended without saying so is kept, how many, and where (memory).
    keep: float = 300.0
    saved: int = 10_000
    states: Path | None = None
    #: Outputs that are sent once more to a client that lost its connection.
    replay: int = 64
    #: Seconds that streams have at shutdown for the steps they have sent.
    drain: float = 10.0
    #: Web pages that browsers may call from, besides the server's own: ``https://example.org``, …
    origins: tuple[str, ...] = ()
    #: What a client must present as a bearer token; None: nothing.
    token: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            may_be_zero = field.name in _MAY_BE_ZERO
            if not (value > 0 or (may_be_zero and value == 0)) or value == float("inf"):
                wanted = "of at least 0" if may_be_zero else "above 0"
                raise CgruError(f"{field.name}: expected a number {wanted}, found {value!r}")
        if self.token is not None and (not self.token.isascii() or not self.token.isprintable() or " " in self.token):
            raise CgruError("token: expected printable ASCII without spaces, as an Authorization header can carry")
        if self.token == "":
            raise CgruError("token: it is empty; give one, or none at all")
