"""How long a session waits for its next outputs when the node of its replica is lost.

Two replicas on a local cluster of one-core nodes; sessions are fed a tenth of a second at a time, in turns. Again and
again the node of one replica is killed without a word in the middle; then the slowest call until all sessions are
served again is told, beside what a call takes otherwise. Every output must be there once, with the bits it has alone.

    python bench/ray_streams.py
    python bench/ray_streams.py --kills 5 --sessions 16
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray_dataset import DAEMONS, FEATURES, kill, network

import cgru.ray

STEPS = 10


def replicas() -> int:
    from ray._private import state

    return sum(a["State"] == "ALIVE" and "SERVE_REPLICA" in str(a.get("Name")) for a in state.actors().values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=8)
    args = parser.parse_args()
    os.environ.update(DAEMONS)
    net = network()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2 + args.kills)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        serve.start(http_options={"location": "NoServer"})
        handle = serve.run(cgru.ray.streams(net, replicas=2, capacity=args.sessions), route_prefix=None)
        sessions = [cgru.ray.Session(handle, f"session {k}") for k in range(args.sessions)]
        alone = [net.stream() for _ in sessions]
        rng = np.random.default_rng(0)

        def turn() -> list[float]:
            """A call of every session: seconds of each."""
            for session, stream in zip(sessions, alone, strict=True):
                x = rng.standard_normal((STEPS, FEATURES)).astype(np.float32)
                assert np.array_equal(session.feed(x), stream.feed(x)), "other bits"
            return [session.took for session in sessions]

        usual = [took for _ in range(10) for took in turn()][2 * args.sessions :]
        print(f"a call of {STEPS} steps: median {1e3 * statistics.median(usual):.0f} ms, "
              f"slowest {1e3 * max(usual):.0f} ms", flush=True)  # fmt: skip
        slowest: list[float] = []
        for _ in range(args.kills):
            kill(cluster, nodes, "SERVE_REPLICA")
            slowest.append(_restored(turn))
            print(f"a node is killed: the slowest call took {slowest[-1]:.2f} s", flush=True)
        steps = sum(session.steps for session in sessions)
        print(f"{steps:,} steps of {args.sessions} sessions, {args.kills} nodes killed: all once, equal bits; "
              f"slowest calls {', '.join(f'{took:.2f}' for took in slowest)} s")  # fmt: skip
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def _restored(turn: Callable[[], list[float]]) -> float:
    """Go on until both replicas live, Ray having found the loss and started another; seconds of the slowest call."""
    end = time.monotonic() + 120
    found = slowest = 0.0
    while time.monotonic() < end:
        slowest = max(slowest, *turn())
        if replicas() < 2:
            found = 0.0
        elif not found:
            found = time.monotonic()
        elif time.monotonic() - found > 15:  # none is lost that Ray has yet to find
            return slowest
        time.sleep(0.2)
    raise AssertionError("the second replica did not come back")


if __name__ == "__main__":
    main()
