"""When Prefect runs what by itself."""

from datetime import datetime
from zoneinfo import ZoneInfo

from pydantic import PositiveInt, field_validator, model_validator

from mlml.config.declared import Declared


class Schedule(Declared):
    """An entry of `schedules`: when Prefect brings some targets up to date by itself, while `mlml up` serves.

    Attributes:
        cron: minute, hour, day of the month, month, day of the week.
        interval_seconds: between two starts; give this or `cron`.
        timezone: in which `cron` is meant, such as "Europe/Berlin".
        targets: stages, groups of stages or experiments; none mean everything.
    """

    cron: str | None = None
    interval_seconds: PositiveInt | None = None
    timezone: str = "UTC"
    targets: tuple[str, ...] = ()

    @field_validator("cron")
    @classmethod
    def _readable(cls, cron: str | None) -> str | None:
        # not the parser inside Prefect: a stage that only reads the declaration must not import all of Prefect for it
        from cronsim import CronSim, CronSimError

        try:
            if cron is not None and len(cron.split()) != 5:
                raise CronSimError(f"it has {len(cron.split())} fields")
            if cron is not None:
                CronSim(cron, datetime(2000, 1, 1))
        except CronSimError as error:
            raise ValueError(f"must be five fields as in '0 3 * * 1-5'; got {cron!r} ({error})") from None
        return cron

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (OSError, ValueError, KeyError):  # what it raises depends on how the name is wrong
            raise ValueError(f"must be the name of a time zone, such as 'Europe/Berlin'; got {zone!r}") from None
        return zone

    @model_validator(mode="after")
    def _one_rhythm(self) -> "Schedule":
        if (self.cron is None) == (self.interval_seconds is None):
            raise ValueError("give one of 'cron' and 'interval_seconds'")
        return self
