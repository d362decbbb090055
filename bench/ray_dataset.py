"""Ragged sequences over a local cluster of four nodes, one of them killed in the middle; and what Ray costs.

Every row must come back once, with the bits of ``net(x)`` in this process. The second table times one worker, two
workers and ``cgru.map`` with one job on the same rows in memory, in turns; Ray reads them from Parquet files, and the
cluster's daemons share the machine. Beside the seconds by the clock stand the seconds of processors that everything
took, Ray's daemons included, which other work on the machine hardly changes.

    python bench/ray_dataset.py                    # 100,000 sequences of 20 to 400 steps, two GRUs of 64
    python bench/ray_dataset.py --rows 10000 --rounds 1
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

import cgru
import cgru.ray

FEATURES, HIDDEN = 16, 64
FILE = 1000  # rows of one Parquet file


def network() -> cgru.Model:
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    for layer, width in enumerate((FEATURES, HIDDEN)):
        tensors |= {
            f"weight_ih_l{layer}": rng.uniform(-0.1, 0.1, (3 * HIDDEN, width)).astype(np.float32),
            f"weight_hh_l{layer}": rng.uniform(-0.1, 0.1, (3 * HIDDEN, HIDDEN)).astype(np.float32),
            f"bias_ih_l{layer}": np.zeros(3 * HIDDEN, np.float32),
            f"bias_hh_l{layer}": np.zeros(3 * HIDDEN, np.float32),
        }
    head = cgru.Dense(rng.uniform(-0.1, 0.1, (4, HIDDEN)).astype(np.float32), np.zeros(4, np.float32))
    return cgru.Model([cgru.GRU.from_torch(tensors), head])


def table(rows: int) -> pa.Table:
    rng = np.random.default_rng(1)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(20, 400, rows))])
    steps = pa.FixedSizeListArray.from_arrays(
        pa.array(rng.standard_normal(int(offsets[-1]) * FEATURES).astype(np.float32)), FEATURES
    )
    return pa.table({"id": np.arange(rows), "x": pa.LargeListArray.from_arrays(pa.array(offsets), steps)})


def outputs(column: Any) -> list[np.ndarray]:
    found = []
    for chunk in column.chunks:
        flat = chunk.flatten().flatten().to_numpy().reshape(-1, 4)
        found += np.split(flat, np.cumsum(chunk.value_lengths().to_numpy())[:-1]) if len(chunk) else []
    return found


def kill(cluster: Cluster, nodes: list[Any]) -> None:
    from ray._private import state

    busy = {
        actor["Address"]["NodeID"]
        for actor in state.actors().values()
        if actor["State"] == "ALIVE" and "Predictor" in f"{actor.get('Name')} {actor.get('ActorClassName')}"
    }
    victim = next(node for node in nodes if node.node_id in busy)
    nodes.remove(victim)
    cluster.remove_node(victim, allow_graceful=False)


def processor_seconds() -> float:
    """Of this process and all that it has started, directly or not, as far as it has not ended unseen."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                used[int(entry.name)] = sum(int(field) for field in fields[11:15])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(used[pid] for pid in family) / os.sysconf("SC_CLK_TCK")


def run(folder: str, net: cgru.Model, workers: Any, kill_at: int = 0, after: Any = None) -> tuple[float, Any]:
    """Seconds from the first batch to the last, so that starting workers does not count, and the rows."""
    dataset = ray.data.read_parquet(folder)
    begun, rows, found = 0.0, 0, []
    first = 0
    scored = cgru.ray.predict(dataset, net, keep=["id"], workers=workers)
    for batch in scored.iter_batches(batch_format="pyarrow", batch_size=None):
        if not begun:
            begun, first = time.perf_counter(), batch.num_rows
        rows += batch.num_rows
        found.append(batch.select(["id", "y"]))
        if after is not None and rows >= kill_at:
            after()
            after = None
    seconds = time.perf_counter() - begun
    return seconds * rows / max(1, rows - first), pa.concat_tables(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    net, given = network(), table(args.rows)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=600 << 20) for _ in range(4)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    told: dict[str, Any] = {}
    folder = tempfile.mkdtemp()
    for number, at in enumerate(range(0, args.rows, FILE)):
        pq.write_table(given.slice(at, FILE), f"{folder}/{number:05}.parquet")
    try:
        begun = time.perf_counter()
        _, found = run(folder, net, (1, 4), args.rows // 4, lambda: kill(cluster, nodes))
        seconds = time.perf_counter() - begun
        ids = found["id"].to_numpy()
        assert len(ids) == args.rows, f"{len(ids)} rows of {args.rows}"
        assert len(np.unique(ids)) == args.rows, "rows came twice"
        ys = outputs(found["y"])
        expected = list(cgru.map(net, given["x"], jobs=2))
        assert all(np.array_equal(y, expected[i]) for i, y in zip(ids, ys, strict=True)), "other bits"
        print(f"{args.rows:,} sequences on four nodes, one killed: all once, equal bits, {seconds:.1f} s", flush=True)
        times: dict[str, list[float]] = {"one worker": [], "two workers": [], "cgru.map": []}
        used: dict[str, list[float]] = {name: [] for name in times}
        for _ in range(args.rounds):
            for name, workers in (("one worker", 1), ("two workers", 2), ("cgru.map", 0)):
                before, begun = processor_seconds(), time.perf_counter()
                if workers:
                    times[name].append(run(folder, net, workers)[0])
                else:
                    for _ in cgru.map(net, given["x"], jobs=1):
                        pass
                    times[name].append(time.perf_counter() - begun)
                used[name].append(processor_seconds() - before)
            print(", ".join(f"{name} {times[name][-1]:.2f} s ({used[name][-1]:.1f} of processors)" for name in times),
                  flush=True)  # fmt: skip
        one, two, alone = (statistics.median(found) for found in times.values())
        print(f"two workers: {one / two:.2f} times one; one worker takes {one / alone:.2f} times cgru.map's time")
        told = {"rows": args.rows, "killed": seconds, "times": times, "processors": used}
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder)
    if args.json:
        args.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
