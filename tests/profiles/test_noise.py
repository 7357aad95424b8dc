import psutil
import pytest

from mopt.profiles import noise
from mopt.profiles.noise import NoiseMonitor


def test_the_share_that_the_hypervisor_took_is_that_of_the_time_between(monkeypatch):
    times = [
        {"user": 10.0, "system": 5.0, "idle": 80.0, "steal": 5.0, "guest": 4.0},
        {"user": 15.0, "system": 5.0, "idle": 119.0, "steal": 11.0, "guest": 9.0},
    ]
    monkeypatch.setattr(psutil, "cpu_times", lambda: _Times(times.pop(0)))
    assert NoiseMonitor().summary()["stolen"] == pytest.approx(6 / 50)


def test_a_system_that_tells_nothing_is_no_error(monkeypatch):
    def nothing(percpu=False):
        raise NotImplementedError

    monkeypatch.setattr(psutil, "cpu_times", lambda: _Times({"user": 1.0, "idle": 2.0}))
    monkeypatch.setattr(psutil, "cpu_freq", nothing)
    monkeypatch.delattr(noise.os, "getloadavg")
    assert NoiseMonitor().summary() == {}


class _Times:
    def __init__(self, fields):
        self._fields = fields

    def _asdict(self):
        return dict(self._fields)
