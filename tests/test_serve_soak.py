"""The soak of ``cgru serve`` for a few seconds: real-time clients beside every kind of nuisance."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from pathlib import Path

import pytest
from networks import build
from served import served

SCRIPT = Path(__file__).parent / "soak" / "serve_traffic.py"


def test_nothing_is_lost_beside_clients_that_misbehave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("serve_traffic", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "FRAMES", 120)
    net = build(script.KINDS["small"][0], 1, "packed")
    with served(net, keep=5.0) as running:
        told = asyncio.run(script.run(running.port, os.getpid(), net, 6, 4.0, turn=0.5))
    assert told["counts"]["sessions"] >= 6
    assert told["counts"]["steps"] >= 120 * told["counts"]["sessions"]
    assert set(told["others"]) & {"deaf", "noisy", "vanishes", "oversized", "halved", "words", "http"}
