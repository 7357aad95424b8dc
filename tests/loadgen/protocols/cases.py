"""What the tests of protocols share."""

import numpy as np

from mopt.loadgen.protocols import Endpoint, Server

ONE = {"x": np.array([[1, 2.5]], np.float32)}


HTTP = Endpoint("kserve-http", Server("127.0.0.1", 1), "/", model="m")


def one_line(error):
    return "\n" not in error.message + error.hint and error.hint
