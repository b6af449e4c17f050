"""A window of steps as a trace that TensorBoard and Perfetto open."""

from __future__ import annotations

import jax
from etils import epath


class Profiler:
    """Traces `steps` steps from step `start` (0: none) into WORKDIR/profile."""

    def __init__(self, workdir: str, start: int, steps: int):
        self._directory, self._window, self._open = (
            epath.Path(workdir) / "profile",
            (start, start + steps),
            False,
        )

    def before(self, step: int) -> None:
        if step == self._window[0] and step:
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
            self._open = True
        elif step == self._window[1]:
            self.close()

    def close(self) -> None:
        if self._open:
            jax.profiler.stop_trace()
            self._open = False
