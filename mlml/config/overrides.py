"""Entries with other values at some of their paths."""

from collections.abc import Mapping
from typing import Any

from mlml.config.sentences import DeclarationError


def overridden(entry: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of an entry with the values at some dotted paths replaced; mappings on the way are made.

    Raises:
        DeclarationError: a path leads through a value that is no mapping.
    """
    result: dict[str, Any] = _copy(entry)
    for path, value in overrides.items():
        *parents, last = path.split(".")
        node = result
        for depth, parent in enumerate(parents, 1):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                inside = ".".join(parents[:depth])
                raise DeclarationError([f"{path}: '{inside}' must be a mapping to hold it; got {node!r}"])
        node[last] = value
    return result


def _copy(node: Any) -> Any:
    return {key: _copy(value) for key, value in node.items()} if isinstance(node, Mapping) else node
