"""What the earlier clicks say of the present interest: exact Bayesian filtering of the hidden state.

The hidden state is (interest, taste), a Markov chain observed through the category of each session's click. The item
within its category says nothing more, and sessions are as long as they are whatever the interest.

Axes: C categories (in the order of the cycle), K tastes, U users, S sessions.
"""

import numpy as np
from numpy.typing import NDArray

from dien.data.synthetic.world import World


def beliefs(world: World, clicked_SU: NDArray[np.int64]) -> NDArray[np.float64]:
    """P(interest of session s | clicks of the sessions before it), for every category [S, C, U].

    Args:
        world: the law.
        clicked_SU: place in the cycle of the category that was clicked; anything after a user's last session.
    """
    sessions, users = clicked_SU.shape
    prior_CK1 = world.taste_KC.T[:, :, None]
    belief_CKU = np.repeat(prior_CK1 / world.tastes, users, axis=2)
    believed_SCU = np.empty((sessions, world.categories, users))
    every_user = np.arange(users)
    for session in range(sessions):
        believed_SCU[session] = belief_CKU.sum(1)
        clicked_U = clicked_SU[session]
        seen_KU = belief_CKU[clicked_U, :, every_user].T * world.shown_inside
        belief_CKU *= world.noise * world.shown_outside
        belief_CKU[clicked_U, :, every_user] = seen_KU.T
        likelihood_U = belief_CKU.sum(1).sum(0)
        belief_CKU /= np.where(likelihood_U > 0, likelihood_U, 1)  # impossible clicks: sessions that nobody has
        belief_CKU = _next_session(world, belief_CKU, prior_CK1)
    return believed_SCU


def _next_session(world: World, belief_CKU: NDArray[np.float64], prior_CK1: NDArray[np.float64]) -> NDArray[np.float64]:
    followed_CKU = (1 - world.speed) * belief_CKU + world.speed * np.roll(belief_CKU, 1, axis=0)
    return world.order * followed_CKU + (1 - world.order) * prior_CK1 * belief_CKU.sum(0)
