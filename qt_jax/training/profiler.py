"""Traces a window of steps, for TensorBoard and Perfetto."""

from __future__ import annotations

import jax
from etils import epath


class Profiler:
    """Traces `steps` steps from step `start` (0: none) into WORKDIR/profile."""

    def __init__(self, workdir: str, start: int, steps: int):
        self._directory = epath.Path(workdir) / "profile"
        self._window = start, start + steps
        self._open = False

    def before(self, step: int) -> None:
        """Begins or ends the trace if it is time; to be called before each step."""
        if step == self._window[0] and step:
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
            self._open = True
        elif step == self._window[1]:
            self.close()

    def close(self) -> None:
        """Ends the trace, if one is under way."""
        if self._open:
            jax.profiler.stop_trace()
            self._open = False
