"""Training generative models, against pythae and diffusers, in one run: `python -m benchmarks.generative`.

**VAE** against [pythae](https://github.com/clementchadebec/benchmark_VAE)'s own trainer: scikit-learn's digits at
28x28, batches of 128, binary cross entropy and KL divergence, AdamW at a constant rate. Ours is `mlml.train.fit` on
`Batches`; the peer is `pythae.trainers.BaseTrainer` on its dataset, with what it does at the end of an epoch; its
progress bar is off. The peer runs with the same layers as one writes them in torch (an upsampling, then a convolution;
memory as torch lays it out), and with our modules themselves, whose doubling of a grid is one operation.

**DDPM** against what diffusers' script for unconditional images does at a step: PIL images mirrored at random in a
DataLoader, `UNet2DModel`, `DDPMScheduler.add_noise`, mean squared error, gradients clipped to norm 1, AdamW with its
numbers, `EMAModel`; 3x32x32, batches of 64. Accelerate, which in a single process hands calls on, is left out. Our
denoiser has the same widths, blocks and attentions; all of its weights are the peer's too (`benchmarks.unet`). bfloat16
is the script's `--mixed_precision bf16`, and `train.precision` of ours. Compiling takes minutes: `--compile` adds it.

Both sides begin with the same weights, and before anything is timed their predictions or losses of the same batch are
compared. Each draws its own order, mirroring, noise and timesteps, so that losses are compared over windows of steps:
the mean difference must lie within about 3.4 of its standard errors (`benchmarks.agreement`).

In `fit` besides: seeds by the step, the schedule, the log and its points on disk. Out: start-up, evaluation,
checkpoints and diagnostics of layers. The process keeps freed memory, as every stage of ours does (`mlml.heap`); the
peers, which do not ask for that by themselves, gain too. One thread; contestants take turns as in `benchmarks.augment`,
and where other work runs beside, images per second of CPU time are what to read.
"""

import argparse
import copy
import logging
import os
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"  # read at the import of tqdm

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from greenlet import getcurrent, greenlet
from PIL import Image
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks import agreement
from benchmarks.augment import CPU, Rate, rates, ratios, table
from benchmarks.pretext import noted, photos
from benchmarks.step import Turns, described
from benchmarks.unet import hand_over, peer_unet
from mlml import heap, model_folder
from mlml.config import DenoiserConfig
from mlml.data.batches import Batches, as_float
from mlml.data.sources.digits import Digits
from mlml.generative._variational import draw
from mlml.method import Method
from mlml.train import fit

VAE_BATCH, DDPM_BATCH = 128, 64
UNET = DenoiserConfig(width=32, multipliers=(1, 2, 4), num_blocks=1, num_groups=8, dropout_prob=0.0)
"""2,587,491 parameters; attention on the grid of 16x16 and in the middle."""
ADAMW = {"name": "adamw", "learning_rate": 1e-4, "beta1": 0.95, "beta2": 0.999, "weight_decay": 1e-6}
"""What diffusers' script has by default, but for the warm-up."""
EMA_DECAY, CLIP_NORM = 0.9999, 1.0

Losses = dict[str, list[Tensor]]


def build(name: str, channels: int, side: int, numbers: dict[str, Any], **train: Any) -> Method:
    """Return an untrained method; the same weights at every call."""
    declared = {"steps": 10**6, "schedule": {"name": "constant"}, "decay_norm_and_bias": True, "diagnose_every": None}
    declared |= dict.fromkeys(("evaluate_every", "checkpoint_every", "checkpoint_seconds"), 10**9)
    torch.manual_seed(0)
    return model_folder.build(
        "generative", name, {**numbers, "train": {**declared, **train}}, described(channels, side)
    )


def whole(images: np.ndarray, batch_size: int) -> np.ndarray:
    """Return as many images as make whole batches: the peers train on the rest of an epoch too, ours does not."""
    return images[: len(images) // batch_size * batch_size]


def by_fit(method: Method, images: np.ndarray, batch_size: int, folder: Path, losses: list[Tensor]) -> Iterator[None]:
    """Train by `fit`, which stops before each batch until it is asked for the next."""
    method.register_forward_hook(lambda module, given, output: losses.append(output.loss.detach()))
    turns = Turns(Batches(images, None, batch_size, 0, CPU))
    loop = greenlet(partial(fit, method, turns, turns, method.config.train, 0, folder))
    while True:
        yield loop.switch()


def build_vae(**train: Any) -> Method:
    """Return the VAE of experiments/fashion_mnist.yaml."""
    numbers = {"encoder": {"network": "cnn", "width": 16}, "latent_dim": 16, "decoder_width": 16}
    optimizer = {"name": "adamw", "learning_rate": 1e-3}
    return build("vae", 1, 28, numbers, batch_size=VAE_BATCH, optimizer=optimizer, **train)


class PeerEncoder(BaseEncoder):
    """Our encoder and posterior, as pythae wants them."""

    def __init__(self, method: Method, plain: bool) -> None:
        super().__init__()
        encoder = method.encoder
        pooled = (encoder.normalize, encoder.stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.features = nn.Sequential(*pooled) if plain else encoder
        self.posterior = method.posterior

    def forward(self, x: Tensor) -> ModelOutput:
        mu, log_var = self.posterior(self.features(x)).chunk(2, dim=1)
        return ModelOutput(embedding=mu, log_covariance=log_var)


class PeerDecoder(BaseDecoder):
    """Our decoder, as pythae wants it."""

    def __init__(self, method: Method, plain: bool) -> None:
        super().__init__()
        self.layers = plain_decoder(method.decoder) if plain else method.decoder

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z).sigmoid())


