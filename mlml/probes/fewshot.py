"""Few-shot classification of frozen features: episodes of n ways and k shots (Vinyals et al. 2016, arXiv:1606.04080).

Notation: `w` ways, `k` shots and `q` queries of each way, `d` the width of the features. The shots are the support set.
"""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from mlml.config import Declared
from mlml.probes._features import FeatureSet
from mlml.seeds import derive
from mlml.statistics import summarise


class Episode(NamedTuple):
    """Places in the test split; row r is way r."""

    shots: Int[NDArray[np.int64], "w k"]
    queries: Int[NDArray[np.int64], "w q"]


class FewShot:
    """Classes are told from a few shots of each, by the cosine of frozen features; nothing is trained or chosen.

    `test/accuracy` is that of the nearest class mean (Snell et al. 2017, arXiv:1703.05175, Eq. 1; the mean of the
    normalised shots), `test/neighbour_accuracy` that of the nearest shot; of equals the first. Each comes with the
    half-width of its 95 % interval over the episodes, Student's t. Episodes are of the test split, so no label of the
    train split is read, and the classes may be other ones than those of training.
    """

    measures = ("accuracy", "neighbour_accuracy")
    splits = ("test",)

    class Config(Declared):
        """Numbers of the episodes; `encoder` names the experiment whose encoder is evaluated.

        Attributes:
            num_shots: of each way.
            num_queries: of each way.
            order: "drawn" draws the ways, and the images of each, from the seed; "declared" takes the classes as they
                come, `num_ways` at a time, of each the first images as shots and the next as queries, for data whose
                episodes are given, such as Omniglot's runs. Then there are as many episodes as the classes make.
            num_episodes: how many are drawn; 600 where null.
        """

        encoder: str
        num_ways: Annotated[int, Field(ge=2)] = 5
        num_shots: PositiveInt = 1
        num_queries: PositiveInt = 15
        order: Literal["drawn", "declared"] = "drawn"
        num_episodes: Annotated[int, Field(ge=2)] | None = None

        @model_validator(mode="after")
        def _fits(self) -> "FewShot.Config":
            if self.order == "declared" and self.num_episodes is not None:
                raise ValueError(f"num_episodes must be null where order is 'declared'; got {self.num_episodes}")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config

    def evaluate(self, features: FeatureSet, seed: int, folder: Path) -> dict[str, float]:
        """Return the mean accuracies over the episodes, and their intervals."""
        z = F.normalize(features.test.features, dim=1)  # (n, d)
        found = [self.accuracies(z, one) for one in self.episodes(features.test.labels.cpu().numpy(), seed)]
        metrics: dict[str, float] = {}
        for name, values in zip(self.measures, zip(*found, strict=True), strict=True):
            summary = summarise(dict(enumerate(values)))
            mean, interval = summary["mean"], summary["interval95"]
            assert mean is not None
            metrics[f"test/{name}"] = mean
            if interval is not None:  # of a single episode there is none
                metrics[f"test/interval95_of_{name}"] = interval
        return metrics

    def accuracies(self, z: Float[Tensor, "n d"], episode: Episode) -> tuple[float, float]:
        """Shares of the queries whose nearest class mean, and whose nearest shot, is of their way.

        Args:
            z: normalised features of the test split.
            episode: which of them.
        """
        shots, queries = (torch.from_numpy(part).to(z.device) for part in episode)
        support, asked = z[shots], z[queries].flatten(0, 1)  # (w, k, d), (w q, d)
        ways = torch.arange(len(queries), device=z.device).repeat_interleave(queries.shape[1])  # (w q,)
        by_mean = (asked @ F.normalize(support.mean(1), dim=1).T).argmax(1)
        by_shot = (asked @ support.flatten(0, 1).T).argmax(1) // support.shape[1]
        return float((by_mean == ways).double().mean()), float((by_shot == ways).double().mean())

    def episodes(self, labels: Int[NDArray[np.int64], " n"], seed: int) -> list[Episode]:
        """Return the episodes of a split with these labels; drawn, each is a function of the seed and its number.

        Raises:
            ValueError: too few classes, or too few images of one.
        """
        config = self.config
        places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        count = config.num_shots + config.num_queries
        if len(places) < config.num_ways or min(map(len, places)) < count:
            raise ValueError(
                f"fewshot: the test split must have at least {config.num_ways} classes, each of at least {count} "
                f"images (num_shots + num_queries); got {len(places)} classes, the smallest of "
                f"{min(map(len, places))}; lower num_ways or num_queries, or raise the data's test_fraction"
            )
        if config.order == "declared":
            if len(places) % config.num_ways:
                raise ValueError(
                    f"fewshot: with order 'declared' the classes of the test split must be a multiple of num_ways, "
                    f"{config.num_ways}; got {len(places)}"
                )
            ways = [places[start : start + config.num_ways] for start in range(0, len(places), config.num_ways)]
            return [_episode([way[:count] for way in part], config.num_shots) for part in ways]
        drawn = []
        for number in range(config.num_episodes or 600):
            rng = np.random.default_rng(derive(seed, "fewshot", number))
            classes = rng.choice(len(places), config.num_ways, replace=False)
            drawn.append(_episode([rng.choice(places[c], count, replace=False) for c in classes], config.num_shots))
        return drawn


def _episode(ways: list[Int[NDArray[np.int64], " count"]], num_shots: int) -> Episode:
    images = np.stack(ways)  # (w, k + q)
    return Episode(images[:, :num_shots], images[:, num_shots:])
