"""What Ctrl-C and SIGTERM do to a command."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit):
    """Ended by a signal: exits with 130 or 143, as a shell reports them."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@contextmanager
def signal_handlers() -> Iterator[None]:
    """Let both signals raise Stopped here, in the main thread.

    OmegaConf catches whatever is raised inside it and fails later with an error of its own: what
    comes out of here after a signal is Stopped all the same.
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
