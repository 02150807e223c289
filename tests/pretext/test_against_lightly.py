"""Losses against those of lightly, where it is installed: `make peers`."""

import pytest
import torch
import torch.nn.functional as F

from mlml.pretext.barlow_twins import barlow_twins
from mlml.pretext.dcl import dcl
from mlml.pretext.dino import dino_loss
from mlml.pretext.moco import info_nce
from mlml.pretext.simclr import nt_xent
from mlml.pretext.vicreg import vicreg

peer = pytest.importorskip("lightly.loss", reason="'make peers' installs it")

BATCHES = [(2, 3), (16, 32), (64, 128)]


def drawn(n, d, scale=1.0):
    """Projections of the views of n images, for us and for the peer; those of an image are somewhat alike."""
    noise = torch.randn(3, n, d, generator=torch.Generator().manual_seed(0))
    views = scale * (noise[0] + 1.5 * noise[1]), scale * (noise[0] + 1.5 * noise[2])
    return tuple([view.clone().requires_grad_() for view in views] for _ in range(2))


def assert_same(ours, theirs, z_ours, z_theirs):
    """Same value, and same gradient in both views."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.backward()
    theirs.backward()
    for mine, other in zip(z_ours, z_theirs, strict=True):
        largest = float(other.grad.abs().max())
        assert largest > 0
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4 * largest)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize(("n", "d"), BATCHES)
def test_nt_xent(n, d, temperature):
    ours, theirs = drawn(n, d)
    assert_same(nt_xent(*ours, temperature), peer.NTXentLoss(temperature)(*theirs), ours, theirs)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize(("n", "d"), BATCHES)
def test_dcl(n, d, temperature):
    ours, theirs = drawn(n, d)
    assert_same(dcl(*ours, temperature), peer.DCLLoss(temperature)(*theirs), ours, theirs)


@pytest.mark.parametrize("sigma", [0.5, 2.0])
@pytest.mark.parametrize(("n", "d"), BATCHES)
def test_dclw_but_for_the_gradient_through_the_weight(n, d, sigma):
    ours, theirs = drawn(n, d)  # the peer holds the weight constant, which the equation does not say
    value = peer.DCLWLoss(0.1, sigma)(*theirs)
    torch.testing.assert_close(dcl(*ours, 0.1, sigma), value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "d"), [(4, 3), *BATCHES[1:]])  # of 2 images the gradient is 0
def test_barlow_twins(n, d):
    ours, theirs = drawn(n, d)
    terms = barlow_twins(*ours)
    loss = peer.BarlowTwinsLoss(lambda_param=0.02)(*theirs)
    assert_same(terms.invariance + 0.02 * terms.redundancy, loss, ours, theirs)


@pytest.mark.parametrize(("n", "d"), BATCHES)
def test_vicreg(n, d):
    ours, theirs = drawn(n, d, scale=0.3)  # deviations below 1, so that the variance term counts
    terms = vicreg(*ours)
    half = 25.0 / 2  # the peer halves the variance term, as the authors' code does and the paper does not
    loss = 25 * terms.invariance + half * terms.variance + terms.covariance
    assert_same(loss, peer.VICRegLoss(25.0, 25.0, 1.0)(*theirs), ours, theirs)


@pytest.mark.parametrize("temperature", [0.07, 0.2])
@pytest.mark.parametrize(("n", "d"), BATCHES)
def test_moco(n, d, temperature):
    ours, theirs = drawn(n, d)
    loss = peer.NTXentLoss(temperature, memory_bank_size=(40, d))
    queue = loss.memory_bank.bank.clone()
    q, k = (F.normalize(view, dim=1) for view in ours)
    assert_same(info_nce(q, k, queue, temperature), loss(*theirs), ours, theirs)


@pytest.mark.parametrize(("n", "k"), [(4, 8), (16, 64)])
def test_dino(n, k):
    noise = torch.randn(6, n, k, generator=torch.Generator().manual_seed(0))
    student = [noise[:4].clone().requires_grad_() for _ in range(2)]  # (v, n, k), for us and for the peer
    teacher = noise[:2] + noise[4:]  # (g, n, k)
    ours = dino_loss(student[0].transpose(0, 1), teacher.transpose(0, 1), torch.zeros(k), 0.1, 0.04)
    theirs = peer.DINOLoss(k, warmup_teacher_temp=0.04, teacher_temp=0.04)(list(teacher), list(student[1]), epoch=0)
    assert_same(ours, theirs, *([z] for z in student))
