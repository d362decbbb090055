"""Long texts are read and written in a process of their own, and streams do not wait for them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from networks import Kind, build, noise
from served import Served, served

from cgru.serve.refusals import Busy
from cgru.serve.texts import json_input
from cgru.serve.translation import SHORT, Translator

NET = build(Kind(6, 20, layers=2, head=3), 1, "packed")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(NET) as running:
        yield running


def test_long_texts_go_elsewhere_and_short_ones_do_not() -> None:
    async def asked() -> tuple[int, int, int]:
        translator = Translator(4)
        try:
            here, there = await translator(SHORT, os.getpid), await translator(SHORT + 1, os.getpid)
            os.kill(there, signal.SIGKILL)
            with pytest.raises(Busy, match="the next one takes over"):
                await translator(1 << 20, time.sleep, 60)
            return here, there, await translator(SHORT + 1, os.getpid)
        finally:
            translator.close()

    here, there, later = asyncio.run(asked())
    assert here == os.getpid()
    assert len({here, there, later}) == 3


def test_the_process_comes_after_the_streams_and_knows_no_server() -> None:
    """It starts beside streams in real time: at a low priority from its first instruction, with little to import."""
    x = b'{"x": [' + b"[0.5]," * SHORT + b"[0.5]]}"

    async def asked() -> tuple[Any, int, list[str]]:
        translator = Translator(4)
        try:
            found, _ = await translator(len(x), json_input, x, False)
            level = await translator(len(x), os.getpriority, os.PRIO_PROCESS, 0)
            return found, level, await translator(len(x), eval, "list(__import__('sys').modules)")
        finally:
            translator.close()

    found, level, modules = asyncio.run(asked())
    assert found.shape == (SHORT + 1, 1)
    assert level == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    assert not {"starlette", "uvicorn", "prometheus_client", "grpc"} & set(modules)


def test_only_so_many_long_texts_wait() -> None:
    async def asked() -> None:
        translator = Translator(1)
        first = asyncio.create_task(translator(SHORT + 1, os.getpid))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="1 requests are waiting"):
            await translator(SHORT + 1, os.getpid)
        await first
        translator.close()

    asyncio.run(asked())


def test_a_long_sequence_as_json(server: Served) -> None:
    x = noise((2000, 6), 0)
    status, _, body = server.ask("POST", "/v1/run", {"x": x.tolist()}, JSON)
    assert status == 200
    assert np.array_equal(np.array(json.loads(body)["y"], np.float32), NET(x))
    v2 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2000, 6], "data": x.ravel().tolist()}]}
    status, _, body = server.ask("POST", "/v2/models/model/infer", v2, JSON)
    assert status == 200
    assert np.array_equal(np.array(json.loads(body)["outputs"][0]["data"], np.float32), NET(x).ravel())


@pytest.mark.parametrize(
    ("route", "asked", "said"),
    [
        ("/v1/run", {"x": [[0.5] * 6] * 2000 + [[1.0]]}, "all rows alike"),
        ("/v2/models/model/infer", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [6], "data": [0] * 9999}]},
         "shape [6] has 6 numbers, found 9999"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_long_text_is_said_as_in_a_short_one(
    server: Served, route: str, asked: object, said: str
) -> None:
    status, _, body = server.ask("POST", route, asked, JSON)
    assert status == 400
    assert said in json.loads(body)["error"]
