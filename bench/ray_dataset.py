"""Ragged sequences over a local cluster of four nodes, one of them killed in the middle; and what Ray costs.

Every row must come back once, with the bits of ``net(x)`` in this process; Ray reads them from Parquet files. Then one
worker, two workers and ``cgru.map`` with one job run the first of the same rows in turns, each from memory: Ray's
object store, and this process. The cluster's daemons share the machine. Beside the seconds by the clock stand the
seconds of processors that everything took, Ray's daemons included, which other work on the machine hardly changes.
Two minutes on two cores.

    python bench/ray_dataset.py                    # 100,000 sequences of 20 to 400 steps, two GRUs of 64
    python bench/ray_dataset.py --rows 10000 --timed 10000 --rounds 1
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
FILE = 1000  # rows of one Parquet file, and of one block in memory
#: For Ray's daemons: workers run at the priority of this process, which runs ``cgru.map``; other programs' memory is no
#: reason to end workers; a lost node is found within 5 seconds.
DAEMONS = {
    "RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0", "RAY_health_check_period_ms": "1000",
}  # fmt: skip


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


def kill(cluster: Cluster, nodes: list[Any], with_actor: str) -> None:
    """Take a node away, without a word, on which such an actor lives."""
    from ray._private import state

    busy = {
        actor["Address"]["NodeID"]
        for actor in state.actors().values()
        if actor["State"] == "ALIVE" and with_actor in f"{actor.get('Name')} {actor.get('ActorClassName')}"
    }
    victim = next(node for node in nodes if node.node_id in busy)
    nodes.remove(victim)
    cluster.remove_node(victim, allow_graceful=False)


def processor_seconds() -> dict[int, float]:
    """What this process has taken so far, and each that it has started, directly or not."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                used[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return {pid: used[pid] for pid in family}


def since(before: dict[int, float]) -> float:
    """Processor seconds of all of them; what ended meanwhile is left out."""
    return sum(used - before.get(pid, 0.0) for pid, used in processor_seconds().items())


def run(dataset: Any, net: cgru.Model, workers: Any, kill_at: int = 0, after: Any = None) -> tuple[float, Any]:
    """Seconds from the first batch to the last, so that starting workers does not count, and the rows."""
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
    parser.add_argument("--timed", type=int, default=20_000, help="rows of the runs that are timed")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    net, given = network(), table(args.rows)
    os.environ.update(DAEMONS)
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 1 << 30}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=600 << 20) for _ in range(4)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    told: dict[str, Any] = {}
    folder = tempfile.mkdtemp()
    for number, at in enumerate(range(0, args.rows, FILE)):
        pq.write_table(given.slice(at, FILE), f"{folder}/{number:05}.parquet")
    try:
        begun = time.perf_counter()
        read = ray.data.read_parquet(folder)
        _, found = run(read, net, (1, 4), args.rows // 4, lambda: kill(cluster, nodes, "Predictor"))
        seconds = time.perf_counter() - begun
        ids = found["id"].to_numpy()
        assert len(ids) == args.rows, f"{len(ids)} rows of {args.rows}"
        assert len(np.unique(ids)) == args.rows, "rows came twice"
        ys = outputs(found["y"])
        expected = list(cgru.map(net, given["x"], jobs=2))
        assert all(np.array_equal(y, expected[i]) for i, y in zip(ids, ys, strict=True)), "other bits"
        print(f"{args.rows:,} sequences on four nodes, one killed: all once, equal bits, {seconds:.1f} s", flush=True)
        given = given.slice(0, args.timed)
        blocks = [given.slice(at, FILE).combine_chunks() for at in range(0, len(given), FILE)]
        dataset = ray.data.from_arrow(blocks)
        times: dict[str, list[float]] = {"one worker": [], "two workers": [], "cgru.map": []}
        used: dict[str, list[float]] = {name: [] for name in times}
        for _ in range(args.rounds):
            for name, workers in (("one worker", 1), ("two workers", 2), ("cgru.map", 0)):
                before, begun = processor_seconds(), time.perf_counter()
                if workers:
                    times[name].append(run(dataset, net, workers)[0])
                else:
                    for _ in cgru.map(net, given["x"], jobs=1):
                        pass
                    times[name].append(time.perf_counter() - begun)
                used[name].append(since(before))
            print(", ".join(f"{name} {times[name][-1]:.2f} s ({used[name][-1]:.1f} of processors)" for name in times),
                  flush=True)  # fmt: skip
        one, two, alone = (statistics.median(found) for found in times.values())
        print(f"two workers: {one / two:.2f} times one; one worker takes {one / alone:.2f} times cgru.map's time")
        told = {"rows": args.rows, "timed": len(given), "killed": seconds, "times": times, "processors": used}
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder)
    if args.json:
        args.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
