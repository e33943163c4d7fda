"""The cohort's card, and that the shipped cohort is what its card says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydosert", reason="the extra 'planning' is not installed")

from monai_vmat.case import Case, lps_affine, read_case  # noqa: E402
from monai_vmat.datalist import SECTIONS, load_datalist  # noqa: E402
from monai_vmat.planning import card  # noqa: E402
from monai_vmat.planning.plan import gates  # noqa: E402
from monai_vmat.protocol import load_protocol  # noqa: E402

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "cohort"
PROTOCOL = load_protocol("prostate_sib")


@pytest.fixture(scope="module")
def cohort() -> list[Case]:
    content = load_datalist(SHIPPED)
    return [read_case(item["case"], PROTOCOL) for section in SECTIONS for item in content[section]]


def test_half_dose_distance_by_hand():
    """70 Gy up to the target's last voxel, then 10 Gy less each voxel of 3 mm: 35 Gy is 3.5 voxels behind its centre."""
    shape = (9, 30, 9)
    target = np.zeros(shape, bool)
    target[3:6, 5:12, 2:7] = True
    dose = np.zeros(shape, np.float32) + (70 - 10 * (np.arange(30) - 11).clip(0, 7)).astype(np.float32)[:, None]
    case = Case("a", "prostate_sib", np.zeros(shape, np.int16), lps_affine((3, 3, 3)), {"PTV70": target}, {"PTV70": 70.0},
                np.zeros(13, np.float32), dose)  # fmt: skip
    assert card.half_dose_distance_mm(case) == pytest.approx(3 * (3.5 - 0.5))


def test_shipped_files_are_those_that_were_made():
    lines = (SHIPPED / card.CHECKSUMS).read_text().split("\n")[:-1]
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {p.name for p in SHIPPED.iterdir()} - {card.CHECKSUMS}
    assert files == set(sums)
    for name, digest in sums.items():
        assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == digest, name
    sizes = [p.stat().st_size for p in SHIPPED.iterdir()]
    assert max(sizes) < 1e6 and sum(sizes) < 35e6


def test_shipped_cohort_is_large_and_split_by_anatomy(cohort):
    assert len(cohort) >= 56 and len({c.patient for c in cohort}) >= 24
    content = load_datalist(SHIPPED)
    patients = [{item["patient"] for item in content[section]} for section in SECTIONS]
    assert sum(map(len, patients)) == len(set.union(*patients)) and min(map(len, patients)) >= 3


def test_shipped_plans_pass_every_gate(cohort):
    for case in cohort:
        missed = [g for g in gates(case.dose_gy, case.structures, case.prescription_gy["PTV56"]) if not g.passed]
        assert not missed, (case.case_id, missed)
        overlap = (case.structures["Rectum"] & case.structures["PTV56"]).sum() / case.structures["Rectum"].sum()
        assert 0.05 <= overlap <= 0.15, case.case_id


def test_dose_falls_off_behind_the_prostate(cohort):
    near = [card.half_dose_distance_mm(case) <= 15 for case in cohort]
    assert np.mean(near) > 0.5


def test_objectives_are_recorded_and_obeyed(cohort):
    vectors = np.stack([c.constraints for c in cohort])
    assert (np.ptp(vectors, axis=0) > 0).sum() == 9
    mean = {(c.patient, c.metadata["plan"]["objectives"], o): float(c.dose_gy[c.structures[o]].mean())
            for c in cohort for o in ("Rectum", "Bladder")}  # fmt: skip
    for patient in {c.patient for c in cohort}:
        assert mean[patient, "rectum-first", "Rectum"] < mean[patient, "bladder-first", "Rectum"], patient
        assert mean[patient, "rectum-first", "Bladder"] > mean[patient, "bladder-first", "Bladder"], patient


def test_the_card_can_be_written_again(tmp_path, cohort):
    """From the case files alone, the shipped card comes out letter for letter."""
    for path in [*SHIPPED.glob("*.npz"), SHIPPED / "datalist.json"]:
        (tmp_path / path.name).symlink_to(path)
    header, rows = card.write_card(tmp_path, 2026)
    assert (tmp_path / card.FILE_NAME).read_text() == (SHIPPED / card.FILE_NAME).read_text()
    assert header[0] == "metric" and len(rows) > 10
    assert len(list(tmp_path.glob("*.png"))) == 3
