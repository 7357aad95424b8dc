import os

import psutil

from mopt.profiles.load import cpu_load, measure_beside_load


class Fake:
    """Answers in a time that is given, if a loop runs meanwhile."""

    pid = os.getpid()

    def __init__(self, latency):
        self.latency = latency

    def time(self, feeds, seconds, least=1):
        assert loops()
        return [self.latency] * max(3, least)

    def pause(self): ...

    def resume(self): ...


def loops():
    return [child for child in psutil.Process().children() if "while time.monotonic" in " ".join(child.cmdline())]


def test_a_load_ends_with_its_context():
    with cpu_load(loops=2):
        assert len(loops()) == 2
    assert not loops()


def test_each_is_measured_beside_it():
    figures = measure_beside_load({"fast": Fake(1.0), "slow": Fake(4.0)}, [{}])
    assert {name: figure.value for name, figure in figures.items()} == {"fast": 1.0, "slow": 4.0}
    assert not loops()
