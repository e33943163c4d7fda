"""Do the isodose volumes of two doses overlap?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVELS_PERCENT = tuple(range(10, 101, 10))


def isodose_dice(
    pred_gy: np.ndarray, dose_gy: np.ndarray, prescription_gy: float, levels_percent: Sequence[float] = LEVELS_PERCENT
) -> dict[float, float | None]:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of the volumes with at least x % of the prescription.

    Args:
        pred_gy, dose_gy: (X, Y, Z).
        prescription_gy: what percentages refer to.
        levels_percent: of the isodoses.

    Returns:
        0 to 1 by level; None where neither dose reaches it.
    """
    found: dict[float, float | None] = {}
    for level in levels_percent:
        predicted, reference = (dose >= level / 100.0 * prescription_gy for dose in (pred_gy, dose_gy))
        volumes = np.count_nonzero(predicted) + np.count_nonzero(reference)
        found[level] = 2.0 * np.count_nonzero(predicted & reference) / volumes if volumes else None
    return found
