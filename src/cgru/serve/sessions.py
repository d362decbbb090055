"""States of streams whose clients have gone, kept under their tokens so that the clients may come back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Saved:
    """A stream's state after ``steps`` steps, and the outputs of the last of them, for a client that missed some."""

    state: bytes
    steps: int
    replay: tuple[bytes, ...] = ()


class Sessions:
    """At most ``most`` saved streams, each for ``keep`` seconds; the oldest goes first.

    With a folder they outlive the process: one file a stream, named by a digest of the token (who reads the folder
    cannot resume a stream by its names), written whole or not at all.
    """

    def __init__(self, keep: float, most: int, folder: Path | None = None) -> None:
        self.keep_for, self.most, self.folder = keep, most, folder
        self._held: OrderedDict[str, tuple[float, Saved]] = OrderedDict()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self._held)

    def keep(self, token: str, saved: Saved) -> None:
        """Keep a stream, in the place of what the token stood for."""
        self.expire()
        if self.keep_for <= 0 or self.most <= 0:
            return
        self._held.pop(token, None)
        while len(self._held) >= self.most:
            self._forget(next(iter(self._held)))
        self._held[token] = time.time(), saved
        if self.folder is not None:
            _write(self._path(token), saved)

    def take(self, token: str) -> Saved | None:
        """What is kept under a token, which from then on stands for nothing."""
        self.expire()
        found = self._held.pop(token, None)
        if self.folder is None:
            return None if found is None else found[1]
        path = self._path(token)
        saved = found[1] if found is not None else self._read(path)
        path.unlink(missing_ok=True)
        return saved

    def expire(self) -> None:
        """Forget what is older than ``keep`` seconds."""
        oldest = time.time() - self.keep_for
        while self._held and next(iter(self._held.values()))[0] < oldest:
            self._forget(next(iter(self._held)))

    def _forget(self, token: str) -> None:
        del self._held[token]
        if self.folder is not None:
            self._path(token).unlink(missing_ok=True)

    def _path(self, token: str) -> Path:
        assert self.folder is not None
        return self.folder / (hashlib.sha256(token.encode()).hexdigest()[:40] + ".stream")

    def _read(self, path: Path) -> Saved | None:
        """A file's stream; None where there is none, it is too old, or no file of this kind."""
        try:
            if path.stat().st_mtime < time.time() - self.keep_for:
                return None
            head, _, rest = path.read_bytes().partition(b"\n")
            told = json.loads(head)
            state, at = rest[: told["state"]], told["state"]
            replay = []
            for size in told["replay"]:
                replay.append(rest[at : at + size])
                at += size
            return Saved(state, int(told["steps"]), tuple(replay)) if at == len(rest) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _write(path: Path, saved: Saved) -> None:
    told = {"steps": saved.steps, "state": len(saved.state), "replay": [len(part) for part in saved.replay]}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(told).encode() + b"\n" + saved.state + b"".join(saved.replay))
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
