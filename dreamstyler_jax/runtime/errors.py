"""The one error that is the user's to mend."""


class UserError(ValueError):
    """A mistake in what the user gave: an option, a file, a prompt.

    The message is one line that says what is wrong and what to do. The scripts print it without a traceback and
    exit with status 2; library callers can catch it as a ``ValueError``.
    """
