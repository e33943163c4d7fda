"""Predicted doses as files: native .npz and NIfTI."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events

from monai_vmat.case import write_dose
from monai_vmat.console import say
from monai_vmat.files import write_whole
from monai_vmat.handlers.case_metrics import predicted_gy, predicted_sd_gy
from monai_vmat.handlers.evaluation_record import RESEARCH_ONLY
from monai_vmat.protocol import Protocol
from monai_vmat.training_range import Ranges, warn_of_outside

if TYPE_CHECKING:
    from monai_vmat.dicom.study import Study


class SavePrediction:
    """Write ``<case_id>_pred.npz`` and ``<case_id>_pred.nii.gz`` (float32 Gy) for each case, on the case's own grid.

    Where its standard deviation was predicted, too, the ``.npz`` has it, and ``<case_id>_pred_sd.nii.gz`` is written.

    A case that comes from DICOM gets ``<case_id>_pred.dcm`` as well, an RTDOSE: the only one of the files that says
    whose it is.

    Of a case far outside what the network was trained on the log warns, and all files of it say so.

    Args:
        folder: where the files go.
        protocol: the protocol.
        studies: where cases come from, by case id.
        dose_spacing_mm: voxel size of the RTDOSE; the case's own when None.
        trained_on: ranges of the training's cases (:func:`monai_vmat.training_range.ranges_of`); nothing is judged without.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        protocol: Protocol,
        studies: Mapping[str, Study] | None = None,
        dose_spacing_mm: Sequence[float] | None = None,
        trained_on: Ranges | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.protocol = protocol
        self.studies = studies or {}
        self.dose_spacing_mm = dose_spacing_mm
        self.trained_on = trained_on or {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        for item, out in zip(engine.state.batch, engine.state.output, strict=True):
            pred_gy = predicted_gy(out, self.protocol)
            affine = item["structures"].affine.numpy()
            sd_gy = predicted_sd_gy(out, self.protocol)
            stem = self.folder / f"{item['case_id']}_pred"
            outside = warn_of_outside(item, self.protocol, self.trained_on)
            metadata = {"case_id": item["case_id"], "note": RESEARCH_ONLY, "outside_training_range": outside}
            write_dose(f"{stem}.npz", pred_gy, affine, metadata, sd_gy)
            note = "outside the training's range, research only" if outside else "research only"
            _write_nifti(Path(f"{stem}.nii.gz"), pred_gy, affine, f"predicted dose in Gy, {note}")
            written = f"{stem}.npz, .nii.gz"
            if sd_gy is not None:
                _write_nifti(Path(f"{stem}_sd.nii.gz"), sd_gy, affine, f"standard deviation in Gy, {note}")
                written += f", {stem.name}_sd.nii.gz"
            if item["case_id"] in self.studies:
                from monai_vmat.dicom.rtdose import COMMENT, OUTSIDE_COMMENT, write_rtdose  # pydicom is an extra

                comment = OUTSIDE_COMMENT if outside else COMMENT
                write_rtdose(f"{stem}.dcm", pred_gy, affine, self.studies[item["case_id"]], self.dose_spacing_mm, comment)
                written += ", .dcm (RTDOSE, names the patient)"
            say(f"{item['case_id']}: maximum {pred_gy.max():.1f} Gy -> {written}")


def _write_nifti(path: Path, volume_gy: np.ndarray, affine: np.ndarray, description: str) -> None:
    image = nib.Nifti1Image(volume_gy.astype(np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode()
    with write_whole(path) as temporary, gzip.open(temporary, "wb") as file:
        image.to_stream(file)
