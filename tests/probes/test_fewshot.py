import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import t

from mlml.config import DeclarationError
from mlml.declaration import resolve
from mlml.declaration_faults import measured
from mlml.probes._features import FeatureSet, Labelled
from mlml.probes.fewshot import Episode, FewShot


def split(counts=(7, 6, 8, 6, 9), d=4, seed=0):
    """Classes of these sizes around places of their own, in disorder."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)) * 2, counts))  # labels 1, 3, ... are of no image
    x = rng.normal(size=(len(labels), d)) * 0.8 + rng.normal(size=(2 * len(counts), d))[labels]
    return Labelled(torch.from_numpy(x).float(), torch.from_numpy(labels))


def feature_set(test):
    empty = Labelled(torch.full((1, 4), math.nan), torch.zeros(1, dtype=torch.long))
    return FeatureSet(empty, empty, test, 10)  # other splits are not read


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(a * a)) / math.sqrt(sum(b * b))


def slow_accuracies(x, episode):
    """Snell et al. 2017, Eq. 1 of normalised shots, and the nearest shot; one query at a time."""
    by_mean = by_shot = total = 0
    for way, queries in enumerate(episode.queries):
        for query in queries:
            means = [sum(x[shot] / np.linalg.norm(x[shot]) for shot in shots) / len(shots) for shots in episode.shots]
            near = [cosine(x[query], mean) for mean in means]
            nearest = [max(cosine(x[query], x[shot]) for shot in shots) for shots in episode.shots]
            by_mean += near.index(max(near)) == way
            by_shot += nearest.index(max(nearest)) == way
            total += 1
    return by_mean / total, by_shot / total


@pytest.mark.parametrize(("shots", "queries"), [(1, 2), (3, 3)])
def test_episodes_equal_the_slow_loop(shots, queries, tmp_path):
    test = split()
    probe = FewShot(FewShot.Config(encoder="e", num_ways=3, num_shots=shots, num_queries=queries, num_episodes=40))
    episodes = probe.episodes(test.labels.numpy(), 5)
    slow = np.array([slow_accuracies(test.features.double().numpy(), one) for one in episodes])
    metrics = probe.evaluate(feature_set(test), 5, tmp_path)
    half = t.ppf(0.975, 39) * slow.std(0, ddof=1) / math.sqrt(40)
    assert metrics == pytest.approx(
        {
            "test/accuracy": slow[:, 0].mean(),
            "test/interval95_of_accuracy": half[0],
            "test/neighbour_accuracy": slow[:, 1].mean(),
            "test/interval95_of_neighbour_accuracy": half[1],
        }
    )
    assert 0.34 < metrics["test/accuracy"] < 1
    if shots == 1:
        assert metrics["test/accuracy"] == metrics["test/neighbour_accuracy"]
    else:
        assert metrics["test/accuracy"] != metrics["test/neighbour_accuracy"]


def test_an_episode_is_drawn_without_repeats_and_from_the_seed():
    test = split()
    labels = test.labels.numpy()
    probe = FewShot(FewShot.Config(encoder="e", num_ways=3, num_shots=2, num_queries=4, num_episodes=30))
    episodes = probe.episodes(labels, 0)
    for episode in episodes:
        images = np.concatenate([episode.shots, episode.queries], 1)
        assert images.shape == (3, 6)
        assert len(np.unique(images)) == 18
        ways = labels[images]
        assert (ways == ways[:, :1]).all()
        assert len(set(ways[:, 0])) == 3
    assert {label for episode in episodes for label in labels[episode.shots[:, 0]]} == {0, 2, 4, 6, 8}
    again, other = probe.episodes(labels, 0), probe.episodes(labels, 1)
    assert all(np.array_equal(a.shots, b.shots) for a, b in zip(episodes, again, strict=True))
    assert any(not np.array_equal(a.shots, b.shots) for a, b in zip(episodes, other, strict=True))
    assert len(FewShot(FewShot.Config(encoder="e", num_ways=2, num_queries=1)).episodes(labels, 0)) == 600


def test_declared_episodes_are_taken_as_they_come():
    labels = np.array([3, 3, 5, 5, 5, 7, 7, 8, 8])
    probe = FewShot(FewShot.Config(encoder="e", num_ways=2, num_shots=1, num_queries=1, order="declared"))
    found = probe.episodes(labels, 0)
    expected = [
        Episode(np.array([[0], [2]]), np.array([[1], [3]])),
        Episode(np.array([[5], [7]]), np.array([[6], [8]])),
    ]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.shots, other.shots)
        assert np.array_equal(one.queries, other.queries)


def test_of_equal_ways_the_first_is_taken():
    z = F.normalize(torch.ones(4, 2), dim=1)
    probe = FewShot(FewShot.Config(encoder="e", num_ways=2, num_shots=1, num_queries=1))
    assert probe.accuracies(z, Episode(np.array([[0], [1]]), np.array([[2], [3]]))) == (0.5, 0.5)


def test_a_comparison_knows_that_it_measures_test_alone():
    entry = {"method": "fewshot", "dataset": "d", "encoder": "e"}
    assert measured(resolve("probe", "f", entry), {}) == ["test/accuracy", "test/neighbour_accuracy"]


def test_refusals():
    labels = split().labels.numpy()
    for numbers in ({"num_ways": 6, "num_queries": 1}, {"num_ways": 2, "num_queries": 6}):
        with pytest.raises(ValueError, match=r"fewshot: .* got 5 classes, the smallest of 6; lower num_ways"):
            FewShot(FewShot.Config(encoder="e", **numbers)).episodes(labels, 0)
    with pytest.raises(ValueError, match="must be a multiple of num_ways, 2; got 5"):
        FewShot(FewShot.Config(encoder="e", num_ways=2, num_queries=1, order="declared")).episodes(labels, 0)
    entry = {"method": "fewshot", "dataset": "d", "encoder": "e", "order": "declared", "num_episodes": 5}
    with pytest.raises(DeclarationError, match="num_episodes must be null where order is 'declared'; got 5"):
        resolve("probe", "f", entry)
