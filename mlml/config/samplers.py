"""Samplers that are compared: each entry names one and its own numbers; what is searched is the same for all."""

import re
from collections.abc import Mapping
from typing import Any

from mlml.config.search import Direction, SearchConfig
from mlml.config.sentences import DeclarationError, parse, suggest


def shared_by(
    name: str, space: Mapping[str, Any], trials: int, metric: str, direction: Direction = "minimize"
) -> dict[str, Any]:
    """Return what the searches of a comparison have in common, as the keys of a search.

    Args:
        name: of what is searched.
        space: by path, the dimensions.
        trials: of each search; nothing is pruned, so that a trial costs all of them the same.
        metric: of the validation split.
        direction: of the metric.
    """
    common = {"experiment": name, "objective": name, "metric": metric, "direction": direction}
    return {**common, "space": dict(space), "trials": trials, "pruner": "none"}


def sampler_entries(entries: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entries by label, each with `method` and all numbers of that sampler, defaults included.

    Args:
        entries: by label, the name of a file of mlml/search as `method`, and numbers of its own.
        shared: what all have in common; see `shared_by`.

    Raises:
        DeclarationError: with the faults of every entry, each beginning with its label.
    """
    found: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    for label, entry in entries.items():
        try:
            found[label] = _complete(label, entry, shared)
        except DeclarationError as error:
            faults += error.faults
    if faults:
        raise DeclarationError(faults)
    return found


def _complete(label: str, entry: Any, shared: Mapping[str, Any]) -> dict[str, Any]:
    from mlml import catalogue

    known = catalogue.names("search")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", label):
        raise DeclarationError([f"{label}: a name is made of letters, digits, '_' and '-'; got {label!r}"])
    if not isinstance(entry, Mapping) or "method" not in entry:
        raise DeclarationError([f"{label}: must be a mapping with the key 'method' (known: {', '.join(known)})"])
    if entry["method"] not in known:
        raise DeclarationError([f"{label}.method: unknown name {entry['method']!r}{suggest(entry['method'], known)}"])
    schema = catalogue.config_class("search", entry["method"])
    own = [key for key in schema.model_fields if key not in SearchConfig.model_fields]
    others = [key for key in entry if key != "method" and key not in own]
    if others:
        raise DeclarationError(
            [f"{label}.{key}: is no number of {entry['method']!r} alone{suggest(str(key), own)}" for key in others]
        )
    numbers = {key: value for key, value in entry.items() if key != "method"}
    config = parse(schema, {**numbers, **shared}, label)
    return {"method": entry["method"], **config.model_dump(mode="json", include=set(own))}
