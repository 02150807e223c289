"""Illnesses of generative methods; verdicts as those of `mlml.diagnostics`, from the metrics that a method logs."""

from collections.abc import Mapping
from statistics import median

from mlml.diagnostics import Record, Verdict
from mlml.series import Series, finite

_ACTIVE, _COLLAPSED = "validation/active_dimensions", "validation/collapsed_dimensions"
_BIN = "validation/loss/bin_"

WATCHED = (
    *("discriminator/accuracy", "discriminator/margin", "critic/margin", "generator/diversity"),
    *(_ACTIVE, _COLLAPSED),
    *(f"{_BIN}{quarter}" for quarter in range(4)),
)
"""Metrics that alarms during a run are judged by."""

LASTING = 3
"""Evaluations in a row with an alarm that end a run: a game may lose its balance and find it again."""

MIN_POINTS = 6
"""Fewer points of a metric tell of no course."""

ALWAYS_RIGHT, APART = 0.99, 9.2
"""Accuracy of the discriminator, and distance of its mean logits: with sigmoids of 0.99 and 0.01 the generator of a
minimax game has a hundredth of its gradient left (Arjovsky & Bottou 2017, arXiv:1701.04862, theorem 2.4)."""

ALIKE, LOST_DIVERSITY, SETTLED = 0.25, 2.0, 20
"""Distance of generated images to their nearest other, over that of real ones; by how much it fell from its most; and
after how many points it need not have fallen. Images of an untrained generator may be alike, which is no illness."""

FAR_APART, GROWN = 100.0, 10.0
"""Distance of the mean logits in the end, and over that of the first half of the run: the logits of players that do
not diverge settle, and the distance that a critic estimates falls."""

FEW_ACTIVE, FEW_OF_ALL = 2.0, 0.1
"""Latent dimensions that are active, and their share of all. A healthy VAE leaves half of 50 unused (Burda et al. 2016,
table 1), and data may have few factors: only where fewer than two are left of many, or none, is the decoder alone."""

RISEN, LEARNT = 2.0, 0.5
"""How far a loss of some timesteps rose from its least, to be an illness; and to what share of its first another fell,
for one that did not fall at all to be an illness. Evaluations draw the same noise each time, so their losses hardly
jump."""

SHARE_COVERED, CLASSES_APART = 0.5, 0.4
"""Coverage of real images by samples, over that by as many real ones; and the total variation between the classes of
both, beyond that of real ones, which four of ten classes that are never drawn have."""

SHARE_LIKE = 0.7
"""Precision of samples, over that of as many real images, below which more is amiss than that some are missed."""


def heard(record: Record) -> list[Verdict]:
    """Illnesses so far of a run that goes on; a posterior may be collapsed at first, until the decoder has use for it.

    Those of the end of a run are all the rest of this module's.
    """
    late = len(record.curves.get(_ACTIVE, [])) >= MIN_POINTS
    return [*of_adversaries(record), *of_timesteps(record), *(of_latents(record) if late else [])]


def of_latents(record: Record) -> list[Verdict]:
    """Posterior collapse at the end of the run: (nearly) no latent dimension tells anything of the image.

    The decoder then makes every image of nothing (Bowman et al. 2016, arXiv:1511.06349, section 3).
    """
    active, collapsed = (record.curves.get(name, []) for name in (_ACTIVE, _COLLAPSED))
    if not active or not collapsed:
        return []
    left, lost = active[-1][1], collapsed[-1][1]
    if not (left < FEW_ACTIVE and left <= FEW_OF_ALL * (left + lost)):
        return []
    sentence = (
        f"posterior collapse: {lost:.3g} of {left + lost:.0f} latent dimensions tell nothing of the image (KL below "
        "0.01 nats), so the decoder works without them; lower beta, set kl_warmup, or take a weaker decoder"
    )
    return [Verdict("posterior collapse", None, left, sentence)]


def of_timesteps(record: Record) -> list[Verdict]:
    """Illnesses of a diffusion model at some of its noise levels, which the mean over all of them hides.

    The loss of a quarter of the timesteps that rises again, or that does not fall while another's does.
    """
    series = {name: record.curves.get(name, []) for name in WATCHED if name.startswith(_BIN)}
    ends = {name: end for name, points in series.items() if (end := _end(points)) is not None}
    firsts = {name: finite(series[name])[0] for name in ends}
    learnt = any(end < LEARNT * firsts[name] for name, end in ends.items())
    found = []
    for name, end in ends.items():
        quarter, least = int(name.removeprefix(_BIN)) + 1, min(finite(series[name]))
        where = f"the loss at the timesteps of quarter {quarter} of 4 (1 has the least noise)"
        if end > RISEN * least:
            sentence = (
                f"{where} rises: {end:.3g}, where it was {least:.3g} at best; lower train.optimizer.learning_rate, set "
                "train.clip_norm, or train for fewer steps"
            )
            found.append(Verdict("rising loss of timesteps", None, end, sentence))
        elif learnt and end >= firsts[name]:
            sentence = (
                f"{where} does not fall: {end:.3g}, and {firsts[name]:.3g} at first, while that of others does; take "
                "another prediction or noise_schedule, or a wider denoiser"
            )
            found.append(Verdict("timesteps not learnt", None, end, sentence))
    return found


