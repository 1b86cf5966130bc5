"""The one exception that means: you can mend this yourself."""


class UserError(Exception):
    """A mistake in the input that its author can mend.

    The message is one line: what was wrong, what was expected, what to type. The command line
    prints it without a traceback and exits with a non-zero code.
    """
