import pytest
import torch

from mlml.data.batches import Batch
from mlml.data.mix import cutmix, mixup

B = 64


def batch(n=B, height=12, width=10):
    """Every pixel of image k is k, so that a mixed one tells where it came from; labels are k too."""
    k = torch.arange(n)
    return Batch(k.view(-1, 1, 1, 1).expand(-1, 2, height, width).float(), k)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_what_a_pixel_shows_is_what_the_labels_say(mix):
    mixed = mix(batch(), 1.0, seeded())
    assert sorted(mixed.partner_labels.tolist()) == list(range(B))  # everyone is a partner once
    assert torch.equal(mixed.labels, torch.arange(B))
    shown = mixed.images.mean((1, 2, 3))
    torch.testing.assert_close(shown, mixed.weight * mixed.labels + (1 - mixed.weight) * mixed.partner_labels)
    assert (mixed.weight.min() >= 0) & (mixed.weight.max() <= 1)
    assert mixed.weight.unique().numel() > B / 4


def test_mixup_is_the_papers_equation():
    mixed = mixup(batch(), 0.4, seeded())
    share = mixed.weight.view(-1, 1, 1, 1)
    own, partner = batch().images, batch().images[mixed.partner_labels]
    torch.testing.assert_close(mixed.images, share * own + (1 - share) * partner)


def test_cutmix_pastes_one_box():
    mixed = cutmix(batch(), 1.0, seeded())
    for image, label, partner in zip(mixed.images, mixed.labels, mixed.partner_labels, strict=True):
        assert torch.equal(image[0], image[1])  # the same of all channels
        pasted = image[0] != label
        if label == partner or not pasted.any():
            continue
        assert (image[0][pasted] == partner).all()
        rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
        box = pasted[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.all()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_are_of_the_beta_distribution(alpha):
    n = 20_000
    weight = mixup(batch(n, 1, 1), alpha, seeded()).weight
    variance = 1 / (4 * (2 * alpha + 1))
    assert weight.mean().item() == pytest.approx(0.5, abs=5 * (variance / n) ** 0.5)
    assert weight.var().item() == pytest.approx(variance, rel=0.05)


def test_a_box_is_as_large_as_drawn_before_the_edge_cuts_it():
    """With the edge cut off, the kept share is 1 - weight on average of a box that is inside, and more otherwise."""
    mixed = cutmix(batch(4000, 40, 40), 1.0, seeded())
    drawn = mixup(batch(4000, 1, 1), 1.0, seeded()).weight  # the same draws: partners, then weights
    assert (mixed.weight >= drawn - 0.06).all()  # two roundings of a side of 40
    inside = (mixed.weight - drawn).abs() < 0.06
    assert 0.1 < inside.float().mean() < 0.9


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_the_same_generator_draws_the_same(mix):
    first, again, other = mix(batch(), 1.0, seeded()), mix(batch(), 1.0, seeded()), mix(batch(), 1.0, seeded(1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.weight, other.weight)
