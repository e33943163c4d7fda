"""Small patches with structures, for the losses that look at them."""

from dataclasses import replace

import pytest
import torch

from monai_vmat.masks import bit_names


@pytest.fixture(scope="session")
def pack():
    """``pack(protocol, shape, **masks)``: the bits (1, 1, X, Y, Z) of boolean masks given as index expressions."""

    def pack(protocol, shape, masks):
        packed = torch.zeros(1, 1, *shape, dtype=torch.int16)
        for name, where in masks.items():
            packed[0, 0][where] |= 1 << bit_names(protocol).index(name)
        return packed

    return pack


@pytest.fixture(scope="session")
def with_goals():
    """The protocol with other goals."""
    return lambda protocol, *goals: replace(protocol, goals=tuple(goals))
