"""Metrics of generated images against those of torch-fidelity, on the same features: `make peers`."""

import numpy as np
import pytest
import torch

from mlml import metrics

peer_fid = pytest.importorskip("torch_fidelity.metric_fid", reason="'make peers' installs it")
peer_kid = pytest.importorskip("torch_fidelity.metric_kid")
peer_prc = pytest.importorskip("torch_fidelity.metric_prc")
peer_isc = pytest.importorskip("torch_fidelity.metric_isc")

SIZES = [(300, 250, 16), (90, 90, 40)]


def drawn(m, n, d):
    """Features of real and of generated images, in double precision."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((d, d)) / d**0.5
    real, generated = rng.standard_normal((m, d)) @ mix, 0.9 * rng.standard_normal((n, d)) @ mix + 0.2
    return torch.from_numpy(real), torch.from_numpy(generated)


@pytest.mark.parametrize("sizes", SIZES)
def test_fid(sizes):
    real, generated = drawn(*sizes)
    one, other = (peer_fid.fid_features_to_statistics(features) for features in (real, generated))
    expected = peer_fid.fid_statistics_to_metric(one, other, verbose=False)[peer_fid.KEY_METRIC_FID]
    assert metrics.fid(real, generated) == pytest.approx(expected, rel=1e-6)


def test_kid_of_all_images_at_once():
    real, generated = drawn(90, 90, 40)
    found = peer_kid.kid_features_to_metric(generated, real, kid_subsets=1, kid_subset_size=90, verbose=False)
    assert metrics.kid(real, generated) == pytest.approx(found[peer_kid.KEY_METRIC_KID_MEAN], rel=1e-6)


@pytest.mark.parametrize("sizes", SIZES)
def test_precision_and_recall(sizes):
    real, generated = drawn(*sizes)
    found = peer_prc.prc_features_to_metric(generated, real, save_cpu_ram=False, verbose=False)
    ours = metrics.overlap(real, generated)
    assert 0 < ours.recall < 1
    assert ours.precision == pytest.approx(found[peer_prc.KEY_METRIC_PRECISION], rel=1e-6)
    assert ours.recall == pytest.approx(found[peer_prc.KEY_METRIC_RECALL], rel=1e-6)


def test_the_inception_score_of_all_images_at_once():
    logits = 3 * drawn(200, 2, 10)[0]
    expected = peer_isc.isc_features_to_metric(logits, splits=1)[peer_isc.KEY_METRIC_ISC_MEAN]
    assert metrics.inception_score(logits.softmax(1)) == pytest.approx(expected, rel=1e-6)


def test_ssim_of_torchmetrics():
    image = pytest.importorskip("torchmetrics.functional.image", reason="'make peers' installs it")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 28, 28, generator=generator)
    y = 0.5 * x + 0.5 * torch.rand(x.shape, generator=generator)
    _, whole = image.structural_similarity_index_measure(
        y.double(), x.double(), data_range=1.0, reduction="none", return_full_image=True
    )
    expected = whole[..., 5:-5, 5:-5].mean((1, 2, 3))  # windows that lie inside: the peer reflects at edges
    torch.testing.assert_close(metrics.ssim(x, y), expected, rtol=1e-6, atol=1e-6)
