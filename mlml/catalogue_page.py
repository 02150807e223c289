"""The page that lists all that can be declared, made from the configs themselves: `mlml catalogue`."""

import ast
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mlml import catalogue, config
from mlml.config.sentences import tags

FAMILIES = {
    "Data sources": "data/sources",
    "Supervised methods": "supervised",
    "Pretext methods": "pretext",
    "Probes": "probes",
    "Generative methods": "generative",
    "Composed methods": "composed",
    "Evaluations of generative methods": "evaluations",
    "Searches": "search",
    "Studies": "studies",
    "Illustrations": "illustrations",
    "Networks": "models",
}
"""Title -> folder of mlml/ whose files can be named."""

CHOICES = {
    "Optimizers": config.OptimizerConfig,
    "Schedules": config.ScheduleConfig,
    "Activations": config.ActivationConfig,
    "Norms": config.NormConfig,
    "Initialisers": config.InitialiserConfig,
    "Layers": config.LayerConfig,
    "Samplers": config.SamplerConfig,
    "Searched values": config.Dimension,
}
"""Title -> field type of a closed table, a union told apart by the name, or by the type."""

SHARED: dict[str, type[BaseModel]] = {
    "Keys of every data set": config.DataEntry,
    "The training loop": config.TrainConfig,
    "SimCLR's augmentation": config.AugmentConfig,
    "Shift and flip": config.ShiftFlipConfig,
    "The denoiser of diffusion": config.DenoiserConfig,
    "The denoiser of latent vectors": config.VectorDenoiserConfig,
    "The encoder of captions": config.TextEncoderConfig,
    "An experiment with what a search found": config.SearchedEntry,
    "A comparison of the report": config.ComparisonConfig,
}
"""Title -> config that several methods share."""

BEGINNING = """# Catalogue

All that `params.yaml` can declare: every method, network and choice with its numbers, their types, ranges and defaults.
This page is made by a command, from the code:

```bash
mlml catalogue
```
"""

_BOUNDS = {Gt: ("gt", "> {}"), Ge: ("ge", ">= {}"), Lt: ("lt", "< {}"), Le: ("le", "<= {}")}
_NAMES = {float: "float", int: "int", bool: "true or false", str: "text", type(None): "null", Any: "any value"}


def page() -> str:
    """Return the page, in Markdown."""
    parts = [BEGINNING]
    for title, folder in FAMILIES.items():
        parts.append(f"## {title}\n")
        for name in catalogue.names(folder):
            about = ast.get_docstring(ast.parse(catalogue.method_file(folder, name).read_text())) or ""
            parts.append(_entry(f"`{name}`", about.split("\n")[0], catalogue.config_class(folder, name)))
    for title, union in CHOICES.items():
        parts.append(f"## {title}\n")
        for member in _members(union):
            names = ", ".join(f"`{name}`" for name in tags(member))
            parts.append(_entry(names, _about(member), member, skip=("name", "type", "layer")))
    parts.append("## Shared numbers\n")
    parts += [_entry(title, _about(schema), schema) for title, schema in SHARED.items()]
    return "\n".join(parts)


def _entry(heading: str, about: str, schema: type[BaseModel], skip: Iterable[str] = ()) -> str:
    """A heading, a sentence, and a table of the fields."""
    lines = [f"### {heading}", about, ""]
    fields = {name: field for name, field in schema.model_fields.items() if name not in skip}
    if fields:
        lines += ["| key | type | default |", "|---|---|---|"]
        lines += [f"| `{name}` | {_type(field)} | {_default(field)} |" for name, field in fields.items()]
        lines.append("")
    return "\n".join(lines)


def _type(field: FieldInfo) -> str:
    return _text(field.annotation) + _range(field.metadata)


def _text(annotation: Any) -> str:
    """What may stand there, for people."""
    for title, union in CHOICES.items():
        if _members(union) == _members(annotation) != ():
            return f"one of the [{title.lower()}]({_anchor(title)})"
    for title, schema in SHARED.items():
        if annotation is schema:
            return f"[{title}]({_anchor(title)})"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *metadata = arguments
        return _text(inner) + _range(metadata)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_text(argument) for argument in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_text(arguments[0])}"
        return f"[{', '.join(_text(argument) for argument in arguments)}]"
    if origin is dict:
        return f"mapping of {_text(arguments[0])} to {_text(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, config.NetworkConfig):
        return "one of the [networks](#networks)"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        keys = ", ".join(f"`{name}` ({_type(field)})" for name, field in annotation.model_fields.items())
        return f"mapping: {keys}"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _range(metadata: Iterable[Any]) -> str:
    """Bounds of a number or a length, from what pydantic keeps of them."""
    bounds = []
    for item in [inner for outer in metadata for inner in (getattr(outer, "metadata", None) or [outer])]:
        if isinstance(item, MinLen):
            bounds.append(f"at least {item.min_length} long")
        elif type(item) in _BOUNDS:
            attribute, text = _BOUNDS[type(item)]
            bounds.append(text.format(getattr(item, attribute)))
    return f", {' and '.join(bounds)}" if bounds else ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return f"`{value.name}`" if hasattr(value, "name") else "its defaults"
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower().replace('none', 'null')}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f"`{value}`"


def _members(union: Any) -> tuple[type[BaseModel], ...]:
    """Config classes of a union told apart by a name, whether or not it is annotated."""
    while get_origin(union) is Annotated:
        union = get_args(union)[0]
    found = get_args(union) if get_origin(union) in (Union, types.UnionType) else ()
    return tuple(cls for cls in found if isinstance(cls, type) and issubclass(cls, BaseModel) and tags(cls))


def _about(schema: type[BaseModel]) -> str:
    return " ".join((schema.__doc__ or "").split("Attributes:")[0].split())


def _anchor(title: str) -> str:
    """Where a heading can be linked to."""
    return "#" + title.lower().replace(" ", "-").replace("'", "")
