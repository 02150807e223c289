"""What the measures of a run say: verdicts in plain sentences, functions of recorded numbers alone.

Notation: a *series* is [(step, value), ...] by rising step; `layers` holds one for each layer and measure
(`mlml.layer_measures` says what is measured), `curves` one for each metric. A threshold is a named constant with its
reason. Ratios of layers and of steps are medians over the run, so that one odd step makes no illness.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import linear_regression, median, pstdev
from typing import NamedTuple

from mlml import points
from mlml.series import Layers, Series, beyond, finite, late, measured, others_beyond, percent, ratios_to_later, worst

LAYER, STEP = "layer/", "step/"
"""What the names of points of a diagnosed step begin with: measures of layers, and the step's own loss and metrics."""

REPRESENTATION = "representation/"
"""What the names of points of `mlml.representation.measure` begin with."""

HEALTHY = "no illness found"

VANISHING = 1e-3
"""One learning rate serves all layers: at a thousandth of the gradient a layer stands still while others learn
(Glorot & Bengio 2010, figures 7 and 8; healthy networks stay within a factor of a hundred)."""

EXPLODING = 1e3
"""The same the other way: between layers, or from one half of the run to the other (Pascanu et al. 2013)."""

SYMMETRIC = 0.5
"""Random weights are all different: units that stay copies of others waste the layer (Goodfellow et al. 2016, 8.4)."""

DEAD = 0.5
"""Half of a layer never active. Sparse layers are healthy, but their units are active for some of a batch
(Glorot et al. 2011, section 3.2; Lu et al. 2020, arXiv:1903.06733)."""

SATURATED = 0.5
"""Half of the outputs at a bound, where the slope is below 4 % of the steepest (Glorot & Bengio 2010, section 3)."""

LARGE_UPDATE, OVERWRITING = 0.1, 2.0
"""What a step usually changes, and what the largest step changed: a hundred times the rule of thumb that it is about a
thousandth of the weights (Hinton 2010, section 7), and so much that nothing of the weights before is left."""

SMALL_UPDATE = 1e-5
"""A hundredth of that rule, never exceeded: a thousand steps would not change the weights by 1 %."""

DIVERGED, EXPLODED = 1.0, 10.0
"""How far above its beginning the loss ended, or ever was, in units of the beginning."""

BLOWN_UP, NEAR_ZERO = 1e3, 1.0
"""The second for a loss that rises by its nature, in units of the beginning or of 1, for it may begin at nearly 0. Such
losses are of unit vectors or of distributions: even a cross entropy of 65536 keys at a temperature of 0.01 is below 220
(log K + 2 / temperature), so what is above is no nature of theirs."""

OSCILLATING = 0.1
"""Scatter of the loss around its trend over the second half of a run, in units of the beginning."""

UNLEARNT = 0.02
"""A loss that fell by less than this share of its beginning did not fall."""

HIGH_VARIANCE, HIGH_BIAS = 0.1, 0.25
"""Gap between train and validation, and distance to the ideal, as shares of the way from baseline to ideal. No theory
sets them; they are about what a person calls a wide gap and a bad score (Ng 2018, chapters 20 to 27)."""

RISEN = 0.1
"""How far the validation loss rose above its least, as a share of how far it had fallen."""

COLLAPSED, ON_A_LINE = 0.03, 1.5
"""Deviation of features, of 1 when they spread evenly, and effective rank, 1 of features on a line (Chen & He 2021,
figure 2). Untrained networks of this project have 0.08 to 0.4, and 6 to 60, on digits."""

LOST_RANK = 4.0
"""By how much the effective rank fell over a run; pretexts move it by less than half either way."""

MIN_POINTS = 6
"""Fewer points of a curve show no oscillation."""

_CALM = "lower train.optimizer.learning_rate, add schedule.warmup_steps, or set train.clip_norm"


class Record(NamedTuple):
    """What one run recorded: series by layer and measure, and by metric.

    Attributes:
        loss_falls: whether the method's class says so (`mlml.method`).
    """

    layers: Layers
    curves: dict[str, Series]
    loss_falls: bool = True


class Verdict(NamedTuple):
    """One illness.

    Attributes:
        kind: of illness, such as "vanishing gradients".
        layer: the one that has it worst; None when it is the whole network's.
        value: what was held against the threshold.
        sentence: names the layer, the numbers and the way out.
    """

    kind: str
    layer: str | None
    value: float
    sentence: str


