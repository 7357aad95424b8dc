"""Check requests to Vertex AI by the types that Google's library carries; one mistake a line.

Started with the files, which are named after what they ask for.
"""

from __future__ import annotations

__all__ = ["TYPES", "checked"]

import sys
from pathlib import Path
from typing import Any

TYPES = {
    "upload-model.json": "UploadModelRequest",
    "endpoint.json": "Endpoint",
    "deploy-model.json": "DeployModelRequest",
    "deploy-model-canary.json": "DeployModelRequest",
    "traffic-split.json": "Endpoint",
}


def checked(name: str, text: str, types: Any) -> list[str]:
    """Return what does not parse, and fields that are required and missing.

    Args:
        name: Of the file.
        text: JSON.
        types: Where the classes are.
    """
    from google.protobuf.json_format import ParseError

    try:
        request = getattr(types, TYPES[name]).from_json(text)
    except ParseError as error:
        return [f"{name}: {' '.join(str(error).split())}"]
    mistakes = []
    if TYPES[name] == "UploadModelRequest" and not (request.model.display_name and request.model.container_spec.image_uri):
        mistakes.append(f"{name}: a model has a name and an image")
    if TYPES[name] == "DeployModelRequest":
        resources = request.deployed_model.dedicated_resources
        if not resources.machine_spec.machine_type or not 1 <= resources.min_replica_count <= resources.max_replica_count:
            mistakes.append(f"{name}: a machine and from 1 replica on are needed")
    split = dict(getattr(request, "traffic_split", {}))
    if split and sum(split.values()) != 100:
        mistakes.append(f"{name}: the traffic is split into {sum(split.values())} %")
    return mistakes


def main(paths: list[str]) -> None:
    """Print the mistakes."""
    from google.cloud.aiplatform_v1 import types

    for path in map(Path, paths):
        for mistake in checked(path.name, path.read_text(encoding="utf-8"), types):
            print(mistake)  # noqa: T201 - what it is started for


if __name__ == "__main__":
    main(sys.argv[1:])
