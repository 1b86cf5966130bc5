"""A log file, and a hook for threads, that stay silent when the machine refuses to write."""

import logging
import sys
import threading

from diffusion_lab.system.system_errors import fault


class LogFile(logging.FileHandler):
    """The run's log. Logging prints a traceback for every line that a full disk refuses."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave what the machine refuses to be reported once, by the work."""
        error = sys.exc_info()[1]
        if error is None or fault(error) is None:
            super().handleError(record)


def thread_failed(args: threading.ExceptHookArgs) -> None:
    """Stay silent where a thread of TensorBoard fails: it raises the error in the work too."""
    if args.exc_value is None or fault(args.exc_value) is None:
        threading.__excepthook__(args)