def plain_decoder(decoder: nn.Module) -> nn.Sequential:
    """Return the layers of a decoder whose grids all double exactly, as torch's own; the parameters are shared."""
    grid = (decoder.norm.num_features, *decoder.sizes[0])
    layers: list[nn.Module] = [decoder.expand, nn.Unflatten(1, grid), decoder.norm, nn.ReLU()]
    for doubling, norm, activation in decoder.stages:
        convolution = nn.Conv2d(doubling.in_channels, doubling.out_channels, 3, padding=1, bias=False)
        convolution.weight = doubling.weight
        layers += [nn.Upsample(scale_factor=2), convolution, norm, activation]
    return nn.Sequential(*layers, decoder.to_logits)


class Paused:
    """Batches of a loader; before each, the loop that reads them waits for its turn."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader, self.dataset, self.outer = loader, loader.dataset, getcurrent()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.outer.switch()
            yield batch


def peer_vae(method: Method, plain: bool) -> VAE:
    """Return pythae's VAE with our layers."""
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=method.config.latent_dim, reconstruction_loss="bce")
    return VAE(config, encoder=PeerEncoder(method, plain), decoder=PeerDecoder(method, plain))


def by_pythae(method: Method, plain: bool, images: np.ndarray, folder: Path, losses: list[Tensor]) -> Iterator[None]:
    """Train by pythae's trainer, which stops before each batch until it is asked for the next."""
    data = BaseDataset(as_float(torch.from_numpy(images)), torch.zeros(len(images)))
    numbers = {"num_epochs": 10**6, "learning_rate": 1e-3, "optimizer_cls": "AdamW"}
    config = BaseTrainerConfig(output_dir=str(folder), per_device_train_batch_size=VAE_BATCH, no_cuda=True, **numbers)
    model = peer_vae(method, plain)
    trainer = BaseTrainer(model, data, training_config=config)
    trainer.train_loader = Paused(trainer.train_loader)
    model.register_forward_hook(lambda module, given, output: losses.append(output.loss.detach()))
    loop = greenlet(trainer.train)
    while True:
        yield loop.switch()


@torch.no_grad()
def compare_vae(images: Tensor) -> None:
    """Refuse to go on if the two sides' losses of the same draws differ."""
    for plain in (True, False):
        method = build_vae().train()
        theirs = peer_vae(copy.deepcopy(method), plain).train()
        noise = torch.randn(len(images), method.config.latent_dim)
        theirs._sample_gauss = lambda mu, std, noise=noise: (draw(mu, 2 * std.log(), noise), noise)
        batch = method.augment(Batches(np.zeros((1, 1)), None, 1, 0, CPU)(0)._replace(images=images), torch.Generator())
        ours = method(batch._replace(noise=noise), "train").loss
        torch.testing.assert_close(ours, theirs({"data": images}).loss, rtol=1e-4, atol=1e-3)


def measure_vae(repeats: int, seconds: float) -> None:
    """Train the VAE on both sides."""
    images = whole(Digits(Digits.Config(size=28)).read().images, VAE_BATCH)
    compare_vae(as_float(torch.from_numpy(images[:VAE_BATCH])))
    losses: Losses = {}
    with tempfile.TemporaryDirectory() as folder:
        running: dict[str, Iterator[object]] = {}
        for label, plain in (("pythae, plain layers", True), ("pythae, our layers", False)):
            running[label] = by_pythae(build_vae(), plain, images, Path(folder, label), losses.setdefault(label, []))
        for label, precision in (("fit", "float32"), ("fit, bfloat16", "bfloat16")):
            noting = losses.setdefault(label, [])
            running[label] = by_fit(build_vae(precision=precision), images, VAE_BATCH, Path(folder, label), noting)
        found = rates(running, repeats, seconds, VAE_BATCH)
    theirs, ours = (sum(p.numel() for p in m.parameters()) for m in (peer_vae(build_vae(), True), build_vae()))
    table(f"VAE, {ours:,} parameters ({theirs:,})", found, "pythae, plain layers")
    rivals = {"times pythae (aim 1.3)": "pythae, plain layers", "times pythae with our layers": "pythae, our layers"}
    conclude(found, rivals)
    agreement.show(losses, "pythae, plain layers")


