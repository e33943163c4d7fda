"""A phantom small enough to be planned in seconds: a water cylinder with spheres."""

from __future__ import annotations

import numpy as np
import pytest

from monai_vmat.planning.phantom import Phantom

SHAPE = (51, 45, 26)


def make_small() -> Phantom:
    x, y, z = (
        3.0 * (np.arange(n) - n // 2).reshape(s) for n, s in zip(SHAPE, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
    )

    def sphere(cx: float, cy: float, cz: float, radius: float) -> np.ndarray:
        return (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 <= radius**2

    body = np.broadcast_to((x / 70) ** 2 + (y / 60) ** 2 <= 1, SHAPE).copy()
    structures = {
        "PTV70": sphere(0, 0, -3, 16),
        "PTV56": sphere(0, 0, 0, 21),
        "Prostate": sphere(0, 0, -3, 10),
        "Rectum": sphere(0, 32, 0, 13),
        "Bladder": sphere(0, -34, 0, 16),
        "Femur_L": sphere(52, 0, 0, 9),
        "Femur_R": sphere(-52, 0, 0, 9),
        "Bowel": sphere(0, -20, 33, 9),
        "Body": body,
    }
    return Phantom(np.where(body, 0, -1000).astype(np.int16), (3.0, 3.0, 3.0), structures)


@pytest.fixture(scope="session")
def small() -> Phantom:
    return make_small()


@pytest.fixture(scope="session")
def planner(small):
    pytest.importorskip("pydosert", reason="the extra 'planning' is not installed")
    from monai_vmat.planning.plan import Planner

    return Planner(small, seed=3)
