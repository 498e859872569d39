r"""Stop a function that does not come to an end."""

import ctypes
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

AGAIN = 0.01  # seconds between two tries to stop it: a loop with a bare `except:` swallows the first ones


class TimeLimitReached(BaseException):
    r"""The function was stopped. Not an Exception, so that `except Exception` in a learner's loop lets it through."""


def call_within(seconds: float, function: Callable[[], Any]) -> Any:
    r"""Call `function()` and give its result, or stop it after a number of seconds.

    The main thread is interrupted by a timer signal; where there is none (another thread, Windows) the function runs in
    a thread of its own, into which the exception is sent. A loop in Python is always met; one long call into C is
    stopped only when it comes back.

    Args:
        seconds: how long it may take, > 0.
        function: called without arguments.
    Returns: what the function returns.
    Raises:
        TimeLimitReached: if it took longer.
    """
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        return _with_timer(seconds, function)
    return _in_thread(seconds, function)


def _with_timer(seconds: float, function: Callable[[], Any]) -> Any:
    armed = True

    def stop(number: int, frame: Any) -> None:
        if armed:
            raise TimeLimitReached

    old_handler = signal.signal(signal.SIGALRM, stop)
    old_delay, old_interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    started = time.monotonic()
    try:
        return function()
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old_handler)
        if old_delay:  # somebody else's alarm: it still comes, and at its own time
            left = max(old_delay - (time.monotonic() - started), 0.001)
            signal.setitimer(signal.ITIMER_REAL, left, old_interval)


def _in_thread(seconds: float, function: Callable[[], Any]) -> Any:
    result: dict[str, Any] = {}

    def work() -> None:
        try:
            result["value"] = function()
        except BaseException as error:
            result["error"] = error

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(seconds)
    give_up = time.monotonic() + 2.0
    stopped = worker.is_alive()
    while worker.is_alive() and time.monotonic() < give_up:
        to_stop = ctypes.c_ulong(worker.ident or 0), ctypes.py_object(TimeLimitReached)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(*to_stop)
        worker.join(AGAIN)
    if stopped:
        raise TimeLimitReached
    if "error" in result:
        raise result["error"]
    return result["value"]
