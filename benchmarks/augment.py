"""Augmentation and the training step of SimCLR, against lightly's, in one run: `python -m benchmarks.augment`.

Both sides make two views of 32x32 colour images with the same operations, probabilities and strengths, in batches of
256 on two threads. The peer: PIL images, `lightly.transforms.SimCLRTransform`, a DataLoader with 0 and with 2 workers.
Ours: uint8 images that lie in memory whole, `mlml.data.augment.simclr_views` in its exact form and in its fused one,
which does nearly the same (`mlml.data.fused`), each as it is and with its pixel part compiled. The training step puts
the same small network, AdamW and each side's own NT-Xent behind them.

A rate is source images per second; an image counts once for its two views. Contestants take turns, so that other load
on the machine meets all of them; the table holds medians over the turns, and of the ratios within a turn. Images per
second of CPU time hardly feel other load at all.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
import psutil
import torch
from lightly.loss import NTXentLoss
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from mlml.config import AugmentConfig
from mlml.data.augment import simclr_apply, simclr_sample, simclr_views
from mlml.data.batches import Batches
from mlml.pretext.simclr import nt_xent

SIDE, BATCH_SIZE, TEMPERATURE = 32, 256, 0.5
CPU = torch.device("cpu")
Views = tuple[Tensor, Tensor]


class Pictures(Dataset):
    """PIL images behind lightly's transform."""

    def __init__(self, images: np.ndarray, config: AugmentConfig) -> None:
        self.images = [Image.fromarray(image) for image in images.transpose(0, 2, 3, 1)]
        self.transform = SimCLRTransform(
            input_size=SIDE,
            cj_prob=config.jitter_prob,
            cj_bright=config.brightness,
            cj_contrast=config.contrast,
            cj_sat=config.saturation,
            cj_hue=config.hue,
            min_scale=config.crop_scale[0],
            random_gray_scale=config.grey_prob,
            gaussian_blur=config.blur_prob,
            sigmas=config.blur_sigma,
            hf_prob=config.flip_prob,
            normalize=None,
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.images[index])


def lightly_views(images: np.ndarray, config: AugmentConfig, num_workers: int) -> Iterator[Views]:
    """Views without end, epoch after epoch, as a plain lightly script makes them."""
    loader = DataLoader(
        Pictures(images, config),
        BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    while True:
        yield from map(tuple, loader)


def our_views(images: np.ndarray, config: AugmentConfig, compiled: bool) -> Iterator[Views]:
    """Views without end, from data that lies on the device."""
    batches, generator = Batches(images, None, BATCH_SIZE, 0, CPU), torch.Generator()
    apply = torch.compile(simclr_apply, fullgraph=True) if compiled else None
    for n in count():
        pixels = batches(n).images
        if apply is None:
            yield simclr_views(pixels, config, generator)
        else:
            draws = (simclr_sample(pixels, config, generator) for _ in range(2))
            first, second = (apply(pixels, drawn, form=config.form) for drawn in draws)
            yield first, second


def forms(config: AugmentConfig) -> dict[str, AugmentConfig]:
    """The augmentation in each form that can be declared; what is added to a contestant's name -> its config."""
    return {"": config, ", fused": config.model_copy(update={"form": "fused"})}


def all_views(images: np.ndarray, config: AugmentConfig, compiled: bool) -> dict[str, Iterator[Views]]:
    """Views without end of each contestant; `compiled` adds ours with the pixel part compiled."""
    found = {f"lightly, {workers} workers": lightly_views(images, config, workers) for workers in (0, 2)}
    for name, form in forms(config).items():
        found[f"ours{name}"] = our_views(images, form, compiled=False)
        if compiled:
            found[f"ours{name}, compiled"] = our_views(images, form, compiled=True)
    return found


def small_cnn() -> nn.Sequential:
    """Return an encoder with projector, 0.28 million parameters."""
    layers: list[nn.Module] = []
    for channels, width, stride in ((3, 32, 2), (32, 64, 2), (64, 128, 2), (128, 128, 1)):
        convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
    projector = [nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *projector)


def trained(views: Iterator[Views], loss: Callable[[Views], Tensor], optimizer: Optimizer) -> Iterator[Tensor]:
    """Take one optimizer step per batch of views; yields the losses."""
    for both in views:
        value = loss(both)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        yield value.detach()


def small_steps(views: Iterator[Views], loss: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Tensor]:
    """Train the small network; `loss` is of the projections of the two views."""
    torch.manual_seed(0)
    model = small_cnn()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return trained(views, lambda both: loss(*model(torch.cat(both)).chunk(2)), optimizer)


class Rate(NamedTuple):
    """Images per second of one turn, and per second of CPU time, its workers' included."""

    wall: float
    cpu: float


def rates(
    contestants: dict[str, Iterator[object]], repeats: int, seconds: float, batch_size: int = BATCH_SIZE
) -> dict[str, list[Rate]]:
    """Return the rates of each contestant, turn by turn.

    A turn lasts `seconds` or a batch more, and four batches at least. Workers prepare up to four batches ahead: what
    they made while others ran is thrown away before the clock starts, and the next contestant waits until they are idle
    again.
    """
    for contestant in contestants.values():  # compile, start workers
        for _ in range(3):
            next(contestant)
    found: dict[str, list[Rate]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            ahead = 4 if name.endswith("2 workers") else 0
            for _ in range(ahead + 1):
                next(contestant)
            done, start, cpu_start = 0, time.perf_counter(), cpu_seconds()
            while done < 4 * batch_size or time.perf_counter() - start < seconds:
                next(contestant)
                done += batch_size
            rate = Rate(done / (time.perf_counter() - start), done / (cpu_seconds() - cpu_start))
            found[name].append(rate)
            time.sleep(2 * ahead * batch_size / rate.wall)
    return found


def cpu_seconds() -> float:
    """Return the CPU time that this process and its children have used."""
    process = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))


