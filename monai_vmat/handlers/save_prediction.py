"""Predicted doses as files: native .npz and NIfTI."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events

from monai_vmat.case import write_dose
from monai_vmat.console import say
from monai_vmat.files import write_whole
from monai_vmat.handlers.case_metrics import predicted_gy
from monai_vmat.handlers.evaluation_record import RESEARCH_ONLY
from monai_vmat.protocol import Protocol


class SavePrediction:
    """Write ``<case_id>_pred.npz`` and ``<case_id>_pred.nii.gz`` (float32 Gy) for each case, on the case's own grid."""

    def __init__(self, folder: str | Path, *, protocol: Protocol) -> None:
        self.folder = Path(folder)
        self.protocol = protocol

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        for item, out in zip(engine.state.batch, engine.state.output, strict=True):
            pred_gy = predicted_gy(out, self.protocol)
            affine = item["structures"].affine.numpy()
            stem = self.folder / f"{item['case_id']}_pred"
            write_dose(f"{stem}.npz", pred_gy, affine, {"case_id": item["case_id"], "note": RESEARCH_ONLY})
            image = nib.Nifti1Image(pred_gy.astype(np.float32), affine)
            image.header.set_xyzt_units("mm")
            image.header["descrip"] = b"predicted dose in Gy, research only"
            with write_whole(f"{stem}.nii.gz") as temporary, gzip.open(temporary, "wb") as file:
                image.to_stream(file)
            say(f"{item['case_id']}: maximum {pred_gy.max():.1f} Gy -> {stem}.npz, {stem}.nii.gz")
