"""The one training loop. It knows nothing of any method but the contract of `mlml.method`.

Notation: a *step* is one update by the optimizer of every phase; each phase of a step takes `accumulate` batches.
Batch and augmentation of a step are functions of (seed, step), dropout also of the rank, so that a run that goes on
from a checkpoint draws what the uninterrupted run would have drawn. Several ranks share the batch and the augmentation
that one process would have computed, so that they come to its result, but for dropout and rounding.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mlml import (
    checkpoint,
    diagnostics,
    distributed,
    online_knn,
    optimizers,
    peak_memory,
    precision,
    regularisation,
    representation,
    schedules,
)
from mlml.alarm_watch import AlarmWatch
from mlml.config import TrainConfig
from mlml.data.batches import Batches
from mlml.ema import ema_update
from mlml.layer_measures import LayerMeasures, Pending
from mlml.layers.sync_batch_norm import synchronise
from mlml.method import Method
from mlml.points import Points
from mlml.progress import Progress
from mlml.seeds import Derived, derive, seed_everything, seed_torch
from mlml.snapshots import Snapshots
from mlml.train_state import Pause, State

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """Training stopped at a loss, or at weights, that are not finite; the last good checkpoint stays."""


class Fitted(NamedTuple):
    """What `fit` returns; the method that was passed in holds the final weights."""

    steps: int
    metrics: dict[str, float]  # of the weights that were kept, on the validation split
    seconds: float  # of all processes that trained it one after another
    peak_bytes: int  # the most memory that one of them held: `mlml.peak_memory`


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
    to `folder`/points.jsonl, and `folder` has the `mlml.snapshots` of a generator.

    Args:
        method: moved to the device of the batches; holds the final weights afterwards (the EMA's if there is one, the
            best if `restore_best`; those from before an alarm that ended the run).
        train: batches of the train split.
        validation: batches of the validation split.
        config: the loop's numbers.
        seed: of the data order, the augmentation and dropout; the caller seeds the initial weights.
        folder: where checkpoints and metric points lie.
        on_evaluation: called with (step, metrics) after each evaluation; what it raises ends the run, a `Pause` with a
            checkpoint.

    Raises:
        NonFiniteLossError: the loss or the weights stopped being finite.
        ValueError: `shard` in a single process, or with a method of several phases.
    """
    if not method.phases:
        return Fitted(0, {}, 0.0, 0)
    return _Loop(method, train, validation, config, seed, folder).run(on_evaluation)


@torch.no_grad()
def evaluate(method: Method, batches: Batches, seed: int, shared: bool = True) -> dict[str, float]:
    """Mean loss and metrics of the method's last phase over a split, in eval mode.

    What is drawn at random is drawn the same at every call, so that evaluations can be compared. A batch is computed as
    a single process would; several ranks share the batches out, unless `shared` is false: a method whose parameters are
    cut needs all ranks for each.
    """
    method.eval()
    generator = torch.Generator(batches.device)
    sums: dict[str, Tensor] = {}
    order = batches.spread()
    for index in order[distributed.rank() :: distributed.world_size()] if shared else order:
        generator.manual_seed(derive(seed, "evaluate", int(index[0])))
        seed_everything(seed, "evaluate", int(index[0]))
        with distributed.alone():
            output = method(method.augment(batches.at(index), generator), method.phases[-1])
        for name, value in {"loss": output.loss, **output.metrics}.items():
            sums[name] = sums.get(name, torch.zeros((), device=batches.device)) + value.detach().double() * len(index)
    own = {name: float(value) for name, value in sums.items()}
    parts = distributed.of_every_rank(own) if shared else [own]
    return {name: sum(part[name] for part in parts if part) / batches.size for name in parts[0]}


