"""Scratch that outlives a network serves the next one anew, even where that stands at the address of the first.

The plan of a call is kept with its scratch. Were it known by the network's address, a network made after another was
freed would run on a plan for other widths, over memory that is somebody else's.
"""

from __future__ import annotations

import isa

isa.require()

# In a process of its own, which a wrong plan may end. The C core allocates a network in one piece whose size is that of
# its number of layers; 20 of them are more than small allocations are kept apart for, so that freed and made is the
# same place again most times.
CODE = """
import numpy as np
import cgru
from cgru.engine.backends._packed import BatchStepper
from cgru.engine.backends.packed import PackedStage
from cgru.engine.state import StateLayout

def stage(width, seed):
    rng = np.random.default_rng(seed)
    widths = [5, *[width] * 19, 4]
    layers = [cgru.Dense(rng.standard_normal((n, k)).astype(np.float32) / np.float32(np.sqrt(k)), activation="tanh")
              for k, n in zip(widths[:-1], widths[1:])]
    return PackedStage(layers, StateLayout(layers)).net

x, state = np.ones((3, 5), np.float32), np.zeros((3, 0), np.float32)

def step(stepper, net):
    stepper._bind(net, state, 5, 4, False)
    return stepper.step(x)

stepper, large, nothing = BatchStepper(), stage(400, 0), stage(1, 0)
step(stepper, large)                                 # memory for all that follows
same = []
for seed in range(40):
    step(stepper, stage(1 + seed % 7, seed))
    stepper._bind(nothing, state, 5, 4, False)       # lets go of the narrow one; a wide one comes in its place
    wide = stage(60 + seed, seed)
    same.append(np.array_equal(step(stepper, wide), step(BatchStepper(), wide)))
found = {"same": same}
"""


def test_a_network_at_the_address_of_another_has_a_plan_of_its_own() -> None:
    assert isa.arrays(CODE, None)["same"].all()
