"""The conditioned network as an ONNX file."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monai_vmat.errors import InputError
from monai_vmat.files import write_whole
from monai_vmat.handlers.evaluation_record import RESEARCH_ONLY
from monai_vmat.networks.film_unet import FiLMUNet

logger = logging.getLogger(__name__)

OPSET = 20


def export_onnx(network: FiLMUNet | torch.nn.ModuleList, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write ``network`` as one ONNX file of opset 20, for any batch and any image size.

    Inputs of the graph: ``image`` (batch, in_channels, x, y, z) and ``constraints`` (batch, constraint_dim), output ``pred``
    (batch, 1, x, y, z): dose as a fraction of the primary prescription; all float32. Padding is inside, as
    in the network. MONAI's ``onnx_export`` knows of one input only: it would freeze the constraints.

    Args:
        network: the network with its weights.
        path: the file to write.
        metadata: the bundle's metadata; kept in the file, under ``metadata.json`` of its metadata properties.

    Raises:
        InputError: when ``onnx`` or ``onnxscript`` is not installed, and for an ensemble.
    """
    if isinstance(network, torch.nn.ModuleList):
        raise InputError(path, "several weight files were named, a file holds one network", "Name one with --weights FILE")
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise InputError(path, f"writing ONNX files needs the package {package}", "pip install onnx onnxscript")
    # Any sizes that differ from each other, and whose coarsest level has more than one voxel along each axis, will do as an
    # example: the exporter takes a 1 for a constant.
    image = torch.zeros(2, network.in_channels, *(16 * network.fold + more for more in (1, 2, 3)))
    constraints = torch.zeros(2, network.constraint_dim)
    program = torch.onnx.export(
        network.cpu().eval(),
        (image, constraints),
        input_names=["image", "constraints"],
        output_names=["pred"],
        dynamic_shapes=({0: "batch", 2: "x", 3: "y", 4: "z"}, {0: torch.export.Dim.DYNAMIC}),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None  # it is None only for the exporter that PyTorch deprecates
    given, cropped = program.model.graph.inputs[0].shape, program.model.graph.outputs[0].shape
    assert given is not None and cropped is not None
    for axis in (2, 3, 4):  # "x" in place of the least of x and its next multiple
        cropped[axis] = given[axis]
    program.model.doc_string = RESEARCH_ONLY
    program.model.metadata_props["metadata.json"] = json.dumps(metadata)
    with write_whole(path) as temporary:
        program.save(temporary, external_data=False)
    logger.info(f"Wrote {path}")
