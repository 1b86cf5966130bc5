"""Exceptions for mistakes that the user can correct."""


class UserError(Exception):
    """A mistake in the input that the user can correct.

    The message is one line: what was wrong, what was expected, what to type. The command line
    prints the message without a traceback and exits with code 2.
    """


class Diverged(UserError):
    """A training with non-finite losses or weights; the command line exits with code 3."""
