"""The diagnosis of an experiment as one file: every seed's series by layer, and what they say.

{"verdicts": [{"kind", "layer", "value", "sentence", "seeds"}, ...],
 "seeds": {"0": {"steps": [...], "layers": {"encoder.layers.0": {"gradient_norm": [...], ...}}, "verdicts": [...]}}}

A layer's numbers stand in the order of `steps`; null is a number that is not finite, or that was not measured.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlml.diagnostics import HEALTHY, Record, Verdict, diagnose


def write(path: Path, records: Mapping[int, Record]) -> list[str]:
    """Write what the runs of an experiment recorded, by seed; returns the sentences, as `sentences` does.

    The same records give the same bytes.
    """
    content = summarise(records)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, allow_nan=False) + "\n")
    return sentences(content)


def summarise(records: Mapping[int, Record]) -> dict[str, Any]:
    """The content of the file."""
    found = {seed: diagnose(record) for seed, record in records.items()}
    kinds = list(dict.fromkeys(verdict.kind for verdicts in found.values() for verdict in verdicts))
    merged = []
    for kind in kinds:
        of_kind = {seed: v for seed, verdicts in found.items() for v in verdicts if v.kind == kind}
        merged.append(_plain(next(iter(of_kind.values()))) | {"seeds": list(of_kind)})
    seeds = {str(seed): _seed(record, found[seed]) for seed, record in records.items()}
    return {"verdicts": merged, "seeds": seeds}


def sentences(content: Mapping[str, Any]) -> list[str]:
    """The verdicts of a file's content; of several seeds, each says which ones it is about."""
    several = len(content["seeds"]) > 1
    return [(_about(verdict["seeds"]) if several else "") + verdict["sentence"] for verdict in content["verdicts"]]


def text(found: list[str]) -> str:
    """Sentences as one text; that there is no illness is said, too."""
    return "\n".join(found) or HEALTHY


def _about(seeds: list[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: "


def _seed(record: Record, verdicts: list[Verdict]) -> dict[str, Any]:
    every = {step for measures in record.layers.values() for series in measures.values() for step, _ in series}
    steps = sorted(every)
    layers: dict[str, dict[str, list[float | None]]] = {}
    for layer, measures in record.layers.items():
        by_step = {measure: dict(series) for measure, series in measures.items()}
        layers[layer] = {m: [_number(values.get(step)) for step in steps] for m, values in by_step.items()}
    return {"steps": steps, "layers": layers, "verdicts": [_plain(verdict) for verdict in verdicts]}


def _plain(verdict: Verdict) -> dict[str, Any]:
    return verdict._asdict() | {"value": _number(verdict.value)}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
