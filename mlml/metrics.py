"""How alike two sets of images are, by their features; and how alike an image and its reconstruction are.

Notation: X, (m, d), are features of real images, Y, (n, d), of generated ones, both of one extractor; mu and Sigma are
their means and covariances. p, (n, k), are the extractor's probabilities of k classes. Sums are in double precision.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CHUNK = 1024
"""Rows that are taken at once, so that no matrix of all pairs is ever held."""


class Moments(NamedTuple):
    """Mean and covariance of some features, and how many there were."""

    num_rows: int
    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]


class Overlap(NamedTuple):
    """How much of one set of features lies where the other does; see `overlap`."""

    precision: float
    recall: float
    density: float
    coverage: float


def moments(parts: Iterable[Float[Tensor, "b d"]]) -> Moments:
    """Mean and unbiased covariance of features that come in parts, in double precision.

    Two parts are put together by Chan, Golub & LeVeque 1983 (The American Statistician 37), Eq. 1.5: the scatter of the
    whole is that of both and of their means. No sum of squares is subtracted, so a large mean costs no digits.

    Raises:
        ValueError: fewer than two rows.
    """
    count, mean, scatter = 0, torch.zeros(0), torch.zeros(0, 0)
    for part in parts:
        rows = part.double()
        own = rows.mean(0)
        own_scatter = (rows - own).T @ (rows - own)  # (d, d)
        if count == 0:
            count, mean, scatter = len(rows), own, own_scatter
            continue
        apart, total = own - mean, count + len(rows)
        scatter = scatter + own_scatter + torch.outer(apart, apart) * (count * len(rows) / total)
        mean = mean + apart * (len(rows) / total)
        count = total
    if count < 2:
        raise ValueError(f"a covariance needs at least two images; got {count}")
    return Moments(count, mean, scatter / (count - 1))


def frechet_distance(first: Moments, second: Moments) -> float:
    """Squared Fréchet distance between two Gaussians: Heusel et al. 2017, arXiv:1706.08500, Eq. 6 (FID).

    |mu_1 - mu_2|^2 + tr(Sigma_1 + Sigma_2 - 2 (Sigma_1 Sigma_2)^(1/2)). The trace of the root is the sum of the
    singular values of Sigma_1^(1/2) Sigma_2^(1/2): both roots are of symmetric matrices, so no root of a product is
    ever taken, and covariances may lack rank.

    Returns:
        0 for equal Gaussians; rounding may leave it a little below.
    """
    apart = (first.mean - second.mean).square().sum()
    overlap = torch.linalg.svdvals(_root(first.covariance) @ _root(second.covariance)).sum()
    return float(apart + first.covariance.trace() + second.covariance.trace() - 2 * overlap)


def _root(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Symmetric square root. A covariance has no eigenvalue below 0: what seems to be one is rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def fid(real: Float[Tensor, "m d"], generated: Float[Tensor, "n d"]) -> float:
    """`frechet_distance` of the Gaussians of two sets of features."""
    return frechet_distance(moments(torch.split(real, CHUNK)), moments(torch.split(generated, CHUNK)))


def fid_infinity(
    real: Float[Tensor, "m d"], generated: Float[Tensor, "n d"], generator: torch.Generator, num_points: int = 15
) -> float:
    """FID of as many generated images as one likes: Chong & Forsyth 2020, arXiv:1911.07023, algorithm 1.

    The bias of FID is linear in 1 / n to first order (their section 3). FID is measured at `num_points` counts at equal
    distances from n / 5 to n, each of other images drawn without replacement, and the line through them by least
    squares is read at 1 / n = 0. Real images stay as many as they are, and so does the bias that is theirs.

    Raises:
        ValueError: fewer than 10 generated images, or fewer than two points.
    """
    n = len(generated)
    if n < 10 or num_points < 2:
        raise ValueError(f"a line over 1 / n needs 10 images and 2 points; got {n} and {num_points}")
    target = moments(torch.split(real, CHUNK))
    counts = [round(count) for count in torch.linspace(n / 5, n, num_points, dtype=torch.float64).tolist()]
    values = []
    for count in counts:
        drawn = torch.randperm(n, generator=generator, device=generator.device)[:count].to(generated.device)
        values.append(frechet_distance(target, moments(torch.split(generated[drawn], CHUNK))))
    inverse, measured = 1 / torch.tensor(counts, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
    apart = inverse - inverse.mean()
    slope = (apart * measured).sum() / apart.square().sum()
    return float(measured.mean() - slope * inverse.mean())


def kid(real: Float[Tensor, "m d"], generated: Float[Tensor, "n d"]) -> float:
    """Kernel distance: Bińkowski et al. 2018, arXiv:1801.01401, Eq. 4, with k(x, y) = (x . y / d + 1)^3.

    The unbiased estimate of the squared MMD from all pairs of all images at once, where the authors take the mean over
    random subsets: no draw is in it, and its variance is the smallest.

    Returns:
        0 in expectation for one distribution, so often a little below 0.

    Raises:
        ValueError: fewer than two images of one kind.
    """
    m, n = len(real), len(generated)
    if min(m, n) < 2:
        raise ValueError(f"an unbiased estimate needs two images of each kind; got {m} and {n}")
    within = _kernel_sum(real, real, own=False) / (m * (m - 1)) + _kernel_sum(generated, generated, own=False) / (
        n * (n - 1)
    )
    return within - 2 * _kernel_sum(real, generated) / (m * n)


def _kernel_sum(first: Float[Tensor, "m d"], second: Float[Tensor, "n d"], own: bool = True) -> float:
    """Sum of the kernel over all pairs; without those of an image with itself if not `own`."""
    total = torch.zeros((), dtype=torch.float64, device=first.device)
    other = second.double()
    for start in range(0, len(first), CHUNK):
        rows = first[start : start + CHUNK].double()
        kernel = (rows @ other.T / rows.shape[1] + 1) ** 3  # (b, n)
        total += kernel.sum() if own else kernel.sum() - kernel.diagonal(start).sum()
    return float(total)


def inception_score(probabilities: Float[Tensor, "n k"]) -> float:
    """exp(mean of KL(p(y|x) || p(y))): Salimans et al. 2016, arXiv:1606.03498, section 4.

    Of all images at once, not the mean over ten parts. The name is that of the formula: the classes are those of
    whatever classifier gave the probabilities.

    Returns:
        From 1, all images tell the same of the classes, to k.
    """
    p = probabilities.double()
    marginal = p.mean(0, keepdim=True)
    divergence = (torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(1)  # (n,); p log p is 0 where p is 0
    return float(divergence.mean().exp())


def overlap(
    real: Float[Tensor, "m d"], generated: Float[Tensor, "n d"], k_recall: int = 3, k_coverage: int = 5
) -> Overlap:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    B_k(x) is the closed ball around x that reaches to the k-th nearest other feature of its own kind.

    - precision: share of generated features in any B_k of a real one (arXiv:1904.06991, Eq. 1 and 2), k = `k_recall`;
    - recall: the same with the kinds exchanged;
    - density: balls B_k of real features around a generated one, mean over the generated, over k
      (arXiv:2002.09797, Eq. 3), k = `k_coverage`; it may exceed 1;
    - coverage: share of the real features whose B_k holds a generated one (their Eq. 4).

    Distances are Euclidean, of differences in double precision, so that equal features are at 0 of each other.

    Raises:
        ValueError: not more features of one kind than k.
    """
    k = max(k_recall, k_coverage)
    if min(len(real), len(generated)) <= k:
        raise ValueError(f"needs more than {k} images of each kind; got {len(real)} and {len(generated)}")
    real, generated = real.double(), generated.double()
    real_radii, generated_radii = _radii(real, k), _radii(generated, k)  # (m, k), (n, k)
    in_generated = []  # of each real feature: whether any ball of a generated one holds it
    around, nearest = torch.zeros(2, len(generated), device=real.device), []
    for start in range(0, len(real), CHUNK):
        distances = _distances(real[start : start + CHUNK], generated)  # (b, n)
        radii = real_radii[start : start + CHUNK]
        in_generated.append((distances <= generated_radii[:, k_recall - 1]).any(1))
        around += torch.stack([(distances <= radii[:, k - 1, None]).sum(0) for k in (k_recall, k_coverage)])
        nearest.append(distances.amin(1))
    return Overlap(
        precision=float((around[0] > 0).double().mean()),
        recall=float(torch.cat(in_generated).double().mean()),
        density=float(around[1].double().mean() / k_coverage),
        coverage=float((torch.cat(nearest) <= real_radii[:, k_coverage - 1]).double().mean()),
    )


