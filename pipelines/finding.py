"""What a look at the project found."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: such as "servers".
        text: what is so.
        remedy: the way out, as a command where there is one; every fault has it.
    """

    area: str
    level: Level
    text: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.level == "fault" and not self.remedy:
            raise ValueError(f"{self.area}: a fault must say the way out; got only {self.text!r}")
