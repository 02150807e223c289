"""Faults of a declaration, one sentence each."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from mlml.config.declared import C, Declared


class DeclarationError(ValueError):
    """A declaration that cannot be run.

    Attributes:
        faults: every fault found, one sentence each, beginning with its dotted path.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class NetworkError(ValueError):
    """Carries a network's own faults through pydantic, which would keep only their text."""

    def __init__(self, schema: type[Declared], error: ValidationError) -> None:
        super().__init__(str(error))
        self.schema, self.error = schema, error


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error sentence: the nearest known name, and all known names."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(known) or 'none'})"


def parse(schema: type[C], values: Any, where: str, other_keys: Iterable[str] = ()) -> C:
    """Validate `values` by `schema`.

    Args:
        schema: the config class.
        values: what the file holds at `where`.
        where: dotted path of `values`, the beginning of each sentence.
        other_keys: further names to suggest for an unknown key.

    Raises:
        DeclarationError: with every fault of `values`.
    """
    if not isinstance(values, Mapping):
        raise DeclarationError([f"{where}: must be a mapping; got {values!r}"])
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        raise DeclarationError(faults(error, schema, values, where, other_keys)) from None


def faults(
    error: ValidationError, schema: type[BaseModel], values: Any, where: str, other_keys: Iterable[str] = ()
) -> list[str]:
    """Return one sentence for each fault that pydantic found."""
    sentences = []
    for detail in error.errors():
        path, node = _walk(detail["loc"], values, detail["type"] == "missing")
        at = ".".join([where, *path])
        inner = detail.get("ctx", {}).get("error")
        if isinstance(inner, NetworkError):
            sentences += faults(inner.error, inner.schema, node, at)
        elif isinstance(inner, DeclarationError):
            sentences += [f"{at}.{fault}" for fault in inner.faults]
        elif detail["type"] == "extra_forbidden":
            known = _keys_at(schema, detail["loc"][:-1])
            extra = other_keys if len(detail["loc"]) == 1 else ()
            sentences.append(f"{at}: unknown key{suggest(path[-1], [*known, *extra])}")
        elif detail["type"] == "missing":
            sentences.append(f"{at}: required, but not given")
        elif detail["type"] in ("literal_error", "union_tag_invalid"):
            known = _choices(detail)
            tag = _tag_key(detail)
            given = node.get(tag) if isinstance(node, Mapping) else node
            at = f"{at}.{tag}" if isinstance(node, Mapping) else at
            sentences.append(f"{at}: unknown value {given!r}{suggest(str(given), known)}")
        elif detail["type"] == "union_tag_not_found":
            sentences.append(f"{at}.{_tag_key(detail)}: required, but not given")
        elif detail["type"] == "value_error":
            sentences.append(f"{at}: {inner}")
        else:
            message = detail["msg"].removeprefix("Input ").removeprefix("should ")
            sentences.append(f"{at}: must {message}; got {node!r}")
    return sentences


def _walk(location: tuple[int | str, ...], values: Any, ends_missing: bool) -> tuple[list[str], Any]:
    """Dotted path of a pydantic location, and the value there; tags of unions are no part of the path."""
    path: list[str] = []
    node = values
    for index, part in enumerate(location):
        if isinstance(node, Mapping) and (part in node or (ends_missing and index == len(location) - 1)):
            path.append(str(part))
            node = node.get(part)
        elif isinstance(node, list | tuple) and isinstance(part, int) and part < len(node):
            path.append(str(part))
            node = node[part]
        elif not isinstance(node, Mapping):
            break  # the branch of a plain union
    return path, node


def _keys_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the model that a pydantic location stands in."""
    models: list[type[BaseModel]] = [schema]
    for part in location:
        for model in models:
            if part in model.model_fields:
                models = _models(model.model_fields[str(part)].annotation)
                break
        else:
            tagged = [model for model in models if part in tags(model)]
            models = tagged or models
    return sorted({name for model in models for name in model.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def tags(model: type[BaseModel]) -> tuple[str, ...]:
    """Names by which a member of a tagged union is chosen; none for other models."""
    for key in ("name", "type", "layer"):
        if key in model.model_fields and get_args(model.model_fields[key].annotation):
            return get_args(model.model_fields[key].annotation)
    return ()


def _tag_key(detail: Any) -> str:
    """Name of the field that tells the members of a tagged union apart."""
    return str(detail["ctx"].get("discriminator", "name")).strip("'")


def _choices(detail: Any) -> list[str]:
    text = detail["ctx"].get("expected") or detail["ctx"].get("expected_tags")
    return [choice.strip(" '") for choice in text.replace(" or ", ", ").split(",")]
