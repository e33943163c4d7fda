"""The first three stages of VGG16, with the weights that torchvision's users know, without torchvision."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from monai_vmat.errors import InputError
from monai_vmat.weights import check_and_load, load_checkpoint

WEIGHTS_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
# torch hub's rule: the file's name ends in the first digits of its SHA-256.
WEIGHTS_SHA256 = "397923af"

# Output channels of the convolutions; M pools by 2.
_LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256)
# Where relu1_2, relu2_2 and relu3_3 stand in ``features``.
_TAPS = (3, 8, 15)


class VGG16Trunk(nn.Module):
    """VGG16 (Simonyan and Zisserman 2015, arXiv:1409.1556) up to relu3_3: 1,735,488 frozen parameters.

    The parameters are named as torchvision names them (``features.0.weight``, ...).

    Args:
        weights: torchvision's file ``vgg16-397923af.pth``; None takes it from torch hub's cache or, where it is not there,
            from its official address.
        sha256: what the file's SHA-256 must begin with.

    Shapes: (N, 3, H, W), normalised as ImageNet, H and W at least 4, gives relu1_2 (N, 64, H, W), relu2_2
    (N, 128, H / 2, W / 2) and relu3_3 (N, 256, H / 4, W / 4).

    Raises:
        InputError: when the weights cannot be had or are not the stated ones. Random weights are never used.
    """

    def __init__(self, weights: str | Path | None = None, sha256: str = WEIGHTS_SHA256) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _LAYERS:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=False)]
                channels = width
        self.features = nn.Sequential(*layers)
        path = _find_weights() if weights is None else Path(weights)
        _check(path, str(sha256))
        stored = load_checkpoint(path)
        check_and_load(path, self, {name: stored[name] for name in self.state_dict() if name in stored})
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        found = []
        for i, layer in enumerate(self.features):
            image = layer(image)
            if i in _TAPS:
                found.append(image)
        return found


def _find_weights() -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_URL.rsplit("/", 1)[-1]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(WEIGHTS_URL, str(path), hash_prefix=WEIGHTS_SHA256)
        except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a wrong hash is a RuntimeError
            raise InputError(
                path,
                f"the weights of VGG16 are not there and cannot be downloaded ({error})",
                f"Download {WEIGHTS_URL} on a machine that has a network and name the file: --vgg_weights FILE",
            ) from error
    return path


def _check(path: Path, sha256: str) -> None:
    mend = f"Download {WEIGHTS_URL} again, or state another file's hash: --vgg_sha256 HASH"
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(path, f"the weights of VGG16 cannot be read ({error.strerror or error})", mend) from error
    if len(sha256) < 8 or not found.startswith(sha256.lower()):
        raise InputError(path, f"has the SHA-256 {found}, expected one that begins with {sha256} (8 digits or more)", mend)
