"""The whole of params.yaml, read and checked at once: before any stage starts, and before torch is imported.

Every section but `protocol`, `report` and `threads` maps names to entries. An entry of `data` is a data set, one of
`schedules` says when Prefect runs what by itself; an entry of any other section is an experiment: `method` names a file
of the section's folder in mlml/, `dataset` an entry of `data`, `seeds` the seeds to run, and the remaining keys are the
fields of the method's own `Config`. An entry of `composed` also has a `base`, the trained experiment that it stands on;
one of `illustration` has neither data nor seeds. What entries say of each other is checked by
`mlml.declaration_faults`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mlml import catalogue
from mlml.config import ComparisonConfig, DataEntry, DeclarationError, Declared, Schedule, parse, suggest
from mlml.declaration_faults import comparison_faults, reference_faults

FAMILIES = ("supervised", "pretext", "probe", "generative", "composed", "evaluation", "search", "study", "illustration")
"""Sections whose entries are experiments."""

OPTIONAL = ("composed", "evaluation", "study", "illustration")
"""Families whose section may be left out: dvc.yaml has an empty one for then."""

_NAME = r"[A-Za-z0-9_-]+"


class _Common(Declared):
    """Keys of every experiment."""

    method: str
    dataset: str
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"must be different from each other; got {list(seeds)}")
        return seeds


class _Illustrated(Declared):
    """Keys of every illustration."""

    method: str


class ReportConfig(Declared):
    """The `report` section."""

    title: str = "Experiments"
    comparisons: tuple[ComparisonConfig, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """An entry of `data`."""

    name: str
    source: str
    config: Declared  # the source's
    entry: DataEntry
    labelled: bool
    masked: bool
    captioned: bool
    channels: int | None  # of the images; None: not known before they are read

    def targets(self) -> list[str]:
        """What a method can be told of the images."""
        given = {"labels": self.labelled, "masks": self.masked, "captions": self.captioned}
        return [name for name in given if given[name]]


@dataclass(frozen=True)
class Experiment:
    """An entry of any other section; `raw` is the entry as it stands in the file."""

    name: str
    family: str
    method: str
    dataset: str  # "" of an illustration
    seeds: tuple[int, ...]  # none of an illustration
    config: Any  # the method's Config
    raw: Mapping[str, Any] = field(repr=False)

    def resolved(self) -> dict[str, Any]:
        """Everything that the entry says or leaves to defaults, as plain values."""
        common: dict[str, Any] = {"method": self.method}
        if self.family != "illustration":
            common |= {"dataset": self.dataset, "seeds": list(self.seeds)}
        return {**common, **self.config.model_dump(mode="json")}


@dataclass(frozen=True)
class Declaration:
    """A checked declaration.

    Attributes:
        threads: with which every stage computes on the processor; part of what its result depends on, since the order
            of a floating-point sum, and so its last bits, depends on how many threads share it.
        schedules: when Prefect runs what by itself; no result depends on them.
    """

    data: Mapping[str, DataSet]
    experiments: Mapping[str, Experiment]
    report: ReportConfig
    threads: int = 1
    schedules: Mapping[str, Schedule] = field(default_factory=dict)

    def family(self, name: str) -> list[Experiment]:
        """Experiments of one section, in the order of the file."""
        return [experiment for experiment in self.experiments.values() if experiment.family == name]

    def targets(self) -> list[str]:
        """Return what a run can be asked for: groups of stages, experiments, and stages by their full names."""
        families = {family: [experiment.name for experiment in self.family(family)] for family in FAMILIES}
        return _targets({"data": list(self.data), **families})


def read(path: Path = Path("params.yaml")) -> Declaration:
    """Read and check a declaration.

    Raises:
        DeclarationError: with every fault in the file, one sentence each.
    """
    try:
        content = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise DeclarationError([f"{path}: does not exist; copy one of experiments/*.yaml to it"]) from None
    except YAMLError as error:
        raise DeclarationError([f"{path}: is not valid YAML: {' '.join(str(error).split())}"]) from None
    return check(content)


def check(content: Any) -> Declaration:
    """Check a declaration that was read already.

    Raises:
        DeclarationError: with every fault, one sentence each.
    """
    if not isinstance(content, Mapping):
        raise DeclarationError([f"params.yaml: must be a mapping of sections; got {content!r}"])
    reader = _Reader(content)
    found: list[str] = []
    sections = ("data", *FAMILIES, "report", "protocol", "threads", "schedules")
    found += [f"{key}: unknown section{suggest(str(key), sections)}" for key in content if key not in sections]
    found += [
        f"{section}: required, but not given; write '{section}: {{}}' for none"
        for section in ("data", *FAMILIES)
        if section not in content and section not in OPTIONAL
    ]
    data = reader.section("data", reader.dataset)
    experiments: dict[str, Experiment] = {}
    for family in FAMILIES:
        for name, experiment in reader.section(family, reader.experiment).items():
            if name in experiments:
                where = f"{family}.{name}"
                reader.found.append(
                    f"{where}: the name is taken by {experiments[name].family}.{name}; names are unique"
                )
            experiments[name] = experiment
    schedules = reader.section("schedules", reader.schedule)
    threads: Any = content.get("threads")
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        given = f"got {threads!r}" if "threads" in content else "not given"
        found.append(f"threads: must be a whole number from 1, the threads with which a stage computes; {given}")
    report = ReportConfig()
    try:
        report = parse(ReportConfig, content.get("report") or {}, "report")
    except DeclarationError as error:
        found += error.faults
    found += reader.found
    declared = _declared_names(content)
    found += reference_faults(declared, data, experiments, resolve)
    found += _schedule_faults(declared, schedules)
    found += comparison_faults(declared, experiments, report.comparisons)
    if found:
        raise DeclarationError(found)
    return Declaration(data, experiments, report, threads, schedules)


def resolve(family: str, name: str, entry: Any) -> Experiment:
    """Check one experiment on its own, without what it refers to: for an entry with other numbers than the file's.

    Raises:
        DeclarationError: with every fault of the entry.
    """
    return _Reader({}).experiment(family, name, entry)


class _Reader:
    """Reads sections, and keeps the faults that it finds."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.found: list[str] = []

    def section(self, section: str, read_entry: Callable[[str, str, Any], Any]) -> dict[str, Any]:
        entries = self.content.get(section)
        if not isinstance(entries, Mapping):
            if section in self.content:
                self.found.append(f"{section}: must be a mapping of names to entries; got {entries!r}")
            return {}
        read: dict[str, Any] = {}
        for name, entry in entries.items():
            try:
                TypeAdapter(Annotated[str, Field(pattern=f"^{_NAME}$")]).validate_python(name)
                read[name] = read_entry(section, name, entry)
            except DeclarationError as error:
                self.found += error.faults
            except ValidationError:
                self.found.append(f"{section}.{name}: a name is made of letters, digits, '_' and '-'; got {name!r}")
        return read

    def dataset(self, section: str, name: str, entry: Any) -> DataSet:
        where = f"{section}.{name}"
        source = _named(entry, "source", where, catalogue.names("data/sources"))
        config, rest = _split(entry, DataEntry, catalogue.config_class("data/sources", source), where)
        labelled, masked, captioned = (
            bool(catalogue.class_constant("data/sources", source, attribute, default))
            for attribute, default in (("labelled", True), ("masked", False), ("captioned", False))
        )
        channels = catalogue.class_constant("data/sources", source, "channels", getattr(rest, "channels", None))
        return DataSet(name, source, rest, config, labelled, masked, captioned, channels)

    def experiment(self, family: str, name: str, entry: Any) -> Experiment:
        where = f"{family}.{name}"
        folder = catalogue.SECTIONS[family]
        method = _named(entry, "method", where, catalogue.names(folder))
        if family == "illustration":
            _, config = _split(entry, _Illustrated, catalogue.config_class(folder, method), where)
            return Experiment(name, family, method, "", (), config, entry)
        common, config = _split(entry, _Common, catalogue.config_class(folder, method), where)
        return Experiment(name, family, method, common.dataset, common.seeds, config, entry)

    def schedule(self, section: str, name: str, entry: Any) -> Schedule:
        if not isinstance(entry, Mapping):
            raise DeclarationError([f"{section}.{name}: must be a mapping; got {entry!r}"])
        return parse(Schedule, entry, f"{section}.{name}")


