import itertools
import math

import numpy as np
import pytest
import torch
from specs import make_spec

from mlml.config import DeclarationError
from mlml.data.batches import Batch
from mlml.declaration import check, resolve
from mlml.pretext import siamese
from mlml.pretext.siamese import LOSSES, Siamese, squared_distances

MARGIN = {"contrastive": 1.1, "semi_hard": 0.3, "batch_hard": 0.3}


def distance(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a / math.sqrt(sum(a * a)), b / math.sqrt(sum(b * b))
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def slow_contrastive(z, labels, margin):
    """Hadsell et al. 2006, Eq. 4, with as much weight for similar as for other pairs."""
    near, far = [], []
    for i, j in itertools.combinations(range(len(z)), 2):
        d = distance(z[i], z[j])
        if labels[i] == labels[j]:
            near.append(d * d / 2)
        else:
            far.append(max(0.0, margin - d) ** 2 / 2)
    return (sum(near) / max(len(near), 1) + sum(far) / max(len(far), 1)) / 2


def slow_semi_hard(z, labels, margin):
    """Schroff et al. 2015, section 3."""
    losses = []
    for a, p in itertools.permutations(range(len(z)), 2):
        if labels[a] != labels[p]:
            continue
        d_ap = distance(z[a], z[p]) ** 2
        farther = [d for n in range(len(z)) if labels[n] != labels[a] and (d := distance(z[a], z[n]) ** 2) > d_ap]
        if farther:
            losses.append(max(0.0, d_ap - min(farther) + margin))
    return sum(losses) / max(len(losses), 1)


def slow_batch_hard(z, labels, margin):
    """Hermans et al. 2017, Eq. 5."""
    losses = []
    for a in range(len(z)):
        positives = [distance(z[a], z[p]) for p in range(len(z)) if p != a and labels[p] == labels[a]]
        negatives = [distance(z[a], z[n]) for n in range(len(z)) if labels[n] != labels[a]]
        if positives and negatives:
            losses.append(max(0.0, margin + max(positives) - min(negatives)))
    return sum(losses) / max(len(losses), 1)


SLOW = {"contrastive": slow_contrastive, "semi_hard": slow_semi_hard, "batch_hard": slow_batch_hard}


def embedded(seed, n=9, d=3, classes=3):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return z, torch.randint(0, classes, (n,), generator=generator)


def fast(name, z, labels, margin):
    return LOSSES[name](squared_distances(z), labels[:, None] == labels[None, :], margin)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(8))
def test_each_loss_equals_the_paper_s(name, seed):
    z, labels = embedded(seed)
    expected = SLOW[name](z.numpy(), labels.numpy(), MARGIN[name])
    assert expected > 0
    assert float(fast(name, z, labels, MARGIN[name])) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_the_slow_loss(name):
    z, labels = embedded(3, n=6)
    z.requires_grad_()
    fast(name, z, labels, MARGIN[name]).backward()
    step = 1e-4
    for row, column in np.ndindex(*z.shape):
        ends = []
        for sign in (1, -1):
            moved = z.detach().numpy().copy()
            moved[row, column] += sign * step
            ends.append(SLOW[name](moved, labels.numpy(), MARGIN[name]))
        assert float(z.grad[row, column]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-3)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("labels", "same"),
    [([0, 1, 2, 3], False), ([0, 0, 0, 0], False), ([0], False), ([0, 0, 1, 1], True)],
    ids=["no similar pair", "no other pair", "one image", "four equal images"],
)
def test_a_batch_without_pairs_or_of_equal_images_is_finite(name, labels, same):
    z = torch.ones(len(labels), 3) if same else torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    loss = fast(name, z, torch.tensor(labels), MARGIN[name])
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()
    if len(labels) == 1:
        assert loss == 0


def test_closed_form_of_two_classes_of_equal_images():
    """At one place each, a right angle apart: D = sqrt 2."""
    z, labels = torch.eye(2).repeat_interleave(2, 0), torch.tensor([0, 0, 1, 1])
    assert float(fast("contrastive", z, labels, 2.0)) == pytest.approx((2 - math.sqrt(2)) ** 2 / 4)
    assert float(fast("semi_hard", z, labels, 2.5)) == pytest.approx(0.5)
    assert float(fast("batch_hard", z, labels, 2.0)) == pytest.approx(2 - math.sqrt(2), abs=1e-5)


def built(**numbers):
    encoder = {"network": "pixels"}
    entry = {"method": "siamese", "dataset": "d", "encoder": encoder, "train": {"steps": 1}, **numbers}
    return Siamese(resolve("pretext", "s", entry).config, make_spec(classes=("a", "b")))


@pytest.mark.parametrize("name", LOSSES)
def test_the_margin_is_the_declared_one_or_the_paper_s(name):
    batch = Batch(torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2)
    for margin in (None, 0.7):
        method = built(loss=name, margin=margin).eval()
        expected = SLOW[name](
            method.encode(batch.images).detach().double().numpy(), batch.labels.numpy(), margin or siamese.MARGINS[name]
        )
        assert float(method(batch, "train").loss.detach()) == pytest.approx(expected, rel=1e-3)


def test_bfloat16_tells_near_pairs_apart():
    """Products of 8 bits would see a distance of 0 here."""
    z = torch.tensor([[1.0, 0.0], [1.0, 0.01]])
    with torch.autocast("cpu", torch.bfloat16):
        squared = squared_distances(z)
    assert float(squared[0, 1]) == pytest.approx(1e-4, rel=1e-2)


def test_data_without_labels_is_refused_before_anything_runs():
    entry = {"method": "siamese", "dataset": "plain", "encoder": {"network": "mlp"}, "train": {"steps": 1}}
    sections = {"supervised": {}, "pretext": {"s": entry}, "probe": {}, "generative": {}, "search": {}}
    images = {"source": "photos"}
    with pytest.raises(DeclarationError, match=r"pretext\.s\.dataset: needs labels, but 'plain' has none"):
        check({"threads": 1, "data": {"plain": images}, **sections})
    with pytest.raises(ValueError, match="siamese: learns from pairs of one class, but 'made' has no labels"):
        Siamese(resolve("pretext", "s", entry).config, make_spec())
