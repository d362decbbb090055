"""Real-time streams over WebSockets to ``cgru serve``: latencies, the server's share of a core, where its time goes.

The server runs in a process of its own on one core, the clients in this one on the others. Each client sends a frame
of float32 every 10 ms at a phase of its own, whether or not the last one was answered; latency is from the moment the
frame was due to the moment its output was read. The clients are as lean as they can be (frames made beforehand), since
they share the machine. Where the machine does other things too, latencies tell of those; the processor time of a frame
tells of the server.

    export PYTHONPATH=tests
    python bench/serving_load.py                          # 50, 100, 200, 400 streams of the denoiser in int8
    python bench/serving_load.py --precision float32 --streams 100 --seconds 30
    python bench/serving_load.py --echo                   # the same traffic, answered by nothing but uvicorn
    python bench/serving_load.py --profile                # and where the server's time went (needs py-spy)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from serving import FEATURES, FRAME, network
from websocket_client import Lean, message

ECHO = """
import sys, uvicorn
async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "{}"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})
print("echo 127.0.0.1:" + sys.argv[1], flush=True)
uvicorn.run(app, port=int(sys.argv[1]), ws="websockets-sansio", lifespan="off", log_level="warning",
            ws_per_message_deflate=False)
"""


class Client:
    """One stream: notes when its frames were due and how late their outputs came."""

    def __init__(self, latencies: list[float]) -> None:
        self._latencies = latencies
        self.due: deque[float] = deque()

    async def connect(self, port: int) -> None:
        self.connection = Lean("/v1/stream", self.heard)
        await self.connection.open(port)

    def heard(self, kind: int, payload: bytes) -> None:
        if kind == 2:
            now = time.perf_counter()
            for _ in range(len(payload) // (4 * FEATURES)):
                self._latencies.append(now - self.due.popleft())


async def traffic(port: int, streams: int, seconds: float) -> dict[str, Any]:
    rng = np.random.default_rng(streams)
    latencies: list[float] = []
    clients = [Client(latencies) for _ in range(streams)]
    for client in clients:
        await client.connect(port)
    frames = [message(2, row.tobytes()) for row in rng.standard_normal((64, FEATURES)).astype("<f4")]
    phases = np.sort(rng.uniform(0, FRAME, streams)).tolist()
    await asyncio.sleep(0.5)
    begun, sent, total = time.perf_counter() + 0.01, 0, int(seconds / FRAME) * streams
    warm = 0
    while sent < total:
        now = time.perf_counter() - begun
        while sent < total:
            turn, i = divmod(sent, streams)
            due = turn * FRAME + phases[i]
            if due > now:
                break
            clients[i].due.append(begun + due)
            clients[i].connection.transport.write(frames[sent & 63])
            sent += 1
        if not warm and now > seconds / 5:
            warm = len(latencies)
        await asyncio.sleep(0.0005)
    end = time.perf_counter() + 5
    while len(latencies) < total and time.perf_counter() < end:
        await asyncio.sleep(0.01)
    lost = [client.connection.lost for client in clients if client.connection.lost]
    for client in clients:
        client.connection.abort()
    found = np.array(latencies[warm:]) if len(latencies) > warm else np.array([np.nan])
    p50, p99, p999 = 1e3 * np.percentile(found, [50, 99, 99.9])
    return {"streams": streams, "sent": sent, "answered": len(latencies), "lost": lost,
            "p50": p50, "p99": p99, "p99.9": p999}  # fmt: skip


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sums(port: int) -> dict[str, float]:
    """The server's own figures."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(cgru_round_\w+_(?:sum|count)) (\S+)$", text, re.M)}


def start(args: argparse.Namespace, folder: str) -> tuple[subprocess.Popen[str], int]:
    net = network()
    path = Path(folder) / "denoiser.safetensors"
    (net if args.precision == "float32" else net.quantize(args.precision)).save(path)
    command = [sys.executable, "-m", "cgru", "serve", str(path), "--port", "0", "--capacity", "5000"]
    if args.echo:
        command = [sys.executable, "-c", ECHO, "8799"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"127\.0\.0\.1:(\d+)", server.stdout.readline())
    assert found is not None, "the server did not start"
    time.sleep(1)
    return server, int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--echo", action="store_true", help="uvicorn alone")
    parser.add_argument("--profile", action="store_true", help="where the server's time goes, by py-spy")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    every = []
    with tempfile.TemporaryDirectory() as folder:
        os.sched_setaffinity(0, {cores[-1]})  # the server begins on its core, and knows that it is one
        server, port = start(args, folder)
        try:
            os.sched_setaffinity(0, set(cores[:-1]) or set(cores))
            for streams in args.streams:
                profile = None
                if args.profile:
                    stacks = Path(folder) / "stacks.txt"
                    spy = str(Path(sys.executable).with_name("py-spy"))
                    profile = subprocess.Popen(
                        [spy, "record", "-p", str(server.pid), "-d", str(int(args.seconds)), "-f", "raw", "-o",
                         str(stacks), "--native", "-r", "200"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    )  # fmt: skip
                before, rounds, at = processor_seconds(server.pid), {} if args.echo else sums(port), time.perf_counter()
                found = asyncio.run(traffic(port, streams, args.seconds))
                used = processor_seconds(server.pid) - before
                found["core"] = used / (time.perf_counter() - at)
                found["frame"] = 1e6 * used / max(1, found["answered"])
                told = (
                    f"{streams:5} streams: {found['answered']} of {found['sent']} answered, p50 {found['p50']:.2f}  "
                    f"p99 {found['p99']:.2f}  p99.9 {found['p99.9']:.2f} ms, {100 * found['core']:.0f} % of a core, "
                    f"{found['frame']:.0f} µs of it a frame"
                )
                if not args.echo:
                    after = sums(port)
                    change = {name: after[name] - rounds[name] for name in after}
                    found["rows"] = change["cgru_round_streams_sum"] / max(1, change["cgru_round_streams_count"])
                    told += f", {found['rows']:.1f} streams a step"
                print(told + (f"; {len(found['lost'])} LOST: {found['lost'][0]}" if found["lost"] else ""), flush=True)
                if profile is not None:
                    profile.wait()
                    tell_profile(stacks)
                every.append(found)
        finally:
            server.terminate()
            server.wait()
    if args.json:
        args.json.write_text(json.dumps(every, indent=1))


def tell_profile(stacks: Path) -> None:
    """Samples by what the server was doing."""
    kinds = {
        "the network": r"_packed|cgru_|steppers",
        "scheduler": r"ticks\.py|driver\.py",
        "conversations": r"conversation\.py|service\.py",
        "websockets": r"websockets",
        "uvicorn": r"uvicorn",
        "event loop": r"uvloop|asyncio|selectors",
    }
    shares: dict[str, int] = {}
    for line in stacks.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if re.search(r"epoll|futex|pthread_cond|sem_wait|wait \(threading", frames[-1]):
            continue
        named = (kind for frame in reversed(frames) for kind, what in kinds.items() if re.search(what, frame))
        kind = next(named, "else")
        shares[kind] = shares.get(kind, 0) + int(count)
    total = sum(shares.values()) or 1
    largest = sorted(shares.items(), key=lambda item: -item[1])
    print("        " + ", ".join(f"{kind} {100 * count / total:.0f} %" for kind, count in largest))


if __name__ == "__main__":
    main()
