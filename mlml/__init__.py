"""mlml: comparing ways of learning under one protocol. `mlml.load(folder)` gives a trained method back."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlml.model_folder import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import torch only for those who load a model; checking a declaration does not need it."""
    if name == "load":
        from mlml.model_folder import load

        return load
    raise AttributeError(f"module 'mlml' has no attribute {name!r}")
