"""The error that a user can fix, and how its message lists names and cuts long texts."""

from collections.abc import Sequence


class UserError(ValueError):
    """A mistake in what the user gave: an option, a file, a prompt.

    The message is one line that says what is wrong and what to do. The commands print it without a traceback and
    exit with status 2; library callers can catch it as a ``ValueError``.
    """


def listing(names: Sequence[str], max_items: int = 5) -> str:
    """Lists names for a message, the first few of many: ``"a, b, c, d, e and 37 more"``."""
    rest = len(names) - max_items
    return ", ".join(names[:max_items]) + (f" and {rest} more" if rest > 0 else "")


def one_line(error: Exception, max_length: int = 1000) -> str:
    """An error's message without line breaks; of a very long one the middle is cut, since its end says what to do."""
    text = " ".join(str(error).split())
    half = max_length // 2
    return text if len(text) <= max_length else f"{text[:half]} ... {text[-half:]}"


def shortened(text: str, max_length: int = 80) -> str:
    """A text for a message, cut if it is long: ``"a painting of a house ..."``."""
    return text if len(text) <= max_length else text[: max_length - 3] + "..."
