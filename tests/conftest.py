"""Shared fixtures: the protocols, small synthetic patients, v2.x files and, where it is there, OpenKBP."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hypothesis
import matplotlib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_vmat.case import Case
from monai_vmat.handlers.case_metrics import CaseMetrics
from monai_vmat.masks import pack_masks
from monai_vmat.protocol import Protocol, load_protocol
from monai_vmat.transforms.load_case import case_masks

from .dicom_set import write_dicom_set as _write_dicom_set
from .synthetic_case import make_case as _make_case
from .synthetic_case import write_v2 as _write_v2


# The same examples every time; a slow machine is no failure.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _modest_machine():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _log_level_of_its_own():
    """A bundle run in the tests' own process has set what all of it logs; pymedphys cannot format what it logs at INFO."""
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def _signals_of_its_own():
    """A command of ours that runs in the tests' own process hears Ctrl-C and SIGTERM in its own way until it has ended."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="session")
def prostate() -> Protocol:
    return load_protocol("prostate_sib")


@pytest.fixture(scope="session")
def head_and_neck() -> Protocol:
    return load_protocol("openkbp_head_and_neck")


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    """``make_case(protocol, ...)``: a small synthetic patient. Another ``seed`` is another anatomy; ``absent`` is left out."""
    return _make_case


@pytest.fixture(scope="session")
def write_v2(prostate: Protocol) -> Callable[..., Case]:
    """``write_v2(path, ...)``: see :func:`tests.synthetic_case.write_v2`; the protocol is the prostate's by default."""
    return partial(_write_v2, protocol=prostate)


@pytest.fixture(scope="session")
def write_dicom_set() -> Callable[..., Path]:
    """``write_dicom_set(case, folder, protocol, ...)``: the files of a DICOM-RT export, see tests/dicom_set.py."""
    return _write_dicom_set


@pytest.fixture(scope="session")
def evaluate_cases() -> Callable[..., Engine]:
    """``evaluate_cases(protocol, cases, shift_gy, *handlers)``: an evaluator whose predictions are the doses plus a shift."""

    def evaluate(protocol: Protocol, cases: list[Case], shift_gy: float, *handlers) -> Engine:
        def step(engine: Engine, case: Case) -> list[dict]:
            structures = torch.as_tensor(pack_masks(case_masks(case, protocol), protocol))[None]
            located = MetaTensor(structures, affine=torch.as_tensor(case.affine))
            spacing = torch.tensor(case.spacing_mm)
            prescription = torch.tensor([case.prescription_gy.get(t.name, 0.0) for t in protocol.targets])
            item = {"case_id": case.case_id, "patient": case.patient, "spacing_mm": spacing, "prescription_gy": prescription}
            engine.state.batch = [item | {"structures": located, "constraints": torch.as_tensor(case.constraints)}]
            dose = torch.as_tensor(case.dose_gy / np.float32(protocol.rx_gy))[None]
            label = {"dose": dose, "structures": structures, "prescription_gy": prescription, "spacing_mm": spacing}
            return [{"pred": dose + shift_gy / protocol.rx_gy, "label": label}]

        engine = Engine(step)
        CaseMetrics(protocol).attach(engine, "val/mae_gy")
        for handler in handlers:
            handler.attach(engine)
        engine.run(cases)
        return engine

    return evaluate


@pytest.fixture(scope="session")
def openkbp_dir() -> Path:
    """The folder of packed OpenKBP patients (``train/``, ``validation/``)."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "openkbp"
    folder = Path(os.environ.get("OPENKBP_PACKED", beside))
    if not any(folder.glob("train/pt_*.npz")):
        pytest.skip(f"no OpenKBP patients in {folder} (set OPENKBP_PACKED)")
    return folder
