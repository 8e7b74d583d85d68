"""What a check finds, and errors as findings."""

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dreamstyler_jax.runtime.errors import UserError, one_line


class Severity(enum.StrEnum):
    """What a finding means: something is lost or changed, still to be done, or worth knowing."""

    WRONG = "wrong"
    UNFINISHED = "unfinished"
    NOTE = "note"


class Finding(NamedTuple):
    """Something that is not as it was made, that is not made yet, or that cannot be compared.

    Attributes:
        where: the file or folder.
        what: what is found.
        advice: what to do; empty if there is nothing.
        severity: what it means.
    """

    where: Path
    what: str
    advice: str = ""
    severity: Severity = Severity.WRONG

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.severity}: {self.where}: {self.what}{advice}"


@contextmanager
def noting(findings: list[Finding], where: Path, advice: str) -> Iterator[None]:
    """Makes a finding of an error within this context: of what cannot be read."""
    try:
        yield
    except (UserError, OSError) as error:
        findings.append(Finding(where, one_line(error, 300), advice))
