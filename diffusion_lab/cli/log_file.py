"""Log file and thread hook that print no tracebacks for system errors such as a full disk."""

import logging
import sys
import threading

from diffusion_lab.system.system_errors import fault


class LogFile(logging.FileHandler):
    """Log file of a run, without a traceback for every line that a full disk rejects."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore system errors, because the command itself reports them once."""
        error = sys.exc_info()[1]
        if error is None or fault(error) is None:
            super().handleError(record)


def thread_failed(args: threading.ExceptHookArgs) -> None:
    """Exception hook for threads; prints no traceback for system errors, such as a full disk.

    TensorBoard raises such an error in a thread of its own, and again in the main thread.
    """
    if args.exc_value is None or fault(args.exc_value) is None:
        threading.__excepthook__(args)
