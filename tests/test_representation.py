"""Measures of representations, against slow loops of the papers' equations and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlml import representation


def features(n=24, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def unit(x):
    return np.stack([row / np.sqrt(sum(v * v for v in row)) for row in x.double().numpy()])


class TestEffectiveRank:
    def test_it_is_the_entropy_of_the_singular_values(self):
        x = features()
        values = np.sqrt(np.linalg.eigvalsh(x.double().numpy().T @ x.double().numpy()))
        entropy = 0.0
        for value in values:
            p = value / sum(values)
            entropy -= p * math.log(p)
        assert float(representation.effective_rank(x)) == pytest.approx(math.exp(entropy), rel=1e-9)

    @given(st.integers(1, 8))
    def test_equal_singular_values_are_counted(self, rank):
        x = torch.zeros(20, 8)
        x[:rank, :rank] = 3 * torch.eye(rank)
        assert float(representation.effective_rank(x)) == pytest.approx(rank, rel=1e-9)

    def test_features_that_are_all_the_same_have_rank_1_and_those_of_0_have_none(self):
        assert float(representation.effective_rank(torch.ones(10, 4))) == pytest.approx(1, abs=1e-6)
        assert float(representation.effective_rank(torch.zeros(10, 4))) == 0


def test_deviation_is_1_of_even_directions_and_0_of_one():
    even = torch.cat([torch.eye(5), -torch.eye(5)])
    assert float(representation.deviation(even)) == pytest.approx(1, rel=1e-9)
    assert float(representation.deviation(torch.ones(8, 5) * torch.arange(1, 9)[:, None])) == pytest.approx(0, abs=1e-7)
    rows = unit(features())
    loop = sum(math.sqrt(sum((v - sum(c) / len(c)) ** 2 for v in c) / len(c)) for c in rows.T) / 6
    assert float(representation.deviation(features())) == pytest.approx(loop * math.sqrt(6), rel=1e-9)


def test_alignment_and_uniformity_are_those_of_the_paper():
    first, second = features(seed=1), features(seed=2)
    u, v = unit(first), unit(second)
    loop = sum(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for x, y in zip(u, v, strict=True)) / len(u)
    assert float(representation.alignment(first, second)) == pytest.approx(loop, rel=1e-9)
    pairs = [math.exp(-2 * sum((u[i] - u[j]) ** 2)) for i in range(len(u)) for j in range(i)]
    assert float(representation.uniformity(first)) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-9)
    assert float(representation.alignment(first, 7 * first)) == pytest.approx(0, abs=1e-12)
    assert float(representation.uniformity(torch.ones(4, 3))) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="needs at least 2 features; got 1"):
        representation.uniformity(torch.ones(1, 3))


class TestNeighbours:
    def test_they_are_those_of_a_loop(self):
        x = features()
        found = representation.neighbours(x, x, 3, is_same=True)
        u = unit(x)
        for i, (index, similarity) in enumerate(zip(found.places.tolist(), found.similarity.tolist(), strict=True)):
            order = sorted((j for j in range(len(u)) if j != i), key=lambda j: -float(u[i] @ u[j]))
            assert index == order[:3]
            assert similarity == pytest.approx([float(u[i] @ u[j]) for j in order[:3]], abs=1e-6)

    def test_outliers_are_far_from_their_kth_neighbour(self):
        x = torch.nn.functional.normalize(features(40, 3), dim=1) * 0.05 + torch.tensor([1.0, 0, 0])
        x[7] = torch.tensor([-1.0, 0, 0])
        scores = representation.outlyingness(x, 5)
        assert int(scores.argmax()) == 7
        u = unit(x)
        distances = sorted(float(np.linalg.norm(u[3] - u[j])) for j in range(40) if j != 3)
        assert float(scores[3]) == pytest.approx(distances[4], abs=1e-3)

    @pytest.mark.parametrize(("k", "is_same"), [(0, False), (24, True), (25, False)])
    def test_more_than_there_are_is_refused(self, k, is_same):
        with pytest.raises(ValueError, match=f"k must be in .*; got {k}"):
            representation.neighbours(features(), features(), k, is_same)


class Doubling:
    """An encoder whose features are the pixels."""

    feature_dim = 48

    def encode(self, images):
        return images.flatten(1)


def test_what_is_measured_of_an_encoder_repeats():
    images = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    first = representation.measure(Doubling(), images, 0)
    assert first == representation.measure(Doubling(), images, 0)
    assert first["effective_rank"] == pytest.approx(float(representation.effective_rank(images.flatten(1))))
    assert 0 < first["alignment"] != representation.measure(Doubling(), images, 1)["alignment"]
