"""How much of other episodes' states lie where demonstrations were."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

QUANTILE = 0.95
"""The share of a demonstration's states that the other demonstrations have within reach."""


def near(demonstrations: list[np.ndarray], others: list[np.ndarray]) -> list[np.ndarray] | None:
    """Finds which states of other episodes are as near to the demonstrations as these are to one another.

    A state is near if its Euclidean distance to the nearest state of a demonstration is within the reach: the
    `QUANTILE` of the distances from the states of each demonstration to the nearest state of another one.
    (Definition of this project.)

    Args:
        demonstrations: normalised states of each, float [T, state_dim], all of one task.
        others: the same of the episodes that are asked about.

    Returns:
        Bool [T] of each of `others`; None where two demonstrations are not there, which give no reach.

    """
    if len(demonstrations) < 2:
        return None
    apart = [
        cKDTree(np.concatenate(demonstrations[:place] + demonstrations[place + 1 :])).query(own)[0]
        for place, own in enumerate(demonstrations)
    ]
    reach = np.quantile(np.concatenate(apart), QUANTILE)
    tree = cKDTree(np.concatenate(demonstrations))
    return [tree.query(states)[0] <= reach for states in others]
