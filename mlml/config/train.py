"""The numbers of the training loop."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from mlml.config.declared import Declared, Fraction
from mlml.config.optimizers import AdamWConfig, OptimizerConfig
from mlml.config.schedules import CosineSchedule, ScheduleConfig


class TrainConfig(Declared):
    """The training loop's numbers. Exactly one of `epochs` and `steps` says how long.

    Attributes:
        batch_size: over all processes; 1 is stochastic, "full" the whole train split at each step.
        processes: of one training on this machine, each with its part of every batch; on a GPU each takes one.
        shard: cut parameters and optimizer states among the processes (FSDP2), for models that do not fit; their layers
            are not diagnosed.
        precision: of products of matrices; "tf32" shortens them on a GPU, float16 scales the loss.
        compile: by torch.compile; "auto" does where it pays, on a GPU in a run of at least 1000 steps. Steps that are
            diagnosed are not compiled, and round in their own way.
        l1: weight of the sum of absolute weights, part of what is minimised; with `l2`, the elastic net.
        l2: weight of half the sum of squared weights, whatever the optimizer's own `weight_decay` does.
        online_knn_every: steps from one online probe to the next: the share of validation images whose 20 nearest train
            images vote for their class, logged as `online/knn_accuracy`. It reads labels, for the eye alone: a run
            with it ends bit for bit as without. Null: none.
        on_alarm: what an evaluation does when adversaries diverge or saturate, a generator's images become alike, a
            posterior collapses, or a diffusion model gets worse at some noise levels (`mlml.alarms`); "warn" says so,
            "stop" also ends a run that has had an alarm at three evaluations in a row, with the weights from before it.
        diagnose_every: steps from one measurement of the layers to the next; null measures none. The last step is one.
    """

    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    batch_size: PositiveInt | Literal["full"] = 256
    accumulate: PositiveInt = 1
    processes: PositiveInt = 1
    shard: bool = False
    optimizer: OptimizerConfig = AdamWConfig()
    schedule: ScheduleConfig = CosineSchedule()
    decay_norm_and_bias: bool = False
    l1: NonNegativeFloat = 0.0
    l2: NonNegativeFloat = 0.0
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None
    ema_decay: Fraction | None = None
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    compile: Literal["off", "on", "auto"] = "off"
    evaluate_every: PositiveInt = 100
    patience: PositiveInt | None = None
    min_delta: NonNegativeFloat = 0.0
    restore_best: bool = False
    on_alarm: Literal["warn", "stop"] = "warn"
    log_every: PositiveInt = 20
    online_knn_every: PositiveInt | None = None
    diagnose_every: PositiveInt | None = 50
    checkpoint_every: PositiveInt = 500
    checkpoint_seconds: PositiveFloat = 30.0

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"give one of 'epochs' and 'steps'; got epochs={self.epochs}, steps={self.steps}")
        if self.steps is not None and self.schedule.warmup_steps >= self.steps:
            raise ValueError(
                f"schedule.warmup_steps must be less than steps; got {self.schedule.warmup_steps} and {self.steps}"
            )
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("give at most one of 'clip_norm' and 'clip_value'; got both")
        if self.restore_best and self.on_alarm == "stop":
            raise ValueError("restore_best must be false where on_alarm is 'stop', for each keeps weights of its own")
        return self

    @model_validator(mode="after")
    def _shared_out(self) -> "TrainConfig":
        if self.batch_size != "full" and self.batch_size % self.processes:
            below = self.batch_size - self.batch_size % self.processes
            taken = f"{below} or {below + self.processes}" if below else f"{self.processes}"
            raise ValueError(
                f"batch_size must be a multiple of processes; got {self.batch_size} and {self.processes}; take {taken}"
            )
        if self.shard and self.precision == "float16":
            raise ValueError("precision must not be 'float16' where shard is true; take 'bfloat16'")
        if self.shard and self.online_knn_every is not None:
            raise ValueError("online_knn_every must be null where shard is true, for no rank has the whole encoder")
        return self
