"""Torchvision's Inception v3, for the standard FID; its weights must lie on disk, nothing is downloaded.

They are those that Szegedy et al. 2016 (arXiv:1512.00567) trained, in torchvision's conversion. FIDs of papers are of
another conversion of them, and of 50,000 images: close, not the same.
"""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mlml.evaluations._subject import EvaluationError

FILE = "inception_v3_google-0cc3c7bd.pth"
"""Torchvision's name of the weights: their sha256 begins with what it ends with."""

LABEL = "inception-0cc3c7"
RAW = Path("data/raw")
SIDE = 299
BATCH_SIZE = 32


class Inception:
    """The network up to its last pooling: 2,048 features of an image.

    Raises:
        EvaluationError: the weights are not there, or are others.
    """

    def __init__(self, device: torch.device) -> None:
        from torchvision.models import inception_v3

        content = weights_file().read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if not FILE.endswith(f"-{digest[:8]}.pth"):
            raise EvaluationError(f"{weights_file()}: sha256 must begin as the name ends; got {digest}; load it again")
        network = inception_v3(weights=None, init_weights=False, aux_logits=True, transform_input=False)
        network.load_state_dict(torch.load(weights_file(), map_location="cpu", weights_only=True))
        network.fc = torch.nn.Identity()
        self._network = network.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def features(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Features of images in [0, 1], grey or coloured, of any size."""
        found = []
        for part in torch.split(images, BATCH_SIZE):
            coloured = part.expand(-1, 3, -1, -1)
            large = F.interpolate(coloured, (SIDE, SIDE), mode="bilinear", antialias=True)
            found.append(self._network(2 * large - 1).float())  # it was trained on [-1, 1]
        return torch.cat(found)


def weights_file() -> Path:
    """Return where the weights lie: in data/raw, or where torchvision keeps what it has downloaded.

    Raises:
        EvaluationError: in neither.
    """
    places = [RAW / FILE, Path(torch.hub.get_dir()) / "checkpoints" / FILE]
    for path in places:
        if path.is_file():
            return path
    raise EvaluationError(
        f"inception: needs {FILE}, which is neither in {RAW} nor in {places[1].parent}; fetch it from "
        f"https://download.pytorch.org/models/{FILE} into {RAW}, or leave 'inception' out"
    )
