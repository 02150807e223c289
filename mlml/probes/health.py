"""How healthy the features of an encoder are, in numbers and in pictures; nothing is trained."""

from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from mlml import representation
from mlml.config import Declared
from mlml.data.batches import split_batches
from mlml.data.dataset import PreparedData
from mlml.method import Encodes, Method
from mlml.probes._features import check

BATCH_SIZE = 256


class Health:
    """Effective rank, deviation, alignment and uniformity of the features of test images (`mlml.representation`).

    And pictures: `maps.png`, the features in two dimensions, coloured by class; `neighbours.png`, some images with the
    nearest others; `density.png`, how far images are from their k-th neighbour, with the farthest and the nearest of
    them in `outliers.png`.
    """

    measures = ("effective_rank", "deviation", "alignment", "uniformity")
    splits = ("test",)
    inputs = "images"

    class Config(Declared):
        """What is looked at; `encoder` names the experiment whose encoder is evaluated.

        Attributes:
            num_images: of the test split, spread evenly over it; all of a smaller split.
            maps: principal components, t-SNE (van der Maaten & Hinton 2008), UMAP (McInnes et al. 2018,
                arXiv:1802.03426).
            num_neighbours: k of the density, and images beside each of `neighbours.png`.
            num_queries: images whose neighbours are shown.
        """

        encoder: str
        num_images: Annotated[int, Field(ge=16)] = 1000
        maps: tuple[Literal["pca", "tsne", "umap"], ...] = ("pca", "tsne", "umap")
        num_neighbours: Annotated[int, Field(ge=1, le=12)] = 8
        num_queries: PositiveInt = 8

    def __init__(self, config: Config) -> None:
        self.config = config

    @torch.no_grad()
    def evaluate(
        self, encoder: Method, data: PreparedData, seed: int, folder: Path, device: torch.device
    ) -> dict[str, float]:
        """Return the measures, and leave the pictures in `folder`.

        Raises:
            ValueError: the test split is too small for the neighbours.
        """
        from mlml import representation_figures as figures

        check(encoder, data)
        assert isinstance(encoder, Encodes)
        config = self.config
        test = split_batches(data, "test", BATCH_SIZE, seed, device)
        spread = torch.linspace(0, test.size - 1, min(test.size, config.num_images), dtype=torch.float64)
        images, labels = test.at(spread.round().long())
        features = _encoded(encoder, images)
        classes = [data.spec.classes[label] for label in labels.tolist()]
        shown = images.float().cpu().numpy()
        if config.maps:
            figures.write_maps(features.cpu().numpy(), classes, config.maps, seed, folder / "maps.png")
        found = representation.neighbours(features, features, config.num_neighbours, is_same=True)
        queries = torch.linspace(0, len(images) - 1, min(len(images), config.num_queries)).round().long()
        figures.write_neighbours(shown, classes, queries.numpy(), found.places.cpu().numpy(), folder / "neighbours.png")
        scores = representation.outlyingness(features, config.num_neighbours).cpu().numpy()
        figures.write_density(scores, config.num_neighbours, folder / "density.png")
        figures.write_outliers(shown, scores, folder / "outliers.png")
        measured = representation.measure(encoder, images, seed)
        return {f"test/{name}": value for name, value in measured.items()}


def _encoded(encoder: Encodes, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    return torch.cat([encoder.encode(part).float() for part in torch.split(images, BATCH_SIZE)])
