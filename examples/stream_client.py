"""A client of ``cgru serve`` that loses no step and doubles none, whatever its connection does.

    cgru serve model.safetensors &
    python examples/stream_client.py ws://127.0.0.1:8080/v1/stream x.npy -o y.npy

Sends the steps of x (T, I), float32, in messages of ten, and reads the outputs (T, O). Where the connection breaks, the
stream is resumed by its token: the server says how many steps it has done and sends the outputs that were lost on the
way once more, and the client goes on from there. Needs websockets; nothing of cgru.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

AT_ONCE = 10


async def run(url: str, x: np.ndarray, *, tries: int = 20) -> np.ndarray:
    """The outputs (T, O) of the steps x (T, I), over as many connections as it takes."""
    outputs: list[np.ndarray] = []
    token = ""
    for attempt in range(tries):
        query = f"?resume={token}&have={len(outputs)}" if token else ""
        try:
            async with connect(url + query, compression=None) as ws:
                hello = json.loads(await ws.recv())
                token, begin, width = hello["token"], hello["steps"], hello["output_size"]
                if begin - hello["replayed"] > len(outputs):
                    raise RuntimeError("the server no longer has all outputs that were lost")
                sending = asyncio.create_task(send(ws, x[begin:]))
                try:
                    while len(outputs) < len(x):
                        message = await ws.recv()
                        if isinstance(message, str):
                            raise ConnectionError(message)  # the server's last words; it keeps the state
                        outputs.extend(np.frombuffer(message, "<f4").reshape(-1, width))
                    await ws.send('{"op": "close"}')
                    return np.stack(outputs) if outputs else np.empty((0, width), np.float32)
                finally:
                    sending.cancel()
        except (ConnectionClosed, OSError) as error:
            print(f"connection {attempt + 1} lost after {len(outputs)} outputs: {error}")
            await asyncio.sleep(0.1)
    raise ConnectionError(f"{tries} connections were lost")


async def send(ws: ClientConnection, x: np.ndarray) -> None:
    for at in range(0, len(x), AT_ONCE):
        await ws.send(np.ascontiguousarray(x[at : at + AT_ONCE], "<f4").tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("input", type=Path, help=".npy (T, I)")
    parser.add_argument("-o", "--output", type=Path, default=Path("y.npy"))
    args = parser.parse_args()
    np.save(args.output, asyncio.run(run(args.url, np.load(args.input))))


if __name__ == "__main__":
    main()
