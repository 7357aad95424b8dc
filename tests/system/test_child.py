import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hosted import alive

PARENT = """
import sys, time
sys.path.insert(0, {root!r})
from mopt.system.process import Worker
from tests.hosted import Counter
worker = Worker(Counter, 1)
print(worker.pid, flush=True)
time.sleep(60)
"""


def test_the_child_dies_when_the_parent_is_killed():
    code = PARENT.format(root=str(Path(__file__).parents[2]))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)


@pytest.mark.slow
def test_a_child_that_waits_for_its_parent_ends_with_it():
    """What ends a child in the middle of its work where the kernel does not."""
    watch = "import os, sys; from mopt.system.child import _end_after; _end_after(int(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as parent:
        child = subprocess.Popen([sys.executable, "-c", watch, str(parent.pid)])
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1.5)
        parent.kill()
        parent.wait()
        assert child.wait(20) == 1