def read(path: Path, loss_falls: bool = True) -> Record:
    """Sort the points of a run by what they are about; an absent file is an empty record.

    Args:
        path: of the points.
        loss_falls: what the class of the method says, which the points do not.
    """
    layers: Layers = {}
    curves: dict[str, Series] = {}
    for name, step, value in points.read(path):
        if name.startswith(LAYER):
            layer, _, measure = name.removeprefix(LAYER).rpartition("/")
            layers.setdefault(layer, {}).setdefault(measure, []).append((step, value))
        else:
            curves.setdefault(name, []).append((step, value))
    return Record(layers, curves, loss_falls)


def diagnose(record: Record) -> list[Verdict]:
    """Every illness of a run, causes before consequences; none of a healthy one.

    High bias is left out where something else is wrong: a larger network would not help.
    """
    from mlml import alarms  # which imports this module

    ills = (*alarms.of_latents(record), *alarms.of_adversaries(record), *alarms.of_timesteps(record))
    found = [*of_loss(record), *of_representation(record), *ills, *of_layers(record)]
    return [*found, *(verdict for verdict in of_generalisation(record) if not found or verdict.kind == "high variance")]


def of_layers(record: Record) -> list[Verdict]:
    """Illnesses that the measures of the layers show, at most one of a kind: that of the worst layer."""
    layers = record.layers
    causes = (symmetry(layers), large_updates(layers), exploding(record))
    consequences = (dead_units(layers), saturation(layers), vanishing(layers))
    found = [verdict for verdict in (*causes, *consequences) if verdict is not None]
    if {"symmetry", "dead units"} & {verdict.kind for verdict in found}:  # they let no gradient through at all
        found = [verdict for verdict in found if (verdict.kind, verdict.value) != ("vanishing gradients", 0)]
    standstill = small_updates(layers) if not found else None
    return [standstill] if standstill is not None else found


def of_loss(record: Record) -> list[Verdict]:
    """Illnesses of the train loss; of several phases none, for the losses of adversaries rise by turns."""
    phases = _phases(record)
    verdict = losses(record, phases[0]) if len(phases) == 1 else None
    return [verdict] if verdict else []


def of_generalisation(record: Record) -> list[Verdict]:
    """Bias and variance, from an accuracy if there is one; otherwise from how the two losses went.

    Neither where the loss need not fall: what such a method is measured by, a queue or a teacher, moves with it.
    """
    curves = record.curves
    if not record.loss_falls:
        return []
    for phase in _phases(record):
        for name in [name for name in curves if name.startswith(f"{phase}/") and name.endswith("accuracy")]:
            quantity = name.removeprefix(f"{phase}/")
            held_out, start = curves.get(f"validation/{quantity}"), finite(curves.get(STEP + name, []))
            if held_out and start and start[0] < 1 - HIGH_VARIANCE:
                verdict = bias_variance(curves[name][-1][1], held_out[-1][1], start[0], quantity=quantity)
                if verdict:
                    return [verdict]
    verdict = overfitting(record)
    return [verdict] if verdict else []


def explain(path: Path, last: Mapping[str, float], loss_falls: bool = True) -> str:
    """What the points of a run that had to stop say of the reason: "; diagnosis: ..." or nothing.

    Args:
        path: of its points.
        last: the last finite values of its metrics.
        loss_falls: as of `read`.
    """
    record = read(path, loss_falls)
    for name, value in last.items():
        series = record.curves.setdefault(name, [])
        series.append((series[-1][0] + 1 if series else 1, value))
    said = [verdict.sentence for verdict in (*of_loss(record), *of_layers(record))]
    return f"; diagnosis: {'; '.join(said)}" if said else ""


def symmetry(layers: Layers) -> Verdict | None:
    """Units that are copies of others from beginning to end: equal weights get equal gradients."""
    lasting = {name: min(finite(series) or [0.0]) for name, series in measured(layers, "symmetric") if len(series) > 1}
    found = beyond(lasting, SYMMETRIC)
    if found is None:
        return None
    name, share, others = found
    return Verdict(
        "symmetry",
        name,
        share,
        f"units are copies: {percent(share)} of the units of {name} have the weights of another all along and so "
        f"compute the same{others}; initialise at random (he_normal), not by a constant",
    )


