"""The whole of params.yaml, read and checked at once: before any stage starts, and before torch is imported.

Every section but `protocol`, `report` and `threads` maps names to entries. An entry of `data` is a data set, one of
`schedules` says when Prefect runs what by itself; an entry of any other section is an experiment: `method` names a file
of the section's folder in mlml/, `dataset` an entry of `data`, `seeds` the seeds to run, and the remaining keys are the
fields of the method's own `Config`. An entry of `composed` also has a `base`, the trained experiment that it stands on;
one of `illustration` has neither data nor seeds. An entry of `searched` has no method of its own: it is the entry of
another experiment, of whose family it is, with what a search found. What entries say of each other is checked by
`mlml.declaration_faults`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mlml import catalogue
from mlml.config import (
    ComparisonConfig,
    DataEntry,
    DeclarationError,
    Declared,
    Schedule,
    SearchedEntry,
    Seeds,
    overridden,
    parse,
    suggest,
)
from mlml.declaration_faults import TARGETS, comparison_faults, reference_faults, searched_faults

FAMILIES = (
    *("supervised", "pretext", "probe", "generative", "composed", "evaluation"),
    *("search", "searched", "study", "illustration"),
)
"""Sections whose entries are experiments; those of `searched` are of the family of the experiment that they name."""

OPTIONAL = ("composed", "evaluation", "searched", "study", "illustration")
"""Sections of them that may be left out: dvc.yaml has an empty one for then."""

_NAME = r"[A-Za-z0-9_-]+"


class _Common(Declared):
    """Keys of every experiment."""

    method: str
    dataset: str
    seeds: Seeds = (0,)


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
    """An entry of any other section.

    Attributes:
        family: whose code makes it; of a searched one, that of the experiment that it names.
        raw: the entry as it stands in the file; of a searched one, that of the experiment, with its own seeds.
        searched: of a searched one, what stands in the file. What the search found is not known before it has run:
            see `with_values`.
    """

    name: str
    family: str
    method: str
    dataset: str  # "" of an illustration
    seeds: tuple[int, ...]  # none of an illustration
    config: Any  # the method's Config
    raw: Mapping[str, Any] = field(repr=False)
    searched: SearchedEntry | None = None

    @property
    def section(self) -> str:
        """Section of params.yaml that it stands in, and the group of its stage."""
        return "searched" if self.searched is not None else self.family

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
        """Experiments of one family, in the order of the file, the searched ones after the others."""
        return [experiment for experiment in self.experiments.values() if experiment.family == name]

    def targets(self) -> list[str]:
        """Return what a run can be asked for: groups of stages, experiments, and stages by their full names."""
        names: dict[str, list[str]] = {section: [] for section in FAMILIES}
        for experiment in self.experiments.values():
            names[experiment.section].append(experiment.name)
        return _targets({"data": list(self.data), **names})


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
    searched = reader.section("searched", reader.searched)
    for section in FAMILIES:
        own = section != "searched"
        read = reader.section(section, reader.experiment) if own else _searched(searched, experiments)
        for name, experiment in read.items():
            if name in experiments:
                where = f"{section}.{name}"
                reader.found.append(
                    f"{where}: the name is taken by {experiments[name].section}.{name}; names are unique"
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
    of_families = _with_searched(declared, content)
    found += reference_faults(of_families, data, experiments, resolve)
    found += searched_faults(declared, experiments, searched)
    found += _schedule_faults(declared, schedules)
    found += comparison_faults(of_families, experiments, report.comparisons)
    if found:
        raise DeclarationError(found)
    return Declaration(data, experiments, report, threads, schedules)


def resolve(family: str, name: str, entry: Any) -> Experiment:
    """Check one experiment on its own, without what it refers to: for an entry with other numbers than the file's.

    Raises:
        DeclarationError: with every fault of the entry.
    """
    return _Reader({}).experiment(family, name, entry)


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Return a searched experiment with what its search found.

    Args:
        experiment: as it is declared, with what the experiment that it names has instead.
        values: by dotted path.

    Raises:
        DeclarationError: they do not fit.
    """
    assert experiment.searched is not None
    try:
        found = resolve(experiment.family, experiment.name, overridden(experiment.raw, values))
    except DeclarationError as error:
        where, search = f"searched.{experiment.name}", experiment.searched.from_search
        raise DeclarationError(
            f"{where}: what {search!r} found does not fit: {each}" for each in error.faults
        ) from None
    return replace(found, searched=experiment.searched)


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

    def searched(self, section: str, name: str, entry: Any) -> SearchedEntry:
        return parse(SearchedEntry, entry, f"{section}.{name}")

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


def _searched(entries: Mapping[str, SearchedEntry], experiments: Mapping[str, Experiment]) -> dict[str, Experiment]:
    """Experiments of `searched`, but for those whose experiment has faults of its own, or is none to search."""
    found = {}
    for name, entry in entries.items():
        target = experiments.get(entry.experiment)
        if target is not None and target.family in TARGETS:
            raw = {**target.raw, "dataset": entry.dataset, "seeds": list(entry.seeds)}
            own = replace(target, name=name, dataset=entry.dataset, seeds=entry.seeds, raw=raw)
            found[name] = replace(own, searched=entry)
    return found


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


def _with_searched(declared: Mapping[str, list[str]], content: Mapping[str, Any]) -> dict[str, list[str]]:
    """The same by family: those of `searched` are of that of their experiment, and of any where that is unknown."""
    found = {family: list(names) for family, names in declared.items()}
    entries = content.get("searched")
    for name, entry in entries.items() if isinstance(entries, Mapping) else ():
        target = entry.get("experiment") if isinstance(entry, Mapping) else None
        for family in [family for family in TARGETS if target in declared[family]] or TARGETS:
            found[family].append(str(name))
    return found


def _targets(declared: Mapping[str, list[str]]) -> list[str]:
    """Groups of stages, experiments, and stages by their full names."""
    groups = ["check", "prepare", *FAMILIES, "report"]
    experiments = [(family, name) for family in FAMILIES for name in declared[family]]
    stages = [f"prepare@{name}" for name in declared["data"]] + [f"{family}@{name}" for family, name in experiments]
    # an experiment of a data set's name has to be asked for by the full name of its stage
    plain = [name for _, name in experiments if name not in declared["data"] and name not in groups]
    return [*groups, *plain, *stages]
