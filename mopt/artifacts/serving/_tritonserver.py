"""The real tritonserver: NVIDIA's container where this runs in one, else the one in the wheel of nvidia-pytriton."""

from __future__ import annotations

__all__ = ["EXPORTED", "HOPELESS", "SUMMARIES", "Tritonserver", "find_tritonserver"]

import dataclasses
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from mopt.artifacts.serving._base import Ports
from mopt.artifacts.serving._exported import Exported
from mopt.artifacts.serving._names import model_name
from mopt.errors import NotApplicableError
from mopt.system.environments import Environment

HOPELESS = ("UNAVAILABLE", "failed to load")
"""What its log says of a model that will never be ready."""
SUMMARIES = "--metrics-config=summary_latencies=true"
"""Without it Triton exports no quantiles."""
_CONTAINER = "/opt/tritonserver/bin/tritonserver"
_PYTRITON = "2.51.0"
"""The server in nvidia-pytriton 0.7.0, which is that of the container 24.10."""
_STAND_INS = ("onnxruntime", "openvino")

EXPORTED = Exported(
    source="scraped from tritonserver 2.51 (container 24.10)",
    start=f"tritonserver ... {SUMMARIES} (metrics are at /metrics of port 8002)",
    named=model_name,
    matchers='model="$name"',
    answered="sum(rate(nv_inference_request_success{$m}[$w]))",
    failed='sum(rate(nv_inference_request_failure{$m,reason!="CANCELED"}[$w]))',
    inferences="sum(rate(nv_inference_count{$m}[$w]))",
    p99='max(nv_inference_request_summary_us{$m,quantile="0.99"}) / 1e6',
    p99_note=(
        "Triton exports quantiles of each server, which cannot be added up: this is the p99 of the slowest replica, never "
        "below that of all requests together."
    ),
    queue="sum(rate(nv_inference_queue_duration_us{$m}[$w])) / sum(rate(nv_inference_request_success{$m}[$w])) / 1e6",
    batch="sum(rate(nv_inference_count{$m}[$w])) / sum(rate(nv_inference_exec_count{$m}[$w]))",
    pending="sum(nv_inference_pending_request_count{$m})",
    replicas="count(count by (instance) (nv_inference_request_success{$m}))",
    silent=("requests that it refuses before they reach the model (HTTP 400) are in none of its counters",),
)


@dataclasses.dataclass(frozen=True)
class Tritonserver:
    """A server that can load models of one backend.

    Attributes:
        program: The binary.
        backends: The folder with its backends.
        environment: Variables that it needs.
        version: For people to read.
        tells: Whether the backend writes ``$MOPT_SERVED_REPORT``, with ``{model}`` in it for the name of the model.
        not_run: Parts of NVIDIA's that do not run, each with what runs in its place.
    """

    program: Path
    backends: Path
    environment: Mapping[str, str]
    version: str
    tells: bool
    not_run: tuple[str, ...]

    def command(self, repository: Path, ports: Ports, *options: str) -> list[str | Path]:
        """Return the command that serves a model repository on 127.0.0.1 over HTTP and gRPC, with metrics."""
        return [
            self.program,
            f"--model-repository={repository}", f"--backend-directory={self.backends}",
            "--http-address=127.0.0.1", f"--http-port={ports.http}",
            "--grpc-address=127.0.0.1", f"--grpc-port={ports.grpc}",
            "--metrics-address=127.0.0.1", f"--metrics-port={ports.metrics}",
            SUMMARIES,
            "--exit-on-error=false", "--disable-auto-complete-config", *options,
        ]  # fmt: skip


def find_tritonserver(environment: Environment, scratch: Path, backend: str, *, gpu: bool = False) -> Tritonserver:
    """Return a server that has a backend: the one in C++ where NVIDIA's container or a tritonserver on the PATH has it.

    Else it is the server of the environment with a python-based backend in place of the one in C++, which no registry has.

    Args:
        environment: That of ``triton``.
        scratch: An empty folder, which holds the python-based backends as long as the server runs.
        backend: Triton's name of it, such as ``onnxruntime``.
        gpu: Whether the model needs a GPU, for which there is no other than the one in C++.

    Raises:
        NotApplicableError: When there is neither.
    """
    for program in map(Path, filter(None, (shutil.which("tritonserver"), _CONTAINER))):
        backends = program.resolve().parents[1] / "backends"
        if (backends / backend / f"libtriton_{backend}.so").is_file():
            version = os.environ.get("TRITON_SERVER_VERSION", "")
            return Tritonserver(program, backends, {}, f"tritonserver {version}".strip(), False, ())
    if gpu or backend not in _STAND_INS:
        raise NotApplicableError(f"its {backend} backend{' for GPUs' if gpu else ''} is in NVIDIA's container alone")
    home = environment.packages / "pytriton" / "tritonserver"
    libraries = (environment.packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    replaced = (
        f"the {backend} backend in C++, which no registry has: a backend in Python opened {backend} "
        f"{environment.version(backend)} with the same parameters; configuration, batcher, warm-up and protocols are NVIDIA's"
    )
    return Tritonserver(
        home / "bin" / "tritonserver",
        _stand_ins(home, scratch / "backends"),
        # The interpreter in its python backend finds its packages by the first python on the PATH.
        {"PATH": environment.path, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))},
        f"tritonserver {_PYTRITON}",
        True,
        (replaced,),
    )


def _stand_ins(home: Path, folder: Path) -> Path:
    """Lay out the python backend, and the backends that are based on it.

    Its program is linked, not copied: what was just written cannot be run while a process forked meanwhile has it open.
    """
    stub = home / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}" / "triton_python_backend_stub"
    shutil.copytree(home / "backends" / "python", folder / "python")  # Triton takes no library that is linked to another folder
    (folder / "python" / stub.name).symlink_to(stub)
    for name in _STAND_INS:
        (folder / name).mkdir()
        shutil.copy(Path(__file__).parent / "_files" / "triton_backend.py", folder / name / "model.py")
    return folder