def dead_units(layers: Layers) -> Verdict | None:
    """Rectifiers that are 0 for a whole batch, in the second half of the run: no gradient will wake them."""
    found = beyond({name: late(series) for name, series in measured(layers, "dead")}, DEAD)
    if found is None:
        return None
    name, share, others = found
    return Verdict(
        "dead units",
        name,
        share,
        f"units are dead: {percent(share)} of the units of {name} are 0 for a whole batch{others}; "
        "lower train.optimizer.learning_rate, or take leaky_relu, elu or gelu, he_normal or a norm",
    )


def saturation(layers: Layers) -> Verdict | None:
    """Outputs at the bounds of a sigmoid, tanh, step or softmax, in the second half of the run."""
    found = beyond({name: late(series) for name, series in measured(layers, "saturated")}, SATURATED)
    if found is None:
        return None
    name, share, others = found
    return Verdict(
        "saturation",
        name,
        share,
        f"activations saturate: {percent(share)} of the outputs of {name} are within 1 % of their bounds, where "
        f"no gradient passes{others}; take smaller initial weights (xavier_normal), a norm or relu",
    )


def vanishing(layers: Layers) -> Verdict | None:
    """A layer whose gradient is a tiny part of that of a later layer of the same network."""
    ratios = dict(ratios_to_later(layers))
    name = min(ratios, key=lambda name: ratios[name][0], default=None)
    if name is None or not ratios[name][0] < VANISHING:
        return None
    ratio, later = ratios[name]
    is_tiny = f"is {ratio:.0e} of that of {later}" if ratio > 0 else f"is 0, and that of {later} is not"
    return Verdict(
        "vanishing gradients",
        name,
        ratio,
        f"gradients vanish: the gradient norm of {name} {is_tiny}; see He initialisation (he_normal), relu instead of "
        "sigmoid, batch norm, and residual connections",
    )


