"""A network behind a server: streams over WebSockets, whole sequences over HTTP, KServe's V2 protocol.

``cgru serve FILE`` runs one; ``cgru.serve.application(net)`` is the ASGI application for another server's process.
Needs ``pip install "cgru[serve]"``; nothing of it is imported before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .settings import Settings

if TYPE_CHECKING:
    from .http import application
    from .runner import Address, Server, serve

__all__ = ["Address", "Server", "Settings", "application", "serve"]

_LATE = {"application": ".http", "Address": ".runner", "Server": ".runner", "serve": ".runner"}


def __getattr__(name: str) -> Any:
    import importlib

    from ..errors import UnsupportedError

    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_LATE[name], __name__), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("cgru"):
            raise
        raise UnsupportedError(f'serving needs {error.name}: pip install "cgru[serve]"') from error