def _radii(features: Float[Tensor, "n d"], k: int) -> Float[Tensor, "n k"]:
    """Distances of each feature to its k nearest others, nearest first."""
    found = [
        _distances(rows, features).topk(k + 1, largest=False).values[:, 1:] for rows in torch.split(features, CHUNK)
    ]
    return torch.cat(found)  # the nearest of all is the feature itself, at 0


def _distances(first: Float[Tensor, "m d"], second: Float[Tensor, "n d"]) -> Float[Tensor, "m n"]:
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def squared_error(images: Float[Tensor, "b c h w"], again: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Mean squared difference of the pixels of each image."""
    return (images.double() - again.double()).square().flatten(1).mean(1)


def psnr(images: Float[Tensor, "b c h w"], again: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Peak signal to noise ratio of each image in [0, 1], in decibels; infinite where nothing differs."""
    return -10 * squared_error(images, again).log10()


def ssim(images: Float[Tensor, "b c h w"], again: Float[Tensor, "b c h w"], window: int = 11) -> Float[Tensor, " b"]:
    """Structural similarity of each image in [0, 1]: Wang et al. 2004 (IEEE TIP 13), Eq. 13, mean over all windows.

    Windows of `window` pixels a side that lie inside of the image whole, weighted by a Gaussian of deviation 1.5 pixels
    whose weights sum to 1; K1 = 0.01, K2 = 0.03. Of several channels it is the mean over them.

    Raises:
        ValueError: an even window, or one that does not fit in the image.
    """
    height, width = images.shape[2:]
    if window % 2 == 0 or window > min(height, width):
        raise ValueError(f"the window must be odd and fit in images of {height} x {width} pixels; got {window}")
    offsets = torch.arange(window, dtype=torch.float64, device=images.device) - window // 2
    weights = (-offsets.square() / (2 * 1.5**2)).exp()
    kernel = torch.outer(weights, weights)[None, None] / weights.sum() ** 2  # (1, 1, window, window)

    def local(pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "bc 1 i j"]:
        return F.conv2d(pixels.flatten(0, 1).unsqueeze(1), kernel)

    x, y = images.double(), again.double()
    mu_x, mu_y = local(x), local(y)
    var_x, var_y, cov = local(x * x) - mu_x**2, local(y * y) - mu_y**2, local(x * y) - mu_x * mu_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mu_x * mu_y + c1) * (2 * cov + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    return torch.unflatten(similarity.flatten(1).mean(1), 0, images.shape[:2]).mean(1)


def bits_per_dimension(log_likelihood: float, num_dimensions: int) -> float:
    """Bits per pixel and channel of 8-bit images, from the log density in nats of their values scaled to [0, 1].

    Theis et al. 2016, arXiv:1511.01844, section 3.1: a density over [0, 256] is that over [0, 1], over 256 for each
    dimension. A bound on the coding length only where the density is of images with uniform noise of one level.
    """
    return -log_likelihood / (num_dimensions * math.log(2)) + 8