def _named(entry: Any, key: str, where: str, known: list[str]) -> str:
    """Return entry[key], one of the known names."""
    if not isinstance(entry, Mapping):
        raise DeclarationError([f"{where}: must be a mapping; got {entry!r}"])
    if key not in entry:
        raise DeclarationError([f"{where}.{key}: required, but not given (known: {', '.join(known)})"])
    if entry[key] not in known:
        raise DeclarationError([f"{where}.{key}: unknown name {entry[key]!r}{suggest(str(entry[key]), known)}"])
    return str(entry[key])


def _split(entry: Mapping[str, Any], common: type[Any], own: type[Declared], where: str) -> tuple[Any, Any]:
    """Validate an entry by two schemas side by side: the keys of every entry, and the method's own."""
    found: list[str] = []
    parts: list[Any] = []
    shared = {key: value for key, value in entry.items() if key in common.model_fields}
    rest = {key: value for key, value in entry.items() if key not in common.model_fields}
    for schema, values, others in ((common, shared, own.model_fields), (own, rest, common.model_fields)):
        try:
            parts.append(parse(schema, values, where, others))
        except DeclarationError as error:
            found += error.faults
    if found:
        raise DeclarationError(found)
    return parts[0], parts[1]


def _schedule_faults(declared: Mapping[str, list[str]], schedules: Mapping[str, Schedule]) -> list[str]:
    """Faults of targets that name nothing declared."""
    known = _targets(declared)
    return [
        f"schedules.{name}.targets: {target!r} is no stage, group of stages or experiment{suggest(target, known)}"
        for name, schedule in schedules.items()
        for target in schedule.targets
        if target not in known
    ]


def _declared_names(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of the entries of each section, those with faults of their own included."""
    sections = {family: content.get(family) for family in ("data", *FAMILIES)}
    return {family: [*map(str, names)] if isinstance(names, Mapping) else [] for family, names in sections.items()}


def _targets(declared: Mapping[str, list[str]]) -> list[str]:
    """Groups of stages, experiments, and stages by their full names."""
    groups = ["check", "prepare", *FAMILIES, "report"]
    experiments = [(family, name) for family in FAMILIES for name in declared[family]]
    stages = [f"prepare@{name}" for name in declared["data"]] + [f"{family}@{name}" for family, name in experiments]
    # an experiment of a data set's name has to be asked for by the full name of its stage
    plain = [name for _, name in experiments if name not in declared["data"] and name not in groups]
    return [*groups, *plain, *stages]
