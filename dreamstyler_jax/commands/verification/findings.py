"""What a check finds, and errors as findings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dreamstyler_jax.runtime.errors import UserError, one_line


class Finding(NamedTuple):
    """Something that is not as it was made, or that cannot be compared.

    Attributes:
        where: the file or folder.
        what: what is found.
        advice: what to do; empty if there is nothing.
        is_wrong: whether something is lost or changed; otherwise it is worth knowing.
    """

    where: Path
    what: str
    advice: str = ""
    is_wrong: bool = True

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"{'wrong' if self.is_wrong else 'note'}: {self.where}: {self.what}{advice}"


@contextmanager
def noting(findings: list[Finding], where: Path, advice: str) -> Iterator[None]:
    """Makes a finding of an error within this context: of what cannot be read."""
    try:
        yield
    except (UserError, OSError) as error:
        findings.append(Finding(where, one_line(error, 300), advice))
