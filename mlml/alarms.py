"""Illnesses of generative methods; verdicts as those of `mlml.diagnostics`, from the metrics that a method logs."""

from mlml.diagnostics import Record, Verdict

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
