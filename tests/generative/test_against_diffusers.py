"""Schedules and steps of samplers against those of diffusers, where it is installed: `make peers`.

The peer keeps alpha_bar in float32 and takes 1 - alpha_bar_t / alpha_bar_s of it, of which at small t four digits are
left: beta there is 1e-4. Ours are computed in float64. So its formulas are compared with its table in float64 too.
"""

from itertools import pairwise

import pytest
import torch

from mlml.config import DenoiserConfig
from mlml.diffusion import samplers
from mlml.diffusion.denoiser import Denoiser
from mlml.diffusion.noise import SCHEDULES, to_epsilon

peer = pytest.importorskip("diffusers", reason="'make peers' installs it")

NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
SPACED = {"timestep_spacing": "trailing"}
TOLERANCES = {torch.float32: 2e-4, torch.float64: 1e-5}
"""Absolute, or relative where that is more, for images all along a path, by the type that the peer computes in."""


def scheduler(kind, name, timesteps=1000, dtype=torch.float32, **numbers):
    theirs = kind(num_train_timesteps=timesteps, beta_schedule=NAMES[name], **numbers)
    if dtype == torch.float64:
        theirs.alphas_cumprod = torch.from_numpy(SCHEDULES[name](timesteps).alpha_bar)  # `test_schedules`: the same
    return theirs


def crooked(schedule):
    return lambda x, t: torch.tanh(x * (1 + t / schedule.timesteps)) * 0.8 + 0.01 * x**2


def start(dtype):
    return torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)


def path(theirs, schedule, steps, generator=None, **numbers):
    """All images on the way that the peer makes of our denoiser's noise."""
    denoise, x = crooked(schedule), start(theirs.alphas_cumprod.dtype)
    theirs.set_timesteps(steps)
    for t in theirs.timesteps.tolist():
        epsilon = to_epsilon(denoise(x, float(t)), x, *schedule.rates(t))
        x = theirs.step(
            epsilon, t, x, **({"generator": generator} if generator is not None else {}), **numbers
        ).prev_sample
        yield t, x


def assert_same_path(ours, theirs):
    """Of our sampler the images are those that it shows its denoiser, and the last."""
    for (t, x), (u, y) in zip(ours, theirs, strict=True):
        assert t == u
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y, atol=TOLERANCES[x.dtype], rtol=TOLERANCES[x.dtype])


def watched(sampler, schedule, dtype, *arguments, **numbers):
    """All images on our way but the first, with the timesteps that they come from."""
    seen, denoise = [], crooked(schedule)

    def watch(x, t):
        seen.append((t, x))
        return denoise(x, t)

    last = sampler(watch, start(dtype), schedule, *arguments, **numbers)
    return [*((t, x) for (t, _), (_, x) in pairwise(seen)), (seen[-1][0], last)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("timesteps", [100, 1000])
def test_schedules(name, timesteps):
    ends = {"beta_start": 0.1 / timesteps, "beta_end": 20 / timesteps} if name == "linear" else {}
    theirs, ours = scheduler(peer.DDPMScheduler, name, timesteps, **ends), SCHEDULES[name](timesteps)
    torch.testing.assert_close(torch.from_numpy(ours.beta).float(), theirs.betas, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(torch.from_numpy(ours.alpha_bar).float(), theirs.alphas_cumprod, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("steps", [50, 1000])
@pytest.mark.parametrize(("ours", "theirs"), [("large", "fixed_large"), ("small", "fixed_small")])
@pytest.mark.parametrize("name", NAMES)
def test_ddpm(name, ours, theirs, steps, dtype):
    schedule = SCHEDULES[name](1000)
    mine = watched(samplers.ddpm, schedule, dtype, steps, torch.Generator().manual_seed(1), ours)
    other = scheduler(peer.DDPMScheduler, name, dtype=dtype, variance_type=theirs, clip_sample=False, **SPACED)
    expected = list(path(other, schedule, steps, torch.Generator().manual_seed(1)))
    until = steps - (steps < 1000)  # with fewer steps the peer's last one adds noise, for it ends at timestep 19, not 0
    assert_same_path(mine[:until], expected[:until])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("steps", [50, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("name", NAMES)
def test_ddim(name, eta, steps, dtype):
    schedule = SCHEDULES[name](1000)
    mine = watched(samplers.ddim, schedule, dtype, steps, torch.Generator().manual_seed(1), eta)
    other = scheduler(peer.DDIMScheduler, name, dtype=dtype, clip_sample=False, **SPACED)
    assert_same_path(mine, path(other, schedule, steps, torch.Generator().manual_seed(1), eta=eta))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", NAMES)
def test_dpm_solver(name, dtype):
    schedule = SCHEDULES[name](1000)
    mine = watched(samplers.dpm_solver, schedule, dtype, 20)
    kind, numbers = peer.DPMSolverMultistepScheduler, {"final_sigmas_type": "zero", "lower_order_final": True}
    other = scheduler(kind, name, dtype=dtype, solver_order=2, **numbers, **SPACED)
    assert_same_path(mine, path(other, schedule, 20))


@pytest.mark.parametrize("attention_resolutions", [(), (8,), (8, 4)])
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_the_denoiser_is_the_unet_weight_for_weight(num_blocks, attention_resolutions):
    from benchmarks.unet import hand_over, peer_unet

    torch.manual_seed(0)
    numbers = {"num_blocks": num_blocks, "attention_resolutions": attention_resolutions}
    config = DenoiserConfig(width=8, multipliers=(1, 2, 3), num_groups=4, dropout_prob=0.0, **numbers)
    ours, theirs = Denoiser(config, 3, 3, (16, 16)).eval(), peer_unet(config, 3, 16).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    hand_over(ours, theirs)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 812])
    torch.testing.assert_close(ours(x, t), theirs(x, t).sample, atol=1e-4, rtol=1e-4)
