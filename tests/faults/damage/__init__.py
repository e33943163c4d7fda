"""Damage to files, by bad luck and by malice: any bytes, and what each format has that can lie.

:func:`mutate` takes a valid file's bytes and gives damaged ones and the damage's name. All randomness comes from the generator
that it is given: the same seed makes the same damage.
"""

from __future__ import annotations

import random

from .any_bytes import ANY, flip_bits
from .checkpoints import CHECKPOINT
from .csv_text import CSV
from .dicom import DICOM
from .json_text import JSON
from .nifti import NIFTI
from .npz import NPZ
from .settings import SETTINGS
from .values import Mutation


def mutate(name: str, data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Damage a file.

    Args:
        name: the file's name, whose ending says which format it has.
        data: its bytes.
        rng: the source of all randomness.

    Returns:
        what was done, and the damaged bytes.
    """
    own = next((several for ending, several in _OF_FORMAT.items() if name.endswith(ending)), ())
    only_own = own is SETTINGS  # they come from a command line, which no disk damages
    mutation = rng.choice(own if own and (only_own or rng.random() < 0.6) else ANY)
    try:
        return mutation.__name__.strip("_"), mutation(data, rng)
    except Exception:  # what is worst no library writes
        return "flip_bits", flip_bits(data, rng)


_OF_FORMAT: dict[str, tuple[Mutation, ...]] = {
    ".settings.json": SETTINGS,
    ".npz": NPZ,
    ".json": JSON,
    ".csv": CSV,
    ".pt": CHECKPOINT,
    ".ckpt": CHECKPOINT,
    ".dcm": DICOM,
    ".nii.gz": NIFTI,
}