def build_ddpm(**train: Any) -> Method:
    """Return the DDPM of diffusers' script, at the size of this benchmark."""
    train = {"batch_size": DDPM_BATCH, "optimizer": ADAMW, "clip_norm": CLIP_NORM, "ema_decay": EMA_DECAY, **train}
    numbers = {"denoiser": UNET, "augment": {"padding": 0, "flip_prob": 0.5}}
    return build("ddpm", 3, 32, numbers, **train)


class Pictures(torch.utils.data.Dataset):
    """PIL images behind the transform of diffusers' script, which finds them of the right size."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = [Image.fromarray(image) for image in images.transpose(0, 2, 3, 1)]
        steps = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.images[index])


def by_diffusers(method: Method, images: np.ndarray, short: bool) -> Iterator[Tensor]:
    """Train as diffusers' script for unconditional images does; yields the losses."""
    model = peer_unet(UNET, 3, 32)
    hand_over(method.denoiser, model)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    betas = (ADAMW["beta1"], ADAMW["beta2"])
    numbers = {"lr": ADAMW["learning_rate"], "betas": betas, "weight_decay": ADAMW["weight_decay"]}
    optimizer = torch.optim.AdamW(model.parameters(), **numbers)
    rate = get_scheduler("constant", optimizer)
    ema = EMAModel(model.parameters(), decay=EMA_DECAY, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    loader = DataLoader(Pictures(images), DDPM_BATCH, shuffle=True)
    model.train()
    while True:
        for clean in loader:
            noise = torch.randn(clean.shape)
            timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(clean),)).long()
            noised = scheduler.add_noise(clean, noise, timesteps)
            with torch.autocast("cpu", torch.bfloat16, enabled=short):
                predicted = model(noised, timesteps).sample
                loss = F.mse_loss(predicted.float(), noise)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            ema.step(model.parameters())
            yield loss.detach()


@torch.no_grad()
def compare_ddpm() -> None:
    """Refuse to go on if the two networks do not predict the same of the same noise, with all weights drawn."""
    denoiser, theirs = build_ddpm().denoiser, peer_unet(UNET, 3, 32)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.05)
    hand_over(denoiser, theirs)
    x, t = torch.randn(4, 3, 32, 32), torch.tensor([0, 10, 400, 999])
    torch.testing.assert_close(denoiser(x, t), theirs(x, t).sample, rtol=1e-4, atol=1e-4)


def measure_ddpm(repeats: int, seconds: float, compiles: bool) -> None:
    """Train the DDPM on both sides."""
    compare_ddpm()
    images, losses = whole(photos(), DDPM_BATCH), {}
    with tempfile.TemporaryDirectory() as folder:
        running: dict[str, Iterator[object]] = {}
        for label, short in (("diffusers", False), ("diffusers, bfloat16", True)):
            running[label] = noted(by_diffusers(build_ddpm(), images, short), losses.setdefault(label, []))
        forms = {"fit": {}, "fit, bfloat16": {"precision": "bfloat16"}}
        if compiles:
            forms |= {f"{label}, compiled": {**form, "compile": "on"} for label, form in forms.items()}
        for label, form in forms.items():
            noting = losses.setdefault(label, [])
            running[label] = by_fit(build_ddpm(**form), images, DDPM_BATCH, Path(folder, label), noting)
        found = rates(running, repeats, seconds, DDPM_BATCH)
    theirs, ours = (sum(p.numel() for p in m.parameters()) for m in (peer_unet(UNET, 3, 32), build_ddpm()))
    table(f"DDPM, {ours:,} parameters ({theirs:,})", found, "diffusers")
    conclude(found, {"times diffusers' script (aim 1.5)": "diffusers", "times it in bfloat16": "diffusers, bfloat16"})
    agreement.show(losses, "diffusers")


def conclude(found: dict[str, list[Rate]], rivals: dict[str, str]) -> None:
    """Print ratios to each rival, medians over the turns, and what they are to be at least."""
    for label in (label for label in found if label.startswith("fit")):
        for what, rival in rivals.items():
            wall, cpu = zip(*ratios(found[label], found[rival]), strict=True)
            spread = f"({min(cpu):.2f} to {max(cpu):.2f})"
            print(f"  {label}: {statistics.median(wall):.2f}, per CPU s {statistics.median(cpu):.2f} {spread}, {what}")


def main() -> None:
    """Compare the VAE, then the DDPM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=8.0, help="least length of a turn")
    parser.add_argument("--compile", action="store_true", help="also by torch.compile, which takes minutes")
    parser.add_argument("--methods", nargs="*", choices=("vae", "ddpm"), default=["vae", "ddpm"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    heap.keep_freed()
    logging.disable(logging.INFO)  # the peer's trainer prints each epoch
    print(f"torch {torch.__version__}, one thread")
    if "vae" in arguments.methods:
        measure_vae(arguments.repeats, arguments.seconds)
    if "ddpm" in arguments.methods:
        measure_ddpm(arguments.repeats, arguments.seconds, arguments.compile)


if __name__ == "__main__":
    main()