def best(found: dict[str, list[Rate]], prefix: str = "lightly") -> list[Rate]:
    """Return the better rates, in each turn, of the contestants whose names begin so."""
    turns = zip(*(turns for name, turns in found.items() if name.startswith(prefix)), strict=True)
    return [Rate(*map(max, zip(*turn, strict=True))) for turn in turns]


def ratios(turns: list[Rate], others: list[Rate]) -> list[Rate]:
    """Return how often the others' rates go into these, turn by turn."""
    return [Rate(a.wall / b.wall, a.cpu / b.cpu) for a, b in zip(turns, others, strict=True)]


def table(title: str, found: dict[str, list[Rate]], prefix: str = "lightly") -> None:
    """Print medians over the turns, and of the ratios to the best in the same turn whose names begin with `prefix`."""
    peers = best(found, prefix)
    print(f"\n{title:<36}{'images/s':>10}{'ratio':>8}{'(turns)':>16}{'per CPU s':>12}{'ratio':>8}")
    for name, turns in found.items():
        wall, cpu = map(statistics.median, zip(*turns, strict=True))
        times, cpu_times = zip(*ratios(turns, peers), strict=True)
        ratio, cpu_ratio = statistics.median(times), statistics.median(cpu_times)
        spread = f"{min(times):.1f} to {max(times):.1f}"
        print(f"  {name:<34}{wall:>10,.0f}{ratio:>8.2f}{spread:>16}{cpu:>12,.0f}{cpu_ratio:>8.2f}")


def main() -> None:
    """Run both comparisons and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=1.0, help="least length of a turn")
    parser.add_argument("--blur-prob", type=float, default=0.5, help="0 for the paper's recipe at 32x32")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes half a minute")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    config = AugmentConfig(blur_prob=arguments.blur_prob)
    images = np.random.default_rng(0).integers(0, 256, (4096, 3, SIDE, SIDE), dtype=np.uint8)
    fixed = next(our_views(images, config, compiled=False))

    def ours(z0: Tensor, z1: Tensor) -> Tensor:
        return nt_xent(z0, z1, TEMPERATURE)

    threads, compiled = torch.get_num_threads(), not arguments.no_compile
    print(f"torch {torch.__version__}, {threads} threads, batches of {BATCH_SIZE}, blur_prob {config.blur_prob}")
    views = all_views(images, config, compiled)
    table("augmentation, two views", rates(views, arguments.repeats, arguments.seconds))
    criterion = NTXentLoss(temperature=TEMPERATURE)
    steps = {
        name: small_steps(views, criterion if name.startswith("lightly") else ours)
        for name, views in all_views(images, config, compiled).items()
    }
    steps["the step alone, views made before"] = small_steps(iter(lambda: fixed, None), ours)
    table("training, end to end", rates(steps, arguments.repeats, arguments.seconds))


if __name__ == "__main__":
    main()
