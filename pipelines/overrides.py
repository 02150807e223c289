"""Other numbers for a run: `pretext.simclr.temperature=0.2,0.5`, put into the text of params.yaml.

An entry that shares a mapping with others by a YAML alias or a merge key gets a copy of its own, so that only it
changes; an override below `protocol` changes what is shared itself.
"""

import copy
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import Comment, CommentedMap, Format
from ruamel.yaml.error import YAMLError

from mlml import declaration
from mlml.config import DeclarationError

SHARED = "protocol"


class OverrideError(ValueError):
    """An override that cannot be read; the message says what one looks like."""


def parse(text: str) -> tuple[str, list[Any]]:
    """Read `path=value[,value...]`; values are YAML, so that `[1, 2]` is one value that is a list.

    Raises:
        OverrideError: there is no path, no value, or the values are not YAML.
    """
    path, equals, values = text.partition("=")
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)+", path.strip()):
        raise OverrideError(
            f"{text!r}: must be a dotted path, '=', and values separated by commas, as in a.b.c=0.1,0.2"
        )
    try:
        found = YAML(typ="safe").load(f"[{values}]")
    except YAMLError:
        raise OverrideError(f"{text!r}: the values are not valid YAML; got {values!r}") from None
    if not found:
        raise OverrideError(f"{text!r}: has no value after the '='")
    return path.strip(), list(found)


def combinations(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every choice of one value for each path, the last path varying fastest."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def name(overrides: Mapping[str, Any]) -> str:
    """Make a name that a person recognises, and that git accepts: `simclr-temperature-0.2`."""
    parts = [f"{'-'.join(_ends(path))}-{value}" for path, value in overrides.items()]
    return re.sub(r"[^\w.-]+|\.{2,}", "_", "-".join(parts)).strip("._-")[:100].rstrip("._-")


def apply(text: str, overrides: Mapping[str, Any]) -> str:
    """Return the text of params.yaml with other values at some dotted paths; comments stay.

    Raises:
        DeclarationError: a path leads through a value that is no mapping, or names no entry.
    """
    yaml = YAML()
    yaml.width = 4096
    content = yaml.load(text)
    for path, value in overrides.items():
        *parents, last = path.split(".")
        node, shared = content, parents[0] == SHARED
        for depth, parent in enumerate(parents):
            if depth < 2 and parent not in node:
                known = ", ".join(map(str, node))
                raise DeclarationError([f"{path}: there is no {'.'.join(parents[: depth + 1])!r} (known: {known})"])
            child = node.get(parent, CommentedMap())
            if not isinstance(child, Mapping):
                where = ".".join(parents[: depth + 1])
                raise DeclarationError([f"{path}: {where!r} must be a mapping to hold it; got {child!r}"])
            if not shared:
                child = node[parent] = _own(child)
            node = child
        node[last] = value
    stream = io.StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def check(text: str, overrides: Mapping[str, Any]) -> declaration.Declaration:
    """Check the declaration that the overrides make.

    Raises:
        DeclarationError: with every fault.
    """
    return declaration.check(YAML(typ="safe").load(apply(text, overrides)))


def _own(node: Mapping[str, Any]) -> CommentedMap:
    """Copy a mapping, without its anchor and with what it merged in; the values stay shared."""
    mine = CommentedMap(node.items())
    for attribute in (Comment.attrib, Format.attrib):
        if hasattr(node, attribute):
            setattr(mine, attribute, copy.copy(getattr(node, attribute)))
    return mine


def _ends(path: str) -> list[str]:
    """Entry and last key of a path; the section and what lies between say little."""
    parts = path.split(".")
    return [parts[1], parts[-1]] if len(parts) > 2 else parts[1:]
