"""The one training loop. It knows nothing of any method but the contract of `mlml.method`.

Notation: a *step* is one update by the optimizer of every phase; each phase of a step takes `accumulate` batches.
Batch, augmentation and dropout of a step are functions of (seed, step, rank), so that a run that goes on from a
checkpoint draws what the uninterrupted run would have drawn.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mlml import checkpoint, distributed, optimizers, regularisation, schedules
from mlml.config import TrainConfig
from mlml.data.batches import Batches
from mlml.ema import ema_update
from mlml.method import Method
from mlml.points import Points
from mlml.progress import Progress
from mlml.seeds import derive

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """Training stopped at a loss, or at weights, that are not finite; the last good checkpoint stays."""


class Fitted(NamedTuple):
    """What `fit` returns; the method that was passed in holds the final weights."""

    steps: int
    metrics: dict[str, float]  # of the weights that were kept, on the validation split
    seconds: float  # of this process


@dataclass
class _State:
    """What a checkpoint holds besides tensors of the method and of the optimizers."""

    step: int = 0
    stopped: bool = False
    best: float = math.inf
    bad_evaluations: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_metrics: dict[str, float] = field(default_factory=dict)
    last_finite: dict[str, float] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)  # of the window
    offset: int = 0  # of the points file
    plateau: tuple[float, ...] = tuple(schedules.Plateau())  # what the learning rate learnt from evaluations


def total_steps(config: TrainConfig, num_batches: int, num_phases: int) -> int:
    """Optimizer steps of a run: as declared, or as many as `epochs` passes over the train split make."""
    if config.steps is not None:
        return config.steps
    assert config.epochs is not None
    return max(1, round(config.epochs * num_batches / (config.accumulate * num_phases)))


def fit(
    method: Method,
    train: Batches,
    validation: Batches,
    config: TrainConfig,
    seed: int,
    folder: Path,
    on_evaluation: Callable[[int, dict[str, float]], None] | None = None,
) -> Fitted:
    """Train `method`, going on from the newest checkpoint in `folder` if there is one.

    The validation split is evaluated every `evaluate_every` steps and after the last. The checkpoints stay in
    `folder` until the caller removes them, for the outputs of the run are not yet written; metric points are appended
    to `folder`/points.jsonl.

    Args:
        method: moved to the device of the batches; holds the final weights afterwards (the EMA's if there is one, the
            best if `restore_best`).
        train: batches of the train split.
        validation: batches of the validation split.
        config: the loop's numbers.
        seed: of the data order, the augmentation and dropout; the caller seeds the initial weights.
        folder: where checkpoints and metric points lie.
        on_evaluation: called with (step, metrics) after each evaluation; what it raises ends the run.

    Raises:
        NonFiniteLossError: the loss or the weights stopped being finite.
    """
    if not method.phases:
        return Fitted(0, {}, 0.0)
    loop = _Loop(method, train, validation, config, seed, folder)
    return loop.run(on_evaluation)


@torch.no_grad()
def evaluate(method: Method, batches: Batches, seed: int) -> dict[str, float]:
    """Mean loss and metrics of the method's last phase over a split, in eval mode.

    What is drawn at random is drawn the same at every call, so that evaluations can be compared.
    """
    method.eval()
    generator = torch.Generator(batches.device)
    sums: dict[str, Tensor] = {}
    seen = 0
    for index in batches.in_order():
        generator.manual_seed(derive(seed, "evaluate", int(index[0])))
        torch.manual_seed(derive(seed, "evaluate", int(index[0])))
        output = method(method.augment(batches.at(index), generator), method.phases[-1])
        for name, value in {"loss": output.loss, **output.metrics}.items():
            sums[name] = sums.get(name, torch.zeros((), device=batches.device)) + value.detach().double() * len(index)
        seen += len(index)
    return {name: float(value) / seen for name, value in sums.items()}


class _Loop:
    def __init__(
        self, method: Method, train: Batches, validation: Batches, config: TrainConfig, seed: int, folder: Path
    ) -> None:
        self.method, self.train, self.validation = method.to(train.device), train, validation
        self.config, self.seed, self.folder = config, seed, folder
        self.device = train.device
        self.steps = total_steps(config, train.num_batches, len(method.phases))
        self.owned = {phase: list(method.phase_parameters(phase)) for phase in dict.fromkeys(method.phases)}
        trainable = {id(parameter) for parameters in self.owned.values() for parameter in parameters}
        for parameter in method.parameters():
            parameter.requires_grad_(id(parameter) in trainable)
        self.optimizers: dict[str, Optimizer] = {
            phase: optimizers.build(config.optimizer, parameters, config.decay_norm_and_bias)
            for phase, parameters in self.owned.items()
        }
        self.ema = copy.deepcopy(method).requires_grad_(False) if config.ema_decay is not None else None
        self.best_weights: dict[str, Tensor] | None = None
        self.model: nn.Module = method
        if distributed.is_distributed():
            self.model = DistributedDataParallel(method, find_unused_parameters=len(self.owned) > 1)
        self.state = _State()
        self.window = torch.zeros(0, device=self.device)  # (log_every, columns): values of the steps since the last log
        self.generator = torch.Generator(self.device)

    def run(self, on_evaluation: Callable[[int, dict[str, float]], None] | None) -> Fitted:
        started = last_saved = time.monotonic()
        config, state = self.config, self.state
        self.points = Points(self.folder / "points.jsonl") if distributed.rank() == 0 else None
        self._restore()
        progress = Progress(self.steps, state.step, self.train.batch_size * config.accumulate * len(self.method.phases))
        try:
            while state.step < self.steps and not state.stopped:
                self._step()
                state.step += 1
                if state.step % config.log_every == 0 or state.step == self.steps:
                    values = self._flush_window()
                    progress.update(state.step, values)
                    rates = {f"{phase}/learning_rate": o.param_groups[0]["lr"] for phase, o in self.optimizers.items()}
                    self._log({**values, **rates, "system/images_per_second": progress.images_per_second})
                if state.step % config.evaluate_every == 0 or state.step == self.steps:
                    self._evaluate()
                    if on_evaluation is not None:
                        on_evaluation(state.step, state.metrics)
                due = time.monotonic() - last_saved > config.checkpoint_seconds
                if state.step % config.checkpoint_every == 0 or due or state.step == self.steps or state.stopped:
                    self._save()
                    last_saved = time.monotonic()
        finally:
            progress.close()
            if self.points is not None:
                self.points.close()
        return Fitted(state.step, self._keep_final_weights(), time.monotonic() - started)

    def _step(self) -> None:
        """One update of every phase."""
        config, step, phases = self.config, self.state.step, self.method.phases
        self.method.train()
        torch.manual_seed(derive(self.seed, "step", step, distributed.rank()))
        factor = schedules.factor(config.schedule, step, self.steps) * self.state.plateau[0]
        row: dict[str, Tensor] = {}
        for turn, phase in enumerate(phases):
            self._open(phase)
            optimizer = self.optimizers[phase]
            for group in optimizer.param_groups:
                group["lr"] = config.optimizer.learning_rate * factor
            optimizer.zero_grad(set_to_none=True)
            for micro in range(config.accumulate):
                self._accumulate(phase, turn, micro, row)
            if config.l1 > 0 or config.l2 > 0:
                vectors = config.decay_norm_and_bias
                regularisation.add_gradients(self.owned[phase], config.l1, config.l2, vectors)
            if config.clip_norm is not None:
                row[f"{phase}/gradient_norm"] = nn.utils.clip_grad_norm_(self.owned[phase], config.clip_norm)
            if config.clip_value is not None:
                nn.utils.clip_grad_value_(self.owned[phase], config.clip_value)
            optimizer.step()
        self.method.after_step((step + 1) / self.steps)
        if self.ema is not None:
            assert config.ema_decay is not None
            ema_update(self.ema, self.method, config.ema_decay)
        self._remember(row)

    def _accumulate(self, phase: str, turn: int, micro: int, row: dict[str, Tensor]) -> None:
        """Forward and backward of one batch; its values are added to `row`."""
        config, phases = self.config, self.method.phases
        n = (self.state.step * len(phases) + turn) * config.accumulate + micro
        self.generator.manual_seed(derive(self.seed, "augment", n, distributed.rank()))
        batch = self.method.augment(self.train(n), self.generator)
        wait = isinstance(self.model, DistributedDataParallel) and micro < config.accumulate - 1
        with self.model.no_sync() if wait else nullcontext():  # type: ignore[operator]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                output = self.model(batch, phase)
            (output.loss / config.accumulate).backward()
        for name, value in {"loss": output.loss, **output.metrics}.items():
            share = value.detach().float() / (config.accumulate * phases.count(phase))
            key = f"{phase}/{name}"
            row[key] = row[key] + share if key in row else share

    def _open(self, phase: str) -> None:
        """Let gradients into the parameters of one phase only."""
        if len(self.owned) > 1:
            opened = {id(parameter) for parameter in self.owned[phase]}
            for parameters in self.owned.values():
                for parameter in parameters:
                    parameter.requires_grad_(id(parameter) in opened)

    def _remember(self, row: dict[str, Tensor]) -> None:
        """Keep a step's values on the device; reading them here would make a GPU wait."""
        if not self.state.columns:
            self.state.columns = list(row)
        if self.window.shape != (self.config.log_every, len(self.state.columns)):
            self.window = torch.zeros(self.config.log_every, len(self.state.columns), device=self.device)
        self.window[self.state.step % self.config.log_every] = torch.stack([row[k] for k in self.state.columns])

    def _pending(self) -> Tensor:
        """Values of the steps since the last log, checked to be finite; (steps, columns)."""
        count = (self.state.step - 1) % self.config.log_every + 1
        values = self.window[:count].cpu()
        losses = [k for k, column in enumerate(self.state.columns) if column.endswith("/loss")]
        bad = (~torch.isfinite(values[:, losses])).nonzero()
        if len(bad):
            position, loss = int(bad[0, 0]), losses[int(bad[0, 1])]
            good = values[position - 1].tolist() if position else list(self.state.last_finite.values())
            last = dict(zip(self.state.columns, good, strict=False))
            phase, step = self.state.columns[loss].removesuffix("/loss"), self.state.step - count + position
            self._refuse(f"phase {phase!r}: the loss is {float(values[position, loss])} at step {step}", last)
        self.state.last_finite = dict(zip(self.state.columns, values[-1].tolist(), strict=True))
        return values

    def _refuse(self, what: str, last: Mapping[str, float]) -> None:
        shown = ", ".join(f"{name}={value:.6g}" for name, value in last.items()) or "none"
        raise NonFiniteLossError(
            f"{type(self.method).__name__}: {what}; last finite values: {shown}; the last good checkpoint, if there "
            f"was one, stays in {self.folder}; lower train.optimizer.learning_rate or set train.clip_norm"
        )

    def _flush_window(self) -> dict[str, float]:
        """Mean of each value over the steps since the last log."""
        means = self._pending().double().mean(0).tolist()
        return dict(zip(self.state.columns, means, strict=True))

    def _log(self, values: Mapping[str, float]) -> None:
        if self.points is not None:
            self.points.write(self.state.step, values)

    def _evaluate(self) -> None:
        """Evaluate on validation, and decide whether to stop early; every rank decides by rank 0's numbers."""
        state, config = self.state, self.config
        self._pending()  # weights after a loss that is not finite are not worth an evaluation
        measured = evaluate(self.ema or self.method, self.validation, self.seed)
        state.metrics = distributed.from_rank_zero({f"validation/{k}": v for k, v in measured.items()})
        loss = state.metrics["validation/loss"]
        if not math.isfinite(loss):
            self._refuse(f"validation: the loss is {loss} at step {state.step}", state.last_finite)
        state.plateau = tuple(schedules.Plateau(*state.plateau).after(config.schedule, loss))  # type: ignore[arg-type]
        self._log(state.metrics)
        if loss < state.best - config.min_delta:
            state.best, state.bad_evaluations, state.best_metrics = loss, 0, dict(state.metrics)
            if config.restore_best:
                weights = (self.ema or self.method).state_dict()
                self.best_weights = {name: value.clone() for name, value in weights.items()}
        else:
            state.bad_evaluations += 1
        if config.patience is not None and state.bad_evaluations >= config.patience:
            state.stopped = True
            logger.info("stopped at step %d: no better loss in %d evaluations", state.step, state.bad_evaluations)

    def _save(self) -> None:
        """Write a checkpoint, unless what it would hold is not finite."""
        self._pending()
        finite = torch.stack([parameter.isfinite().all() for parameter in self.method.parameters()]).all()
        if not bool(finite):
            self._refuse(f"the weights are not finite at step {self.state.step}", self.state.last_finite)
        if self.points is None:
            return
        self.state.offset = self.points.offset()
        content: dict[str, Any] = {
            "state": vars(self.state),
            "method": self.method.state_dict(),
            "optimizers": {phase: optimizer.state_dict() for phase, optimizer in self.optimizers.items()},
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "best_weights": self.best_weights,
            "window": self.window,
        }
        checkpoint.save(self.folder, self.state.step, content)

    def _restore(self) -> None:
        saved = checkpoint.load_newest(self.folder, self.device)
        if saved is not None:
            self.state.__dict__.update(saved["state"])
            self.method.load_state_dict(saved["method"])
            for phase, optimizer in self.optimizers.items():
                optimizer.load_state_dict(saved["optimizers"][phase])
            if self.ema is not None:
                self.ema.load_state_dict(saved["ema"])
            self.best_weights, self.window = saved["best_weights"], saved["window"]
            logger.info("resumed at step %d of %d", self.state.step, self.steps)
        if self.points is not None:
            self.points.cut(self.state.offset)

    def _keep_final_weights(self) -> dict[str, float]:
        """Load the weights to keep into the method, and return their validation metrics."""
        if self.best_weights is not None:
            self.method.load_state_dict(self.best_weights)
            return self.state.best_metrics
        if self.ema is not None:
            self.method.load_state_dict(self.ema.state_dict())
        return self.state.metrics