def exploding(record: Record) -> Verdict | None:
    """A gradient that grows a thousandfold on its way back through the layers, or in the course of the run."""
    layers = record.layers
    way_out = "set train.clip_norm, lower train.optimizer.learning_rate, or take smaller initial weights or a norm"
    ratios = dict(ratios_to_later(layers))
    name = max(ratios, key=lambda name: ratios[name][0], default=None)
    if name is not None and ratios[name][0] > EXPLODING:
        ratio, later = ratios[name]
        sentence = f"gradients explode: the gradient norm of {name} is {ratio:.0e} times that of {later}; {way_out}"
        return Verdict("exploding gradients", name, ratio, sentence)
    bad_losses = {
        step for phase in _phases(record) for step, value in _step_loss(record, phase) if not math.isfinite(value)
    }
    growth: dict[str, float] = {}
    for layer, series in measured(layers, "gradient_norm"):
        usual = [value for _, value in series[: (len(series) + 1) // 2] if math.isfinite(value) and value > 0]
        later_values = [value for step, value in series[(len(series) + 1) // 2 :] if step not in bad_losses]
        if usual and later_values:
            growth[layer] = max(value / median(usual) if math.isfinite(value) else math.inf for value in later_values)
    name, factor = worst(growth)
    if name is None or not factor > EXPLODING:
        return None
    usual_then = "times what it was in the first half of the run"
    grew = f"grew to {factor:.0e} {usual_then}" if math.isfinite(factor) else "stopped being finite"
    return Verdict(
        "exploding gradients",
        name,
        factor,
        f"gradients explode: the gradient norm of {name} {grew}; {way_out}",
    )


def large_updates(layers: Layers) -> Verdict | None:
    """Steps that usually change a layer's weights by a tenth and more, or one that overwrote them."""
    series = {name: values for name, series in measured(layers, "update_ratio") if (values := finite(series))}
    excess = {name: max(median(v) / LARGE_UPDATE, max(v) / OVERWRITING) for name, v in series.items()}
    name, times = worst(excess)
    if name is None or not times > 1:
        return None
    usual, most = median(series[name]), max(series[name])
    changes = f"changes the weights of {name} by {percent(usual)} of their norm"
    changed = f"changed the weights of {name} by {percent(most)} of their norm"
    return Verdict(
        "large updates",
        name,
        usual if usual > LARGE_UPDATE else most,
        f"updates are too large: a step {changes if usual > LARGE_UPDATE else changed}{others_beyond(excess, 1)}, "
        "where about 0.1 % is usual; lower train.optimizer.learning_rate or add schedule.warmup_steps",
    )


def small_updates(layers: Layers) -> Verdict | None:
    """Layers that never move, though nothing else is wrong with them."""
    ratios = {name: -max(values) for name, series in measured(layers, "update_ratio") if (values := finite(series))}
    name, ratio = worst(ratios)
    if name is None or not -ratio < SMALL_UPDATE:
        return None
    return Verdict(
        "small updates",
        name,
        -ratio,
        f"updates are too small: no step changes the weights of {name} by more than {-ratio:.0e} of their norm"
        f"{others_beyond(ratios, -SMALL_UPDATE)}, where about 1e-03 is usual; raise train.optimizer.learning_rate",
    )


def losses(record: Record, phase: str) -> Verdict | None:
    """A train loss that rose, that swings, or that did not fall; of one that need not fall, an explosion or swings."""
    curve = record.curves[f"{phase}/loss"]
    values = finite(curve)
    if not values:
        return _not_finite(record, phase)
    start = next(iter([*finite(_step_loss(record, phase)), values[0]]))
    end = median(values[-max(1, len(values) // 4) :])
    unit = max(abs(start), start - min(values)) if record.loss_falls else max(abs(start), NEAR_ZERO)
    if unit == 0:
        return _not_finite(record, phase)
    rose = _rose(curve, start, end, unit) if record.loss_falls else _blew_up(curve, start, end, unit)
    level = unit if record.loss_falls else max(unit, abs(end))  # it may begin far from where it stays
    return (
        rose
        or _not_finite(record, phase)
        or _swings(curve, start, level)
        or (_unlearnt(record, phase, start, end, unit) if record.loss_falls else None)
    )


def _rose(curve: Series, start: float, end: float, unit: float) -> Verdict | None:
    highest = max(finite(curve))
    rise = max((end - start) / unit / DIVERGED, (highest - start) / unit / EXPLODED)
    went = "diverges" if end - start > unit * DIVERGED else "exploded on its way"
    return _risen(curve, went, start, end, rise) if rise > 1 else None


def _blew_up(curve: Series, start: float, end: float, unit: float) -> Verdict | None:
    rise = (max(finite(curve)) - start) / unit / BLOWN_UP
    return _risen(curve, "exploded", start, end, rise) if rise > 1 else None


def _risen(curve: Series, went: str, start: float, end: float, rise: float) -> Verdict:
    highest = max(finite(curve))
    at = next(step for step, value in curve if value == highest)
    sentence = f"the loss {went}: it began at {start:.4g}, was {highest:.4g} at step {at} and ended at {end:.4g}"
    return Verdict("diverging loss", None, rise, f"{sentence}; {_CALM}")


def _not_finite(record: Record, phase: str) -> Verdict | None:
    points_of_loss = [*record.curves[f"{phase}/loss"], *_step_loss(record, phase)]
    bad = [step for step, value in points_of_loss if not math.isfinite(value)]
    if not bad:
        return None
    return Verdict("diverging loss", None, math.inf, f"the loss stopped being finite at step {min(bad)}; {_CALM}")


def _swings(curve: Series, start: float, unit: float) -> Verdict | None:
    if len(curve) < MIN_POINTS or len(finite(curve)) < len(curve):
        return None
    second_half = curve[len(curve) // 2 :]
    slope, intercept = linear_regression(*zip(*second_half, strict=True))
    scatter = pstdev([value - slope * step - intercept for step, value in second_half]) / unit
    if not scatter > OSCILLATING:
        return None
    sentence = (
        f"the loss oscillates: in the second half of the run it scatters by {scatter * unit:.2g} around its trend, "
        f"where it began at {start:.4g}; {_CALM}"
    )
    return Verdict("oscillating loss", None, scatter, sentence)


def _unlearnt(record: Record, phase: str, start: float, end: float, unit: float) -> Verdict | None:
    fall = (start - end) / unit
    if not fall < UNLEARNT or f"{phase}/accuracy" in record.curves:
        return None
    sentence = (
        f"high bias: the train loss began at {start:.4g} and ended at {end:.4g}, so nothing was learnt; train for "
        "longer, raise train.optimizer.learning_rate, or take a larger network"
    )
    return Verdict("high bias", None, fall, sentence)


def bias_variance(
    train: float, validation: float, baseline: float, ideal: float = 1.0, quantity: str = "accuracy"
) -> Verdict | None:
    """Say whether a network fits its train data badly (high bias) or other data worse (high variance).

    Both are shares of the way from `baseline` to `ideal`. Bias is what the better of the two scores lacks: a train
    score measured under augmentation or dropout is no bound for the network. Where both are high, the greater counts.

    Args:
        train: score on the train split.
        validation: score on the validation split.
        baseline: of a network that knows nothing: chance, or the untrained network's score.
        ideal: the best score there can be; 1 for an accuracy, 0 for a loss.
        quantity: what the scores are, for the sentence.

    Raises:
        ValueError: `ideal` is `baseline`.
    """
    way = ideal - baseline
    if way == 0:
        raise ValueError(f"bias_variance: ideal must differ from baseline; got {ideal} for both")
    variance = (train - validation) / way
    bias = 1 - max((train - baseline) / way, (validation - baseline) / way)
    scores = f"{quantity} is {train:.3g} on train and {validation:.3g} on validation"
    if variance > HIGH_VARIANCE and (variance >= bias or bias <= HIGH_BIAS):
        sentence = f"high variance: {scores}; more data, augmentation, weight decay or dropout would help"
        return Verdict("high variance", None, variance, sentence)
    if bias > HIGH_BIAS:
        sentence = (
            f"high bias: {scores}, where a network that knows nothing has {baseline:.3g} and {ideal:.3g} is the best; "
            "a larger network, longer training or less regularisation would help"
        )
        return Verdict("high bias", None, bias, sentence)
    return None


def overfitting(record: Record) -> Verdict | None:
    """A validation loss that rises while the train loss falls."""
    phases = _phases(record)
    held_out = record.curves.get("validation/loss", [])
    if not phases or len(held_out) < 3 or len(finite(held_out)) < len(held_out):
        return None
    train = record.curves[f"{phases[-1]}/loss"]
    start = next(iter([*finite(_step_loss(record, phases[-1])), train[0][1]]))
    best_step, least = min(held_out, key=lambda point: point[1])
    end, fell = held_out[-1][1], start - least
    then = [value for step, value in train if step <= best_step] or [start]
    if not fell > 0 or not (end - least) / fell > RISEN or not train[-1][1] < then[-1]:
        return None
    return Verdict(
        "high variance",
        None,
        (end - least) / fell,
        f"high variance: the validation loss rose from {least:.4g} at step {best_step} to {end:.4g}, while the train "
        f"loss went on falling, from {then[-1]:.4g} to {train[-1][1]:.4g}; more data, augmentation, weight decay or "
        "dropout would help, and train.restore_best keeps the best weights",
    )


def of_representation(record: Record) -> list[Verdict]:
    """Collapse of features: to one point, to a line, or, against the most there was, to few directions."""
    deviations, ranks = (
        finite(record.curves.get(REPRESENTATION + name, [])) for name in ("deviation", "effective_rank")
    )
    if not deviations or not ranks:
        return []
    ways_out = "what keeps them apart is negatives, a stop-gradient with a predictor, centring, or a variance term"
    if deviations[-1] < COLLAPSED or ranks[-1] < ON_A_LINE:
        sentence = (
            f"representation collapse: the features of all images are nearly the same (deviation {deviations[-1]:.2g}, "
            f"of 1 when evenly spread; effective rank {ranks[-1]:.3g}); {ways_out}; see also a lower learning rate"
        )
        return [Verdict("representation collapse", None, deviations[-1], sentence)]
    if ranks[-1] * LOST_RANK < max(ranks):
        sentence = (
            f"dimensional collapse: the effective rank of the features fell from {max(ranks):.3g} to {ranks[-1]:.3g}; "
            f"{ways_out}; see also a wider projector"
        )
        return [Verdict("dimensional collapse", None, ranks[-1] / max(ranks), sentence)]
    return []


def _phases(record: Record) -> list[str]:
    """Phases that have a loss, in the order in which they were logged first."""
    named = [name.removesuffix("/loss") for name in record.curves if name.endswith("/loss")]
    return [phase for phase in named if phase not in ("validation", "test") and not phase.startswith(STEP)]


def _step_loss(record: Record, phase: str) -> Series:
    return record.curves.get(f"{STEP}{phase}/loss", [])
