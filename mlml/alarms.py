"""Illnesses of generative methods; verdicts as those of `mlml.diagnostics`, from the metrics that a method logs."""

from statistics import median

from mlml.diagnostics import Record, Verdict
from mlml.series import Series, finite

WATCHED = ("discriminator/accuracy", "discriminator/margin", "critic/margin", "generator/diversity")
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


def of_latents(record: Record) -> list[Verdict]:
    """Posterior collapse at the end of the run: (nearly) no latent dimension tells anything of the image.

    The decoder then makes every image of nothing (Bowman et al. 2016, arXiv:1511.06349, section 3).
    """
    active, collapsed = (
        record.curves.get(f"validation/{name}", []) for name in ("active_dimensions", "collapsed_dimensions")
    )
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
