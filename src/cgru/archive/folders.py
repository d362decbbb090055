"""Files in, files out: a network over every file that a pattern names, from where the last run stopped."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..cli.files import Input, encode_output, read_input
from ..engine import one_array
from ..engine.model import Model
from ..errors import CgruError
from .batches import admit, run
from .progress import Progress

#: Says whose results a folder holds.
MARK = ".cgru.json"


@dataclass
class Tally:
    """What a run over a folder came to."""

    run: int = 0
    there: int = 0
    bad: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        found = f"{self.run:,} run"
        if self.there:
            found += f", {self.there:,} there already"
        return found + (f", {len(self.bad):,} bad and left out" if self.bad else "")


def expand(patterns: Sequence[str]) -> list[str]:
    """The files that patterns name, each once, sorted; ``**`` stands for folders in folders."""
    found: dict[str, None] = {}
    for pattern in patterns:
        paths = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        files = [path for path in paths if os.path.isfile(path)]
        if not files:
            raise CgruError(f"{pattern}: no such file, and no file that this pattern fits")
        found.update(dict.fromkeys(files))
    return list(found)


def run_files(
    net: Model,
    paths: Sequence[str],
    out: str,
    *,
    kind: str = "npy",
    jobs: int = 1,
    strict: bool = False,
    complain: Callable[[str], None] = print,
) -> Tally:
    """Run every file and write its output into the folder ``out``, under its own name and the ending of ``kind``.

    An output that is there and no older than its file is left as it is: outputs are written whole or not at all, so a
    run that was stopped goes on where it stopped. A file that cannot be read or run is told to ``complain`` and left
    out; with ``strict`` it raises instead.
    """
    one_array.check(net, "a run over many files")
    folder = Path(out)
    targets = _targets(paths, folder, kind)
    _claim(net, folder, kind)
    tally = Tally()
    todo = []
    for path, target in targets.items():
        if target.exists() and target.stat().st_mtime_ns >= os.stat(path).st_mtime_ns:
            tally.there += 1
        else:
            todo.append(path)
    bar = Progress(len(targets), "files", before=tally.there)
    rates: dict[str, int | None] = {}

    def left_out(path: str, error: Exception) -> None:
        if strict:
            raise error
        tally.bad[path] = str(error)
        complain(f"{path}: left out: {error}".replace(f"{path}: left out: {path}: ", f"{path}: left out: "))
        bar.add()

    def write(path: str, y: object) -> None:
        try:
            encoded = encode_output(str(targets[path]), y, kind, rates.pop(path))
        except CgruError as error:
            left_out(path, error)
            return
        write_whole(targets[path], encoded)
        tally.run += 1
        bar.add()

    def singles() -> Iterator[tuple[str, object]]:
        """Files of one sequence run in batches across files; one that holds a batch runs by itself."""
        for path in todo:
            try:
                given = _read(net, path, kind)
                rates[path] = given.rate
                if given.lengths is None and given.mask is None and given.x.ndim == (1 if net.takes_ids else 2):
                    x = admit(net, given.x, path)
                else:
                    write(path, net(given.x, given.lengths, given.mask, threads=jobs))
                    continue
            except (CgruError, OSError) as error:
                left_out(path, error)
                continue
            yield path, x

    try:
        for path, y in run(net, singles(), jobs):
            write(path, y)
    finally:
        bar.close()
    return tally


def write_whole(target: Path, data: bytes | memoryview) -> None:
    """Write a file whole or not at all, whenever the process may end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _read(net: Model, path: str, kind: str) -> Input:
    given = read_input(path, ids=net.takes_ids, features=net.input_size)
    if kind == "wav" and given.rate is None:
        raise CgruError(f"{path}: a .wav can only be written from a .wav, whose sampling rate it takes")
    return given


def _targets(paths: Sequence[str], folder: Path, kind: str) -> dict[str, Path]:
    """Where each file's output goes: its path below the folder that all files share, with another ending."""
    absolute = [Path(path).absolute() for path in paths]
    shared = Path(os.path.commonpath([path.parent for path in absolute]))
    targets = {
        path: folder / full.relative_to(shared).with_suffix(f".{kind}")
        for path, full in zip(paths, absolute, strict=True)
    }
    seen: dict[Path, str] = {}
    for path, target in targets.items():
        if target in seen:
            raise CgruError(f"{path} and {seen[target]} would both be written to {target}; run them apart")
        if target.absolute() == Path(path).absolute():
            raise CgruError(f"{path}: its output would take its place; give another folder than {folder}")
        seen[target] = path
    return targets


def _claim(net: Model, folder: Path, kind: str) -> None:
    """Say whose results these are, or refuse to mix those of two networks."""
    mine = {"network": net._fingerprint().hex(), "kind": kind}
    mark = folder / MARK
    if mark.exists():
        try:
            found = json.loads(mark.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if found != mine:
            raise CgruError(f"{folder}: it holds the results of another network or kind of file; give another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(mark, json.dumps(mine).encode())
