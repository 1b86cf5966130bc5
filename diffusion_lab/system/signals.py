"""Handling of Ctrl-C and SIGTERM."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit):
    """Exit after a signal, with code 130 (SIGINT) or 143 (SIGTERM), as shells report them."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@contextmanager
def signal_handlers() -> Iterator[None]:
    """Raise Stopped on SIGINT and SIGTERM within this context, in the main thread.

    Any other exception after a signal is replaced by Stopped, because OmegaConf may catch Stopped
    and raise an exception of its own later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except Exception as error:
        if received:
            raise Stopped(received[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
