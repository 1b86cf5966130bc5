"""The exceptions that mean: you can mend this yourself."""


class UserError(Exception):
    """A mistake in the input that its author can mend.

    The message is one line: what was wrong, what was expected, what to type. The command line
    prints it without a traceback and exits with code 2.
    """


class Diverged(UserError):
    """A training whose numbers are not finite any more; the command line exits with code 3."""
