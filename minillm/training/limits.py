r"""When a run is over: after so many steps, after so many seconds, or whichever comes first."""

import time

from minillm.training import schedule
from minillm.training.state import TrainingState


class Limits:
    r"""Watches the steps and the clock of a run; both count what the run did before it was interrupted.

    Args:
        steps: at most; None = no limit.
        seconds: at most; None = no limit.
        state: the run; its `seconds` are kept up to date by `tick`. Of several processes the first one's clock counts:
            all of them must stop after the same step.
    Raises:
        ValueError: if there is no limit, or one is reached already.
    Lesson: 08.
    """

    def __init__(self, steps: int | None, seconds: int | float | None, state: TrainingState):
        state.seconds = state.ranks.first(float(state.seconds))
        if steps is None and seconds is None:
            raise ValueError("steps=None, seconds=None: give at least one of them, or training would never end")
        if steps is not None and steps <= state.step:
            raise ValueError(f"steps={steps}: the run has had {state.step} steps; use a larger total")
        if seconds is not None and seconds <= state.seconds:
            raise ValueError(f"seconds={seconds}: the run has had {state.seconds:.1f} seconds; use a larger total")
        self.steps, self.seconds, self.state = steps, seconds, state
        self._start = time.perf_counter() - state.seconds
        self._n_ticks, self._reached = 0, False

    def tick(self) -> None:
        r"""Look at the clock, after each step, and decide whether there is time for another one like it."""
        now = self.state.ranks.first(time.perf_counter() - self._start)
        last_step = now - self.state.seconds if self._n_ticks else 0.0  # the first may compile: it foretells nothing
        self._n_ticks += 1
        self.state.seconds = now
        no_steps_left = self.steps is not None and self.state.step >= self.steps
        no_time_left = self.seconds is not None and now + last_step > self.seconds
        self._reached = no_steps_left or no_time_left

    def reached(self) -> bool:
        r"""Whether the run is over, as the last `tick` saw it; so a run keeps to its seconds and does not pass them."""
        return self._reached

    def progress(self) -> float:
        r"""The share of the run that is behind us, 0 to 1; exactly 1 after its last step."""
        if self.reached():
            return 1.0
        by_steps = 0.0 if self.steps is None else self.state.step / self.steps
        by_clock = 0.0 if self.seconds is None else self.state.seconds / self.seconds
        return min(1.0, max(by_steps, by_clock))

    def expected_steps(self) -> float:
        r"""How many steps the whole run will have, at its pace so far."""
        return schedule.expected_steps(self.state.step, self.state.seconds, self.steps, self.seconds)