def of_samples(metrics: Mapping[str, float]) -> list[Verdict]:
    """Mode collapse, or blur, as it shows in samples that were compared with real images; none where nothing was.

    Args:
        metrics: of an evaluation: `test/coverage`, `test/precision` and `test/class_distance` of samples, as
            `sample_quality` measures them, and under `floor/` the same of as many images of the train split.
    """
    found = []
    coverage, reached = metrics.get("test/coverage"), metrics.get("floor/coverage")
    precision, real = metrics.get("test/precision"), metrics.get("floor/precision")
    if coverage is not None and reached is not None and coverage < SHARE_COVERED * reached:
        if precision is not None and real is not None and precision < SHARE_LIKE * real:
            kind, sentence = (
                "unlike real images",
                f"samples are unlike real images: {100 * precision:.3g} % lie among them, where of train images "
                f"{100 * real:.3g} % do, and so they are near {100 * coverage:.3g} % of them; blur and artefacts look "
                "so: train longer, or take a method whose images are sharper",
            )
        else:
            kind, sentence = (
                "mode collapse",
                f"mode collapse: samples are near {100 * coverage:.3g} % of the real images, where as many train "
                f"images are near {100 * reached:.3g} %; train longer, or take a method that covers more",
            )
        found.append(Verdict(kind, None, coverage, sentence))
    apart = metrics.get("test/class_distance")
    if apart is not None and apart > metrics.get("floor/class_distance", 0.0) + CLASSES_APART:
        sentence = (
            f"mode collapse: {100 * apart:.3g} % of the samples are of other classes than their "
            "shares among real images allow, as the class histogram shows; train longer, or take a method that covers "
            "more"
        )
        found.append(Verdict("classes missed", None, apart, sentence))
    return found


def of_adversaries(record: Record) -> list[Verdict]:
    """Illnesses of two players at the end of the run: one that runs away, that always wins, or whose images are alike.

    The end is the last quarter of the points of a metric; a median counts, so that one odd step makes no illness.
    """
    found = (_diverging(record) or _saturated(record), _collapsed(record))
    return [verdict for verdict in found if verdict is not None]


def _diverging(record: Record) -> Verdict | None:
    for player in ("discriminator", "critic"):
        series = record.curves.get(f"{player}/margin", [])
        end = _end(series)
        before = median(abs(value) for _, value in series[: len(series) // 2]) if end is not None else 0.0
        if end is not None and abs(end) > FAR_APART and abs(end) > GROWN * before:
            sentence = (
                f"the players diverge: the {player} holds real and generated images {abs(end):.3g} apart, where it was "
                f"{before:.3g} in the first half of the run; lower train.optimizer.learning_rate, set train.clip_norm, "
                "or take spectral_norm or r1_gamma"
            )
            return Verdict("diverging players", None, abs(end), sentence)
    return None


def _saturated(record: Record) -> Verdict | None:
    accuracy, margin = (_end(record.curves.get(f"discriminator/{name}", [])) for name in ("accuracy", "margin"))
    if accuracy is None or margin is None or accuracy < ALWAYS_RIGHT or margin < APART:
        return None
    sentence = (
        f"the discriminator saturates: it judges {100 * accuracy:.1f} % of images rightly, with logits {margin:.3g} "
        "apart, so its judgement tells the generator nothing; set spectral_norm or r1_gamma, lower "
        "train.optimizer.learning_rate or discriminator_width, or take wgan_gp"
    )
    return Verdict("discriminator saturation", None, accuracy, sentence)


def _collapsed(record: Record) -> Verdict | None:
    series = record.curves.get("generator/diversity", [])
    end = _end(series)
    most = max((value for _, value in series), default=0.0)
    fell = end is not None and end * LOST_DIVERSITY < most
    if end is None or not end < ALIKE or not (fell or len(series) >= SETTLED):
        return None
    sentence = (
        f"mode collapse: generated images are alike: the nearest other of a batch is {end:.2g} times as far as that of "
        f"real images, where it was {most:.2g} at best; lower train.optimizer.learning_rate or "
        "generator_rate, set spectral_norm or r1_gamma, or take wgan_gp"
    )
    return Verdict("mode collapse", None, end, sentence)


def _end(series: Series) -> float | None:
    """Median of the last quarter; None of a series too short to have one."""
    values = finite(series)
    return median(values[-max(1, len(values) // 4) :]) if len(values) >= MIN_POINTS else None
