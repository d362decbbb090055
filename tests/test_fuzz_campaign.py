"""The committed corpus and a short campaign of mutated files; and that a campaign sees what it is there to see."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
import campaign
import outcomes
from mutations import edited, edits_of
from seeds import seeds

import cgru
from cgru.errors import FormatError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return seeds()


def children(contents: list[bytes], monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], list[str]]:
    """What a campaign over exactly these files finds."""
    monkeypatch.setattr(campaign, "_case", lambda files, number: (files[number][1], None))
    monkeypatch.setattr(campaign, "edited", lambda content, case: content)
    found, broken, read = campaign.run([(str(i), c) for i, c in enumerate(contents)], 0, len(contents), float("inf"))
    assert read == len(contents)
    return found, broken


def test_the_corpus_keeps_every_promise(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    campaign.warm(list(files.items()))
    found, broken = children([edited(files[seed], case) for seed, case, _ in campaign.corpus()], monkeypatch)
    assert not broken
    assert len(found) > 150  # ways in which a file is refused, or is not


def test_a_short_campaign_keeps_every_promise(files: dict[str, bytes]) -> None:
    listed = list(files.items())
    campaign.warm(listed)
    found, broken, read = campaign.run(listed, 0, 1500, float("inf"))
    assert not broken
    assert read == 1500
    assert found["loaded"] > 100


def test_a_case_is_the_same_wherever_it_is_made(files: dict[str, bytes]) -> None:
    content = files["torch/tagger.pt"]
    made = [edited(content, edits_of(content, "torch/tagger.pt", number)) for number in range(50)]
    assert made == [edited(content, edits_of(content, "torch/tagger.pt", number)) for number in range(50)]
    assert len(set(made)) > 40


def _crash(content: bytes) -> None:
    faulthandler.disable()  # a crash that is meant prints nothing among the results
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang(content: bytes) -> None:
    while True:
        time.process_time()


def _execute(content: bytes) -> None:
    os.system("true")
    raise FormatError("x: y")


def _evaluate(content: bytes) -> None:
    eval("1 + 1")
    raise FormatError("x: y")


def _import(content: bytes) -> None:
    sys.modules.pop("colorsys", None)  # a plot may have brought it
    import colorsys  # noqa: F401

    raise FormatError("x: y")


def _fail(content: bytes) -> None:
    raise KeyError("x")


def _swell(content: bytes) -> None:
    np.ones(60 << 20)
    raise FormatError("x: y")


class _Talkative(FormatError):
    def __str__(self) -> str:
        return "x: " + "y" * 3000


def _talk(content: bytes) -> None:
    raise _Talkative


def _dawdle(content: bytes) -> None:
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    raise FormatError("x: y")


def _lie(content: bytes, backend: str | None = None) -> cgru.Model:
    return cgru.Model([cgru.Dense(np.full((2, 3), 1.0 if backend else 1.1, np.float32))])


@pytest.mark.parametrize(
    ("reader", "says"),
    [
        (_crash, "crashes with SIGSEGV"),
        (_hang, "hangs"),
        (_execute, "audit event os.system"),
        (_evaluate, "audit event compile"),
        (_import, "audit event import"),
        (_fail, "KeyError: 'x' at"),
        (_swell, "grew by 4"),
        (_talk, "a message of 3003 characters"),
        (_dawdle, "s of processor time"),
        (_lie, "outputs differ by"),
    ],
)
def test_a_broken_promise_is_seen(reader: Callable[..., Any], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reader is _hang:
        monkeypatch.setattr(campaign, "PATIENCE", 0.1)
    if reader is _dawdle:
        monkeypatch.setattr(outcomes, "time_bound", lambda size: 0.1)
    monkeypatch.setattr(cgru, "load", reader)
    found, broken = children([b"x", b"y"], monkeypatch)
    assert any(says in line for line in broken)
    assert sum(found.values()) == 2
