"""In which image a cloud runs a model: NVIDIA's with Triton where it takes the model as it was judged, else one of ours."""

from __future__ import annotations

__all__ = [
    "CloudSystem",
    "Image",
    "checked_by",
    "dockerfile",
    "endpoint_name",
    "fill_lines",
    "has_fp16",
    "in_triton",
    "launch_triton",
    "publish_line",
    "scaled_by",
    "write_models",
]

import dataclasses
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from mopt.artifacts.serving._base import Launch, Ports, ServingSystem, Settable
from mopt.artifacts.serving._names import service_name
from mopt.artifacts.serving._provisioning import provision
from mopt.artifacts.serving._python import PYTHON_SETTABLE, requirements, write_served_model
from mopt.artifacts.serving._readme import write_request
from mopt.artifacts.serving._releases import Release, fitting_release
from mopt.artifacts.serving.triton import Triton
from mopt.errors import NotApplicableError
from mopt.model.signature import Feed, Signature
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.records.units import digits
from mopt.system.environments import Environment, find_environment

CLOUD_SETTABLE: Mapping[str, Settable] = {**PYTHON_SETTABLE, "tensorrt": Triton.settable["tensorrt"]}
"""What Triton cannot be told, the image in Python is told; engines are Triton's alone."""
_PYTHON_IMAGE = "python:3.11-slim"
_CHECK_SECONDS = 120
_FP16 = frozenset({"float16"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class CloudSystem(ServingSystem):
    """A system that runs an image: Triton's where that serves the model as it was judged, else one with a server in Python.

    Attributes:
        release: Of Triton's container, such as ``26.07``; with one, Triton alone may serve.
    """

    settable: ClassVar[Mapping[str, Settable]] = CLOUD_SETTABLE
    releases: ClassVar[str] = "triton"

    def why_unbatched(self, runtime: str, signature: Signature) -> str:
        """Where the image is Triton's, what Triton does; one in Python batches whatever can be."""
        settable = Triton.settable.get(runtime)
        return "" if settable is None or settable.pads else Triton().why_unbatched(runtime, signature)


@dataclasses.dataclass(frozen=True)
class Image:
    """What a cloud starts.

    Attributes:
        uri: NVIDIA's image with Triton; empty where it is to be one of your own.
        about: What is in it, for people to read.
    """

    uri: str
    about: str

    @property
    def triton(self) -> bool:
        """Whether Triton serves the model."""
        return bool(self.uri)


def write_models(
    folder: Path,
    *,
    beside: Path,
    manifest: Manifest,
    model_folder: Path,
    golden: Sequence[Feed],
    release: str = "",
    raw_bytes: bool = False,
) -> Image:
    """Fill a folder with Triton's repository where Triton serves what was judged, else with what a service in Python opens.

    Args:
        folder: That the server finds under ``/mnt/models`` or the like; it does not exist yet.
        beside: Where ``request.json`` goes.
        manifest: Of the artifact.
        model_folder: The model's files.
        golden: Real inputs for a batch of one.
        release: Of Triton, where that is what was asked for.
        raw_bytes: Whether clients can send tensors as raw bytes; where not, FP16, which neither Triton nor KServe's own server
            takes in JSON, is for a service that does.

    Raises:
        NotApplicableError: When neither can serve it, or Triton was asked for and cannot.
    """
    triton = Triton(release=release)
    try:
        _check_as_judged(manifest)
        if not raw_bytes and has_fp16(manifest):
            raise NotApplicableError("Triton takes and gives FP16 as raw bytes alone, and requests are JSON here")
        fitting = fitting_release(manifest, triton, model_folder)
        if fitting is None:
            raise NotApplicableError("no release of Triton that is known here loads it")
        folder.mkdir(parents=True)
        triton.write(folder, manifest=manifest, model_folder=model_folder, golden=golden)
        (folder / "README.md").unlink()
        if (request := folder / "request.json").is_file():
            request.rename(beside / request.name)
        return _nvidias(fitting, manifest)
    except NotApplicableError:
        if release or manifest.runtime not in PYTHON_SETTABLE:
            raise
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_served_model(folder, manifest=manifest, model_folder=model_folder, golden=golden)
    write_request(beside, manifest, golden, _FP16 if raw_bytes else ())
    runtime = requirements(manifest)[0].replace("==", " ")
    return Image("", f"The image is one of your own: a server in Python with {runtime}, which puts requests together.")


def has_fp16(manifest: Manifest) -> bool:
    """Whether a tensor is of a type that Triton, and KServe's own server in its version 2, take and give as raw bytes alone."""
    return any(spec.dtype in _FP16 for spec in (*manifest.signature.inputs, *manifest.signature.outputs))


def _nvidias(release: Release, manifest: Manifest) -> Image:
    """NVIDIA's container, and which runtime it has beside the one that was judged."""
    uri = f"nvcr.io/nvidia/tritonserver:{release.name}-py3"
    library = manifest.runtime.removesuffix("_gpu")
    has, judged = release.versions.get(library), manifest.versions.get(library)
    about = f"The image is NVIDIA's {uri}" + (f", with {library} {has}" if has else "")
    other = f": {judged} was judged, so that its speed may differ" if has and judged and has != judged else ""
    return Image(uri, f"{about}{other}.")


def _check_as_judged(manifest: Manifest) -> None:
    """Refuse what Triton would run in another way than it was judged, or with its batches padded."""
    settable = Triton.settable.get(manifest.runtime)
    if settable is None:
        raise NotApplicableError(f"Triton does not serve {manifest.runtime} here")
    if settable.pads:
        raise NotApplicableError(f"Triton pads the batches of {manifest.runtime}, which were judged as they are")
    for option, value in manifest.runtime_fields.items():
        if value is not None and not settable.takes(option, value):
            raise NotApplicableError(f"Triton cannot set {option} = {value} for {manifest.runtime}")


def endpoint_name(manifest: Manifest) -> str:
    """Return what a service or an endpoint is called where the name must begin with a letter, at most 40 characters."""
    name = service_name(manifest.name)
    return name if name[0].isalpha() else f"model-{name}"[:40]


def in_triton(models: Path) -> bool:
    """Whether :func:`write_models` wrote Triton's repository."""
    return not (models / "served_model.json").is_file()


def dockerfile(
    manifest: Manifest,
    *libraries: str,
    files: Sequence[str],
    command: Sequence[str],
    port: int,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Return the Dockerfile of an image in Python, which runs as no root.

    Args:
        manifest: Of the artifact; the runtime is installed in the version that was judged.
        libraries: What pip installs besides.
        files: Copied into it, from the folder of the Dockerfile.
        command: What it runs.
        port: That it listens on.
        variables: Of its environment.
    """
    quoted = " ".join(f"'{name}'" for name in requirements(manifest, *libraries))
    words = ", ".join(f'"{word}"' for word in command)
    return "\n".join(
        [
            f"FROM {_PYTHON_IMAGE}",
            f"RUN pip install --no-cache-dir {quoted}",
            "WORKDIR /opt/mopt",
            f"COPY {' '.join(files)} ./",
            f"ENV {' '.join(f'{name}={value}' for name, value in {'PYTHONUNBUFFERED': '1', **(variables or {})}.items())}",
            "USER 1000",
            f"EXPOSE {port}",
            f"ENTRYPOINT [{words}]",
            "",
        ]
    )


def launch_triton(folder: Path, *, manifest: Manifest, ports: Ports, scratch: Path, not_run: str) -> Launch:
    """Return how Triton is started on the repository that is in a cloud's image.

    Raises:
        NotApplicableError: When it is not installed, or does not run here.
    """
    environment = find_environment(Triton.environment)
    if environment is None:
        raise NotApplicableError(f"its image is Triton's, and mopt tools install {Triton.environment} has not run")
    launch = Triton().launch(folder, manifest=manifest, environment=environment, ports=ports, scratch=scratch)
    return dataclasses.replace(launch, not_run=(*launch.not_run, not_run))


def publish_line(manifest: Manifest, image: str) -> str:
    """Return the command that puts NVIDIA's image, or without one what the Dockerfile makes, where ``$IMAGE`` is.

    It names the target's platform: who builds on another kind of processor would make an image that does not start.
    """
    arm = "asimd" in (manifest.target.get("isa") or manifest.machine.isa)
    platform = f"--platform linux/{'arm64' if arm else 'amd64'}"
    if not image:
        return f'docker build {platform} -t "$IMAGE" . && docker push "$IMAGE"'
    return f'docker pull {platform} {image} && docker tag {image} "$IMAGE" && docker push "$IMAGE"'


def fill_lines(names: Sequence[str]) -> list[str]:
    """Return shell functions of which ``fill FILE`` prints it with variables in place of ``MOPT_`` and their names."""
    fills = "; ".join(f's|MOPT_{name}|$(literal "${name}")|' for name in names)
    return [
        "literal() { printf %s \"$1\" | sed 's/[\\\\&|]/\\\\&/g'; }",
        f'fill() {{ sed "{fills}" "$1"; }}',
    ]


def scaled_by(manifest: Manifest) -> str:
    """Say, for people, how many replicas there are and why."""
    given, batching = provision(manifest), manifest.batching
    if given.rate_per_replica is None:
        count = "1 replica" if given.replicas <= 1 else f"{given.replicas} replicas"
        return f"{count}: how much one holds was not measured for any traffic."
    lost = f", and {batching.spare_replicas} of them may be lost" if batching.spare_replicas else ""
    return (
        f"One replica more for every {digits(given.rate_per_replica)} requests per second: {batching.replicas} hold what was "
        f"asked for{lost}. That is of the model alone: mopt bench on a running replica tells what its server leaves of it."
    )


def checked_by(environment: Environment | None, script: str, part: str, files: Sequence[Path]) -> Proof:
    """Have files checked by a script of ``_files`` in the environment that has the makers' own types.

    Args:
        environment: None where it is not installed.
        script: Name of the script; it prints a line for each mistake.
        part: What is checked, for people.
        files: Its arguments.
    """
    if environment is None:
        return Proof(part=part, state="not proven", detail="the environment with its makers' types is not installed")
    source = Path(__file__).parent / "_files" / script
    with tempfile.TemporaryDirectory() as scratch:
        command = [str(environment.python), "-P", str(source), *map(str, files)]
        done = subprocess.run(
            command, cwd=scratch, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_CHECK_SECONDS
        )
    names = ", ".join(file.name for file in files)
    mistakes = done.stdout.splitlines()
    if done.returncode != 0 and not mistakes:
        raise RuntimeError(f"{script} ended with {done.returncode}: {done.stderr[-2000:]}")
    return Proof(part=part, state="failed" if mistakes else "proven", detail="; ".join(mistakes) or names)
