"""The control loop's rate, with a clock that a test moves."""

import pytest

from qt_jax.serving.rate import Rate


class Clock:
    """A clock that moves when somebody sleeps, and as much more as `late` says."""

    def __init__(self):
        self.now, self.late = 100.0, 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds + self.late


def test_a_rate_does_not_drift_and_says_how_late_its_ticks_were():
    clock = Clock()
    rate, came = Rate(10, clock, clock.sleep), []
    for late, work in ((0, 0.05), (0.02, 0.01), (0, 0.0)):
        clock.late = late
        clock.now += work
        rate.wait()
        came.append(round(clock.now - 100, 6))
    assert came == [0.1, 0.22, 0.3]
    report = rate.report()
    assert report["ticks"] == 3 and report["missed"] == 0
    assert report["late_ms"]["max"] == pytest.approx(20) and report["late_ms"]["p50"] == pytest.approx(
        0, abs=1e-6
    )
    assert report["achieved_hz"] == pytest.approx(10)


def test_missed_ticks_are_left_out_counted_and_said(caplog):
    clock = Clock()
    rate = Rate(10, clock, clock.sleep)
    clock.now += 0.34  # three ticks
    rate.wait()
    rate.wait()
    assert clock.now == pytest.approx(100.4)
    assert rate.report()["missed"] == 2 and rate.report()["ticks"] == 2
    assert "misses its rate of 10 Hz: a tick was 240.0 ms late; 2 of 3 are missed" in caplog.text
