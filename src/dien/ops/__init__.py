"""The gated scan: every recurrent layer of the network, through one door.

`gated_scan` runs the fastest engine that works on the device of its tensors: a compiled kernel on the CPU, Triton
kernels on CUDA, plain torch (`reference`, the definition) elsewhere. DIEN_SCAN=reference|cpu|triton forces one.
`recurrence` is the scan with its input projection, `linear` and `Linear` are torch's linear layer, `lookup` its
embedding, `perceptron` two hidden layers of sigmoids, `dice` the activation Dice, and `flat_steps`, `softmax` and
`last_state` know the flat list of steps: all faster on a CPU.
"""

from dien.ops.dense import Linear, linear
from dien.ops.dice import dice, rectified
from dien.ops.engines import ENGINES, engine_for
from dien.ops.lookup import lookup
from dien.ops.perceptron import first_layer, perceptron
from dien.ops.recurrence import recurrence
from dien.ops.scan import RULES, gated_scan
from dien.ops.segments import flat_steps, last_state, softmax

__all__ = [
    "ENGINES",
    "RULES",
    "Linear",
    "dice",
    "engine_for",
    "first_layer",
    "flat_steps",
    "gated_scan",
    "last_state",
    "linear",
    "lookup",
    "perceptron",
    "rectified",
    "recurrence",
    "softmax",
]
