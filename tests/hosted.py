"""What children of the tests host and run: they import it by this name."""

import contextlib
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np


def echo(value):
    return value


def sleep(seconds):
    time.sleep(seconds)
    return os.getpid()


def fail(error):
    raise error


def hold(size):
    held = np.ones(size, np.uint8)
    time.sleep(60)
    return int(held[0])


class Counter:
    def __init__(self, start):
        self.value = start

    def add(self, number):
        self.value += number
        return self.value


class Liar:
    """Writes to the parent what a taken-over child could write."""

    def lie(self, message):
        pipes = [Connection(descriptor, readable=False) for descriptor in range(3, 256)]
        for pipe in pipes:
            with contextlib.suppress(OSError):
                pipe.send_bytes(message)
        time.sleep(60)


def alive(pid):
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
