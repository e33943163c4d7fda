"""The embedded cohort: which anatomies and plans it has, and their case files."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import torch

from monai_vmat.case import Case, lps_affine, write_case
from monai_vmat.errors import InputError
from monai_vmat.planning.beam_model import FRACTIONS, MACHINE
from monai_vmat.planning.objectives import PTV70_GY, Objectives
from monai_vmat.planning.phantom import Phantom, make_phantom
from monai_vmat.planning.plan import Plan, Planner, gates
from monai_vmat.protocol import load_protocol

PROTOCOL = "prostate_sib"
SPLIT = (0.625, 0.125, 0.25)  # of the anatomies: training, validation, test
_SECTORS = (9, 15)  # of the first trial, and of the second where a gate was missed
_ANATOMIES_TRIED = 4
_EVERY_THIRD = 3  # anatomies that have a third plan


def planned_objectives(seed: int, index: int) -> list[Objectives]:
    """The two or three sets of objectives that anatomy ``index`` of cohort ``seed`` is planned under."""
    draw = np.random.default_rng([seed, index]).uniform
    found = [Objectives("rectum-first", round(draw(0.8, 1.0), 3)), Objectives("bladder-first", round(draw(0.0, 0.2), 3))]
    if index % _EVERY_THIRD == 0:
        found.append(Objectives("balanced", round(draw(0.35, 0.65), 3), ptv56_gy=50.4))
    return found


def case_ids(seed: int, index: int) -> list[str]:
    """Names of an anatomy's cases, known before they are made."""
    return [f"{patient_id(index)}_{objectives.name}" for objectives in planned_objectives(seed, index)]


def patient_id(index: int) -> str:
    return f"phantom_{index:03d}"


def finished(index: int, seed: int, out: Path) -> bool:
    """Whether all cases of an anatomy are there."""
    return all((out / f"{name}.npz").exists() for name in case_ids(seed, index))


def make_anatomy(index: int, seed: int, out: Path) -> None:
    """Draw anatomy ``index``, plan it under all its objectives, and write one case file each.

    A plan that misses a gate is made again from other windows; an anatomy on which a plan misses it twice is drawn anew. Cases
    are written when all plans have passed. What was missed before stands in the cases' metadata.

    Raises:
        InputError: when several anatomies failed.
    """
    torch.set_num_threads(1)  # cases run side by side, and sums come out the same wherever they run
    failed: list[str] = []
    for trial in range(_ANATOMIES_TRIED):
        phantom_seed = int(np.random.SeedSequence([seed, index, trial]).generate_state(1)[0])
        phantom = make_phantom(phantom_seed)
        planner = Planner(phantom, phantom_seed)
        plans = []
        for objectives in planned_objectives(seed, index):
            plan = _passing_plan(planner, objectives, failed)
            if plan is None:
                break
            plans.append(plan)
        else:
            for plan in plans:
                case = _case(phantom, plan, index, phantom_seed, failed)
                write_case(case, out / f"{case.case_id}.npz", smallest=True)
            return
    raise InputError(
        patient_id(index), f"no anatomy of {_ANATOMIES_TRIED} could be planned: {'; '.join(failed)}", "Use another --seed"
    )


def _passing_plan(planner: Planner, objectives: Objectives, failed: list[str]) -> Plan | None:
    for sectors in _SECTORS:
        plan = planner.plan(objectives, sectors)
        missed = [g for g in gates(plan.dose_gy, planner.phantom.structures, objectives.ptv56_gy) if not g.passed]
        if not missed:
            return plan
        failed.append(f"{objectives.name}: " + ", ".join(f"{g.name} {g.value:.1f} (limit {g.limit:.1f})" for g in missed))
    return None


def _case(phantom: Phantom, plan: Plan, index: int, phantom_seed: int, failed: list[str]) -> Case:
    protocol = load_protocol(PROTOCOL)
    objectives = plan.objectives
    prescription = {"PTV70": PTV70_GY, "PTV56": objectives.ptv56_gy}
    return Case(
        case_id=f"{patient_id(index)}_{objectives.name}",
        patient=patient_id(index),
        protocol=PROTOCOL,
        ct_hu=phantom.ct_hu,
        affine=lps_affine(phantom.spacing_mm),
        structures={name: phantom.structures[name] for name in protocol.structure_names},
        prescription_gy=prescription,
        constraints=protocol.encode_constraints(prescription, objectives.stated),
        dose_gy=plan.dose_gy,
        metadata={
            "plan": {
                "objectives": objectives.name,
                "lean": objectives.lean,
                "stated": objectives.stated,
                "monitor_units_per_fraction": round(plan.monitor_units, 1),
                "fractions": FRACTIONS,
                "machine": MACHINE,
                "engine": f"pydosert {importlib.metadata.version('pydosert')} PencilDepthEngine",
                "phantom_seed": phantom_seed,
                "sectors": plan.sectors,
                "missed_before": failed,
                "gates": {g.name: round(g.value, 3) for g in gates(plan.dose_gy, phantom.structures, objectives.ptv56_gy)},
            },
            "note": "synthetic phantom and plan for research; not for clinical use",
        },
    )
