"""The process that the diffusion methods share: draw a timestep and noise, predict, and sample as declared.

Notation: x_0 in [-1, 1] is an image in [0, 1] times 2 minus 1, or else anything whose components have a variance of
about 1, such as a latent vector; the rest is that of `mlml.diffusion.noise`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mlml import distributed
from mlml.config import SamplerConfig, check_process
from mlml.diffusion import samplers
from mlml.diffusion.noise import SCHEDULES, Prediction, target, to_x0
from mlml.diffusion.samplers import Denoise
from mlml.method import Output

NUM_BINS = 4
"""Ranges of timesteps whose losses are told apart."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""(x, t) -> prediction of a network, for noised images (b, ...) at timesteps (b,)."""


class Numbers(Protocol):
    """What the config of every diffusion method says of its process."""

    @property
    def noise_schedule(self) -> str: ...
    @property
    def timesteps(self) -> int: ...
    @property
    def prediction(self) -> Prediction: ...
    @property
    def clip(self) -> bool: ...
    @property
    def sampler(self) -> SamplerConfig: ...


class Noising(NamedTuple):
    """The timestep and the noise that each x_0 of a batch gets."""

    t: Int[Tensor, " b"]
    epsilon: Float[Tensor, "b ..."]


class Process(nn.Module):
    """Noise schedule, objective and sampler of one method; it has no parameters.

    Args:
        numbers: of the method's config.
        snr_range: the least and the most weight of an error of x_0, which between them is signal^2 / noise^2, whatever
            is predicted. From 1 on that is the truncated SNR of Salimans & Ho 2022 (arXiv:2202.00512, section 4), up
            to gamma the Min-SNR weighting of Hang et al. 2023 (arXiv:2303.09556, Eq. 7). Null: the error of what is
            predicted weighs the same at all timesteps.
    """

    signal: Tensor
    noise: Tensor
    loss_weights: Tensor
    bins: Tensor
    bin_weights: Tensor

    def __init__(self, numbers: Numbers, snr_range: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.numbers, self.sampler = numbers, numbers.sampler
        self.schedule = SCHEDULES[numbers.noise_schedule](numbers.timesteps)
        alpha_bar = torch.from_numpy(self.schedule.alpha_bar)
        self.register_buffer("signal", alpha_bar.sqrt().float(), persistent=False)  # (T,)
        self.register_buffer("noise", (1 - alpha_bar).sqrt().float(), persistent=False)
        loss_weights = torch.ones(numbers.timesteps)
        if snr_range is not None:
            snr = alpha_bar / (1 - alpha_bar)
            of_x0 = {"epsilon": snr, "x0": torch.ones_like(snr), "v": snr + 1}[numbers.prediction]
            loss_weights = (snr.clamp(*snr_range) / of_x0).float()
        self.register_buffer("loss_weights", loss_weights, persistent=False)  # (T,)
        bins = torch.arange(numbers.timesteps) * NUM_BINS // numbers.timesteps
        self.register_buffer("bins", bins, persistent=False)  # (T,)
        weights = numbers.timesteps / bins.bincount(minlength=NUM_BINS).clamp(min=1)
        self.register_buffer("bin_weights", weights, persistent=False)  # (NUM_BINS,)

    def draw(self, images: Float[Tensor, "b c h w"], generator: torch.Generator) -> Noising:
        """Uniform timesteps and standard normal noise for these images, of all that every rank draws."""
        return self.draw_shape(images.shape, generator)

    def draw_shape(self, shape: Sequence[int], generator: torch.Generator) -> Noising:
        """The same for x_0 of this shape, (b, ...)."""
        count, device = distributed.total(shape[0]), self.signal.device
        t = torch.randint(self.numbers.timesteps, (count,), generator=generator, device=device)
        epsilon = torch.randn((count, *shape[1:]), generator=generator, device=device)
        return Noising(distributed.share(t), distributed.share(epsilon))

    def loss(self, images: Float[Tensor, "b c h w"], noising: Noising, predict: Predict) -> Output:
        """`objective` of images in [0, 1]."""
        return self.objective(2 * images - 1, noising, predict)

    def objective(self, x0: Float[Tensor, "b ..."], noising: Noising, predict: Predict) -> Output:
        """Squared error of the prediction, the mean over components: Ho et al. 2020, Eq. 14 for epsilon.

        For x_0 it is the same with weight signal^2 / noise^2 of each timestep, for v one more (Salimans & Ho 2022,
        section 4), unless there is an `snr_range`. `loss/bin_<k>` is the loss of the k-th quarter of the timesteps:
        over the batch, with the weight by which the mean over many batches is the quarter's own, however few of its
        timesteps one batch holds.
        """
        t, epsilon = noising
        signal, noise = (rate[t].view(-1, *[1] * (x0.ndim - 1)) for rate in (self.signal, self.noise))
        predicted = predict(signal * x0 + noise * epsilon, t).float()
        wanted = target(self.numbers.prediction, x0, epsilon, signal, noise)
        losses = self.loss_weights[t] * (predicted - wanted).square().flatten(1).mean(1)  # (b,)
        return Output(losses.mean(), self._by_bin(losses.detach(), t))

    def _by_bin(self, losses: Float[Tensor, " b"], t: Int[Tensor, " b"]) -> Mapping[str, Tensor]:
        """Losses of ranges of timesteps; of a range without a timestep, 0."""
        means = ((self.bins[t][:, None] == torch.arange(NUM_BINS, device=t.device)) * losses[:, None]).mean(0)
        return {f"loss/bin_{k}": value for k, value in enumerate((means * self.bin_weights).unbind())}

    def denoise(self, predict: Predict) -> Denoise:
        """What a sampler calls: the estimate of x_0, clipped to the range of images where the config says so."""

        def estimate(x: Tensor, t: float) -> Tensor:
            prediction = predict(x, torch.full((len(x),), t, device=x.device)).float()
            x0 = to_x0(self.numbers.prediction, prediction, x, *self.schedule.rates(t))
            return x0.clamp(-1, 1) if self.numbers.clip else x0

        return estimate

    def sample(self, denoise: Denoise, shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Images in [0, 1] by the declared sampler, from noise that `generator` gives."""
        return in_range(self.sample_x0(denoise, shape, generator))

    def sample_x0(self, denoise: Denoise, shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "n ..."]:
        """The same of any x_0 of this shape, (n, ...)."""
        x = torch.randn(shape, generator=generator, device=self.signal.device)
        return samplers.sample(self.sampler, denoise, x, self.schedule, generator)

    @contextmanager
    def in_steps(self, steps: int) -> Iterator[None]:
        """Sample in so many steps within the block.

        Raises:
            ValueError: more than there are timesteps.
        """
        before, after = self.sampler, self.sampler.model_copy(update={"steps": steps})
        check_process(self.numbers.noise_schedule, self.numbers.timesteps, after)
        self.sampler = after
        try:
            yield
        finally:
            self.sampler = before

    def film(
        self, denoise: Denoise, images: Float[Tensor, "b c h w"], num_frames: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "b s c h w"], Float[Tensor, "b s c h w"]]:
        """The way of images to noise, and of as much noise to new images, both ends included, as `ways`."""
        forward, reverse = self.ways(denoise, 2 * images - 1, num_frames, generator)
        return torch.stack([images, *map(in_range, forward[1:])], 1), torch.stack([*map(in_range, reverse)], 1)

    def ways(
        self, denoise: Denoise, x0: Float[Tensor, "b ..."], num_frames: int, generator: torch.Generator
    ) -> tuple[list[Float[Tensor, "b ..."]], list[Float[Tensor, "b ..."]]]:
        """The way of x_0 to noise, and of as much noise to new ones, frame by frame.

        Frames of the first have one and the same noise, at timesteps of equal distances; those of the second lie at
        equal distances among the denoiser's calls.
        """
        epsilon = torch.randn(x0.shape, generator=generator, device=x0.device)
        last = self.numbers.timesteps - 1
        forward = [x0]
        for frame in range(1, num_frames):
            signal, noise = self.schedule.rates(last * frame // (num_frames - 1))
            forward.append(signal * x0 + noise * epsilon)
        seen: list[Tensor] = []

        def watched(x: Tensor, t: float) -> Tensor:
            seen.append(x)
            return denoise(x, t)

        reverse = self.sample_x0(watched, tuple(x0.shape), generator)
        kept = torch.linspace(0, len(seen) - 1, num_frames - 1).round().long().tolist()
        return forward, [*(seen[k] for k in kept), reverse]


def in_range(x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """Images in [0, 1] of those in [-1, 1]; what lies outside is cut."""
    return ((x + 1) / 2).clamp(0, 1)


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: Ho & Salimans 2022, arXiv:2207.12598, Eq. 6, with scale = 1 + w.

    1 is the conditional prediction, 0 the unconditional one. For x_0 and v, which are affine in epsilon with factors of
    the timestep alone, it is the same.
    """
    return unconditional + scale * (conditional - unconditional)
