#!/usr/bin/env python3
"""How fast a whole case of 300 x 300 x 160 voxels is predicted, against MONAI's plain SlidingWindowInferer in float32.

Both get the same image, cropped to the body as the bundle crops it, and the same weights. An image smaller than the window is
padded as in training, by its edge (MONAI would take zeros, which mean water on a contour: other doses by several Gy). The
plain inferer runs float32 windows with an overlap of 0.5; ours bfloat16, channels-last, windows without dose region left out,
at the same overlap and at the bundle's 0.25. Doses are compared inside the dose region."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import records
import torch
from large_case import large_cases
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, CropForegroundd

from monai_vmat.case import write_case
from monai_vmat.console import run_command
from monai_vmat.engines import DoseInferer, memory_format
from monai_vmat.masks import DOSE_REGION, unpack_mask
from monai_vmat.protocol import load_protocol
from monai_vmat.transforms.compose_image import ComposeImaged
from monai_vmat.transforms.encode_constraints import EncodeConstraintsd
from monai_vmat.transforms.load_case import LoadCased
from monai_vmat.transforms.signed_distance import SignedDistanced
from monai_vmat.weights import build_network, load_weights, trained_window

EXAMPLE = "python benchmarks/inference.py --weights runs/demo/checkpoints/last.pt"
TARGET, EQUAL_GY = 2.0, 0.1


def main() -> int:
    parser = records.command_line(__doc__, EXAMPLE, repeats=1)
    records.add_network_options(parser)
    parser.add_argument("--weights", type=Path, required=True, help="a trained checkpoint; its width is used")
    parser.add_argument(
        "--window",
        type=int,
        nargs=3,
        help="voxels (default: that of the weights' training, 128 128 128 where it saw whole patients)",
    )
    options = parser.parse_args()
    window = options.window or trained_window(options.weights, -1)
    window = [128, 128, 128] if window == -1 else window
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    protocol = load_protocol("prostate_sib")
    width = build_network(options.weights, protocol).settings["base_channels"]

    item = prepared(protocol)
    image, constraints = item["image"].as_tensor()[None].float().to(device), item["constraints"][None].float().to(device)
    start, shape = item["foreground_start_coord"], image.shape[2:]
    cut = tuple(slice(int(s), int(s) + n) for s, n in zip(start, shape, strict=True))
    region = unpack_mask(item["structures"].as_tensor(), DOSE_REGION, protocol)[None, :, *cut].to(device)

    def predict(plain: bool, overlap: float):
        network = build_network(options.weights, protocol)
        network = network.to(device, memory_format=memory_format(not plain)).eval()
        load_weights(options.weights, network, device)
        doses: list[torch.Tensor] = []

        def run() -> None:
            with torch.no_grad():
                if plain:
                    inferer = SlidingWindowInferer(window, 1, overlap, mode="gaussian", padding_mode="replicate")
                    dose = inferer(image, lambda windows: network(windows, constraints))
                else:
                    inferer = DoseInferer(window, overlap=overlap, amp=True, channels_last=True)
                    dose = inferer(image, network, constraints=constraints, region=region)
            doses[:] = [dose.cpu()]

        return run, doses

    pieces = {
        "MONAI, float32, overlap 0.5": predict(True, 0.5),
        "ours, overlap 0.5": predict(False, 0.5),
        "ours, overlap 0.25": predict(False, 0.25),
    }
    seconds = records.interleaved({name: run for name, (run, _) in pieces.items()}, options.repeats, warm_up=0)
    peer = "MONAI, float32, overlap 0.5"
    inside, reference = region.cpu(), pieces[peer][1][0]
    rows = []
    for name, (_, doses) in pieces.items():
        difference = protocol.rx_gy * (doses[0] - reference)[inside].abs()
        tail = float(difference.kthvalue(max(1, round(0.99 * difference.numel()))).values)
        rows.append([name, statistics.median(seconds[name]), float(difference.mean()), tail, float(difference.max())])
    found = []
    for name in list(pieces)[1:]:
        mean = next(row[2] for row in rows if row[0] == name)
        equal = "equal" if mean <= EQUAL_GY else "NOT equal"
        what = f"predicting a whole case, {peer} / {name} ({equal} within {EQUAL_GY} Gy on average: {mean:.3f} Gy)"
        found.append(records.ratio(what, seconds[peer], seconds[name], TARGET))
    records.leave(
        options,
        f"inference_{device.type}",
        f"A case of 300 x 300 x 160, cropped to {' x '.join(map(str, shape))}; width {width}, "
        f"windows {' x '.join(map(str, window))}, {device.type}.",
        ["inferer", "median s", "mean difference Gy", "99th percentile", "most"],
        rows,
        found,
    )
    return 0


def prepared(protocol) -> dict:
    """The large case as the bundle's inference prepares it."""
    steps = Compose(
        [
            LoadCased(protocol=protocol),
            SignedDistanced(protocol=protocol),
            EncodeConstraintsd(protocol=protocol),
            ComposeImaged(protocol=protocol),
            CropForegroundd("image", "structures", lambda bits: unpack_mask(bits, DOSE_REGION, protocol), allow_smaller=True),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.npz"
        write_case(large_cases(protocol, 1)[0], path)
        return steps({"case": str(path)})


if __name__ == "__main__":
    run_command(main)
