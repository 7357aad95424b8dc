import os
import sys
import time
import urllib.request

import pytest

from mopt.artifacts.serving._base import Launch
from mopt.errors import UserError
from mopt.loadgen.server_process import ServerDiedError, free_ports, running

SERVER = """
import http.server, os, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.getpid()} {os.environ['WORD']}".encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
"""


def launch(code, port, **changes):
    return Launch(
        **{
            "command": [sys.executable, "-c", code, str(port)], "ready": [f"http://127.0.0.1:{port}/"], "url": "",
            "protocol": "kserve-http", "model": "m", "environment": {"WORD": "naïve"}, "version": "a test", **changes,
        }
    )  # fmt: skip


def members(group):
    processes = (os.path.join("/proc", name, "stat") for name in os.listdir("/proc") if name.isdigit())
    count = 0
    for path in processes:
        try:
            with open(path) as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        count += fields[2] == str(group) and fields[0] != "Z"
    return count


def test_it_is_ready_and_then_gone_with_its_children():
    port = free_ports().http
    with running(launch(SERVER, port)) as seconds, urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
        pid, word = answer.read().decode().split()
        assert word == "naïve"
        assert seconds > 0
        assert members(pid) == 2
    deadline = time.monotonic() + 5
    while members(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(pid) == 0


def test_one_that_ends_is_told_with_what_it_said():
    with (
        pytest.raises(ServerDiedError, match=r"a test ended with 3: no such model") as told,
        running(launch("import sys; print('no such model'); sys.exit(3)", 1)),
    ):
        pass
    assert isinstance(told.value, UserError)


def test_one_that_is_hopeless_is_not_waited_for():
    said = "UNAVAILABLE: bad" + "\\n| a table" * 20
    code = f"import time; print('{said}', flush=True); time.sleep(600)"
    start = time.monotonic()
    with pytest.raises(ServerDiedError, match="is not ready: UNAVAILABLE"), running(launch(code, 1, hopeless=("UNAVAILABLE",))):
        pass
    assert time.monotonic() - start < 60


def test_one_that_never_answers_has_a_limit():
    with (
        pytest.raises(ServerDiedError, match="it said nothing"),
        running(launch("import time; time.sleep(600)", 1), seconds=0.5),
    ):
        pass


def test_a_program_that_is_not_there():
    with pytest.raises(ServerDiedError, match="cannot be started"), running(launch("", 1, command=["/no/such/program"])):
        pass


def test_ports_differ():
    ports = free_ports()
    assert len({ports.http, ports.grpc, ports.metrics, *ports.others}) == 6
