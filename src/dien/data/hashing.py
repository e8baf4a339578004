"""Counter-based random numbers: splitmix64 in numpy, where number `c` of a stream is computed without the
others.

`derive(key, c)` is output `c` of the splitmix64 generator seeded with `key` (Steele, Lea and Flood, OOPSLA
2014) and can be the key of a further stream. A draw is thereby a pure function of its coordinates, whatever
worker makes it.
"""

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB


def stream(*coordinates: int) -> int:
    """The key of the stream with these coordinates, e.g. (seed, epoch, purpose): 64 bits, unsigned."""
    key = 0
    for coordinate in coordinates:
        state = (key + (coordinate + 1) * _GAMMA) & _MASK
        state = ((state ^ (state >> 30)) * _MULTIPLIER_1) & _MASK
        state = ((state ^ (state >> 27)) * _MULTIPLIER_2) & _MASK
        key = state ^ (state >> 31)
    return key


def derive(key: int | NDArray[np.uint64], counter: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Elements `counter` (>= 0, at least one axis) of the streams `key`, which broadcasts; as `stream`."""
    state = counter.astype(np.uint64)
    state += np.uint64(1)
    state *= np.uint64(_GAMMA)
    state = state + (np.uint64(key) if isinstance(key, int) else key)
    state ^= state >> np.uint64(30)
    state *= np.uint64(_MULTIPLIER_1)
    state ^= state >> np.uint64(27)
    state *= np.uint64(_MULTIPLIER_2)
    state ^= state >> np.uint64(31)
    return state


def uniform(random: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) from the upper 53 bits."""
    return (random >> np.uint64(11)).astype(np.float64) * 2.0**-53
