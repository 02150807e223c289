"""What a composed method stands on."""

from typing import Any

from mlml.config.declared import Declared


class ComposedConfig(Declared):
    """Base of the configs of mlml/composed.

    Attributes:
        base: the trained experiment that the method stands on, of the same data set; it stays as it is.
    """

    base: str

    def misfit(self, base: Any) -> str | None:
        """Return what in this config does not go with that of the base, as "<key>: <sentence>"; None for nothing."""
        return None