class _Loop:
    def __init__(
        self, method: Method, train: Batches, validation: Batches, config: TrainConfig, seed: int, folder: Path
    ) -> None:
        self.method, self.train, self.validation = method.to(train.device), train, validation
        self.config, self.seed, self.folder = config, seed, folder
        self.device = train.device
        self.steps = total_steps(config, train.num_batches, len(method.phases))
        if config.online_knn_every is not None:
            online_knn.check(method, train, validation)
        self.ema: Method | None = None
        self.sharding: ModuleType | None = None
        self._share_out()
        self.owned = {phase: list(method.phase_parameters(phase)) for phase in dict.fromkeys(method.phases)}
        trainable = {id(parameter) for parameters in self.owned.values() for parameter in parameters}
        for parameter in method.parameters():
            parameter.requires_grad_(id(parameter) in trainable)
        self.optimizers: dict[str, Optimizer] = {
            phase: optimizers.build(
                config.optimizer, parameters, config.decay_norm_and_bias, method.rate_factors(phase), config.shard
            )
            for phase, parameters in self.owned.items()
        }
        self.best_weights: dict[str, Tensor] | None = None
        self.watch = AlarmWatch(config.on_alarm == "stop")
        self.snapshots = Snapshots(self.steps, config.evaluate_every)
        self.precision = precision.Precision(config.precision, self.device, list(self.owned))
        self.ddp = None
        if distributed.is_distributed() and not config.shard:
            # Needed for several phases. For one it keeps DDP from laying its buckets out anew after the first step:
            # a resumed run would add the gradients of more than two ranks up in another order.
            self.ddp = DistributedDataParallel(method, find_unused_parameters=True)
        self.model = precision.compiled(self.ddp or method, config.compile, self.device, self.steps)
        self.state = State()
        self.window: list[list[Tensor]] = []  # for each step since the last log, its values
        measured = {} if config.shard else self.owned  # no rank has a layer whose parameters are cut
        self.measures = {phase: LayerMeasures(method, owned) for phase, owned in measured.items()}
        self.measured = Pending()
        self.generator = torch.Generator(self.device)
        self.step_seed = Derived(seed, "step", behind=(distributed.rank(),))
        self.augment_seed = Derived(seed, "augment")

    def _share_out(self) -> None:
        """Prepare the method, and the copy of it that is averaged, for computing on several ranks."""
        config, method, phases = self.config, self.method, list(dict.fromkeys(self.method.phases))
        if config.shard and (not distributed.is_distributed() or len(phases) > 1):
            raise ValueError(
                "train.shard: needs train.processes of at least 2, and a method of one phase; got "
                f"{distributed.world_size()}, and of {type(method).__name__} the phases {', '.join(phases)}; "
                "set train.shard to false"
            )
        if distributed.is_distributed():
            synchronise(method, self.device)
        if config.ema_decay is not None:
            self.ema = copy.deepcopy(method).requires_grad_(False)
        if config.shard:
            from mlml import sharding  # half a second that few runs need

            self.sharding = sharding
            for module in (method, self.ema):
                if module is not None:
                    sharding.shard(module, self.device)

    def run(self, on_evaluation: Callable[[int, dict[str, float]], None] | None) -> Fitted:
        with self.precision.products():
            return self._train(on_evaluation)

    def _train(self, on_evaluation: Callable[[int, dict[str, float]], None] | None) -> Fitted:
        self.clock = last_saved = time.monotonic()
        peak_memory.reset(self.device)
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
                    self._log_measures()
                if evaluated := state.step % config.evaluate_every == 0 or state.step == self.steps:
                    self._evaluate()
                if config.online_knn_every is not None and state.step % config.online_knn_every == 0:
                    self._log(online_knn.measure(self.ema or self.method, self.train, self.validation))
                if evaluated and on_evaluation is not None:
                    self._tell(on_evaluation)
                due = self._due(last_saved)
                if state.step % config.checkpoint_every == 0 or due or state.step == self.steps or state.stopped:
                    self._save()
                    last_saved = time.monotonic()
            self._count_cost()
            self._log({"system/train_seconds": state.seconds, "system/peak_memory_bytes": state.peak_bytes})
            if self.points is not None:
                self.snapshots.write(self.folder)
        finally:
            progress.close()
            if self.points is not None:
                self.points.close()
        return Fitted(state.step, self._keep_final_weights(), state.seconds, state.peak_bytes)

    def _tell(self, on_evaluation: Callable[[int, dict[str, float]], None]) -> None:
        try:
            on_evaluation(self.state.step, self.state.metrics)
        except Pause:
            if self.state.step < self.steps:
                self._save()
                raise

    def _count_cost(self) -> None:
        """Add what this process took since the last call."""
        now = time.monotonic()
        self.state.seconds += now - self.clock
        self.clock = now
        held = distributed.of_every_rank(peak_memory.peak_bytes(self.device))
        self.state.peak_bytes = max(self.state.peak_bytes, *held)

    def _due(self, last_saved: float) -> bool:
        """Whether the last checkpoint is long ago; by the clock of rank 0, which the others ask at each log only."""
        if distributed.is_distributed() and self.state.step % self.config.log_every:
            return False
        return bool(distributed.from_rank_zero(time.monotonic() - last_saved > self.config.checkpoint_seconds))

    def _step(self) -> None:
        """One update of every phase."""
        config, step, phases = self.config, self.state.step, self.method.phases
        if not self.method.training:
            self.method.train()
        seed_torch(self.step_seed(step))
        factor = schedules.factor(config.schedule, step, self.steps) * self.state.plateau[0]
        row: dict[str, Tensor] = {}
        layers: dict[str, Tensor] = {}
        every = config.diagnose_every
        diagnosed = every is not None and (step % every == 0 or step == self.steps - 1)
        for turn, phase in enumerate(phases):
            measures = self.measures.get(phase) if diagnosed else None
            self._open(phase)
            optimizer = self.optimizers[phase]
            optimizers.set_rate(optimizer, config.optimizer.learning_rate * factor)
            optimizer.zero_grad(set_to_none=True)
            for micro in range(config.accumulate):
                self._accumulate(phase, turn, micro, row, measures if micro == 0 else None)
            self._update(phase, row, measures)
            if measures is not None:
                layers |= measures.after_update()
        self.method.after_step((step + 1) / self.steps)
        if self.ema is not None:
            assert config.ema_decay is not None
            ema_update(self.ema, self.method, config.ema_decay)
        self._remember(row)
        if diagnosed:
            self.measured.add(step + 1, {**{diagnostics.STEP + name: value for name, value in row.items()}, **layers})

    def _accumulate(
        self, phase: str, turn: int, micro: int, row: dict[str, Tensor], measures: LayerMeasures | None
    ) -> None:
        """Forward and backward of one batch; its values are added to `row`."""
        config, phases = self.config, self.method.phases
        n = (self.state.step * len(phases) + turn) * config.accumulate + micro
        self.generator.manual_seed(self.augment_seed(n))
        batch = self.method.augment(self.train(n), self.generator)
        wait = self.ddp is not None and micro < config.accumulate - 1
        with self.ddp.no_sync() if self.ddp is not None and wait else nullcontext():
            with self.precision.autocast(), measures.watching() if measures is not None else nullcontext():
                output = self.model(batch, phase)
            loss = output.loss if config.accumulate == 1 else output.loss / config.accumulate
            self.precision.backward(loss, phase)
        parts = config.accumulate * phases.count(phase)
        for name, value in {"loss": output.loss, **output.metrics}.items():
            share = value.detach().float()
            share = share if parts == 1 else share / parts
            key = f"{phase}/{name}"
            row[key] = row[key] + share if key in row else share

    def _update(self, phase: str, row: dict[str, Tensor], measures: LayerMeasures | None) -> None:
        """Regularise and clip the gradients of a phase, and let its optimizer use them."""
        config, optimizer = self.config, self.optimizers[phase]
        self.precision.unscale(optimizer, phase)
        if config.l1 > 0 or config.l2 > 0:
            regularisation.add_gradients(self.owned[phase], config.l1, config.l2, config.decay_norm_and_bias)
        if measures is not None:
            measures.before_update()
        if config.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.owned[phase], config.clip_norm)
            row[f"{phase}/gradient_norm"] = self.sharding.whole(norm) if self.sharding else norm
        if config.clip_value is not None:
            nn.utils.clip_grad_value_(self.owned[phase], config.clip_value)
        self.precision.step(optimizer, phase)

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
        self.window.append([row[name] for name in self.state.columns])

    def _stacked(self) -> Tensor:
        """Values of the steps since the last log, the mean over ranks; (steps, columns)."""
        rows, columns = len(self.window), len(self.state.columns)
        values = torch.stack([value for row in self.window for value in row]) if rows else torch.zeros(0)
        return distributed.mean(values.to(self.device).view(rows, columns))

    def _pending(self) -> Tensor:
        """Values of the steps since the last log, checked to be finite; (steps, columns)."""
        values = self._stacked().cpu()  # every rank refuses what one of them does not stand
        losses = [k for k, column in enumerate(self.state.columns) if column.endswith("/loss")]
        bad = (~torch.isfinite(values[:, losses])).nonzero()
        if len(bad):
            position, loss = int(bad[0, 0]), losses[int(bad[0, 1])]
            good = values[position - 1].tolist() if position else list(self.state.last_finite.values())
            last = dict(zip(self.state.columns, good, strict=False))
            phase, step = self.state.columns[loss].removesuffix("/loss"), self.state.step - len(values) + position
            self._refuse(f"phase {phase!r}: the loss is {float(values[position, loss])} at step {step}", last)
        if len(values):
            self.state.last_finite = dict(zip(self.state.columns, values[-1].tolist(), strict=True))
        return values

    def _refuse(self, what: str, last: Mapping[str, float]) -> None:
        shown = ", ".join(f"{name}={value:.6g}" for name, value in last.items()) or "none"
        self._log_measures()
        falls, points = self.method.loss_falls, self.folder / "points.jsonl"
        said = diagnostics.explain(points, last, falls) if self.points is not None else ""
        message = (
            f"{type(self.method).__name__}: {what}; last finite values: {shown}; the last good checkpoint, if there "
            f"was one, stays in {self.folder}; lower train.optimizer.learning_rate or set train.clip_norm{said}"
        )
        raise NonFiniteLossError(distributed.from_rank_zero(message))  # who alone has folder and points

    def _flush_window(self) -> dict[str, float]:
        """Mean of each value over the steps since the last log."""
        means = self._pending().double().mean(0).tolist()
        self.window.clear()
        values = dict(zip(self.state.columns, means, strict=True))
        return self._sound(values)

    def _sound(self, values: dict[str, float]) -> dict[str, float]:
        """Values without those that are not finite in float16: of a step that overflowed, and so was left out."""
        return {name: v for name, v in values.items() if math.isfinite(v)} if self.precision.scalers else values

    def _log(self, values: Mapping[str, float]) -> None:
        self.watch.note(self.state.step, values)
        if self.points is not None:
            self.points.write(self.state.step, values)

    def _log_measures(self) -> None:
        for step, values in self.measured.take():
            if self.points is not None:
                self.points.write(step, self._sound(values))

    def _evaluate(self) -> None:
        """Evaluate on validation, and decide whether to stop early; every rank decides by rank 0's numbers."""
        state, config = self.state, self.config
        self._pending()  # weights after a loss that is not finite are not worth an evaluation
        measured = evaluate(self.ema or self.method, self.validation, self.seed, not config.shard)
        state.metrics = distributed.from_rank_zero({f"validation/{k}": v for k, v in measured.items()})
        loss = state.metrics["validation/loss"]
        if not math.isfinite(loss):
            self._refuse(f"validation: the loss is {loss} at step {state.step}", state.last_finite)
        state.plateau = tuple(schedules.Plateau(*state.plateau).after(config.schedule, loss))  # type: ignore[arg-type]
        self._log(state.metrics)
        self._look()
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
        state.stopped |= self.watch.listen(state.step, (self.ema or self.method).state_dict(), state.metrics)

    def _look(self) -> None:
        """Log how healthy the features are, and keep images; rank 0 does it alone, as nothing hangs on it."""
        model = self.ema or self.method
        if self.points is not None and self.sharding is None:
            measured = representation.observe(model, self.validation, self.seed)
            self._log({diagnostics.REPRESENTATION + name: value for name, value in measured.items()})
            self.snapshots.take(self.state.step, model, self.device, self.seed)

    def _save(self) -> None:
        """Write a checkpoint, unless what it would hold is not finite."""
        self._pending()
        window = self._stacked()  # that of rank 0 is saved for all
        self.window = [list(row) for row in window]
        if self.points is not None:
            self.state.offset = self.points.offset()
        self._count_cost()
        content: dict[str, Any] = {
            "state": vars(self.state),
            "method": self.method.state_dict(),
            "optimizers": {phase: optimizer.state_dict() for phase, optimizer in self.optimizers.items()},
            "scalers": self.precision.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "best_weights": self.best_weights,
            "watch": self.watch.state_dict(),
            "snapshots": self.snapshots.taken,
            "window": window,
            "measured": self.measured.steps,
        }
        if self.sharding is not None:
            content = self.sharding.whole(content)
        weights = [content["method"][name] for name, _ in self.method.named_parameters()]
        if not bool(torch.stack([value.isfinite().all() for value in weights]).all()):
            self._refuse(f"the weights are not finite at step {self.state.step}", self.state.last_finite)
        if self.points is not None:
            checkpoint.save(self.folder, self.state.step, content)

    def _restore(self) -> None:
        """Go on from the newest checkpoint, which rank 0 reads for all."""
        here = distributed.rank() == 0
        # on the processor, from where each tensor is copied to its place: a rank cannot open another's GPU
        saved = checkpoint.load_newest(self.folder, torch.device("cpu")) if here else None
        saved = distributed.from_rank_zero(saved)
        if saved is not None:
            self.state.__dict__.update(saved["state"])
            self._load(self.method, saved["method"])
            for phase, optimizer in self.optimizers.items():
                load = self.sharding.load_optimizer if self.sharding else type(optimizer).load_state_dict
                load(optimizer, saved["optimizers"][phase])
            self.precision.load_state_dict(saved["scalers"])
            if self.ema is not None:
                self._load(self.ema, saved["ema"])
            self.best_weights = saved["best_weights"]
            self.watch.load_state_dict(saved["watch"])
            self.snapshots.taken = saved["snapshots"]
            self.window = [list(row) for row in saved["window"].to(self.device)]
            self.measured.steps = saved["measured"]
            logger.info("resumed at step %d of %d", self.state.step, self.steps)
        if self.points is not None:
            self.points.cut(self.state.offset)

    def _keep_final_weights(self) -> dict[str, float]:
        """Load the weights to keep into the method, and return their validation metrics."""
        if self.watch.lost and self.watch.sound is not None:
            weights, metrics = self.watch.sound
            self._load(self.method, weights)
            return metrics
        if self.best_weights is not None:
            self._load(self.method, self.best_weights)
            return self.state.best_metrics
        if self.ema is not None:
            self.method.load_state_dict(self.ema.state_dict())
        return self.state.metrics

    def _load(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        load = self.sharding.load if self.sharding else type(module).load_state_dict
        load(module, state)
