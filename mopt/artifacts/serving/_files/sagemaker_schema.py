"""Check requests to AWS by the models of its services that botocore carries; one mistake a line.

Started with the files, which are named after what they ask for.
"""

from __future__ import annotations

__all__ = ["OPERATIONS", "checked"]

import json
import re
import sys
from pathlib import Path
from typing import Any

OPERATIONS = {
    "create-model.json": ("sagemaker", "CreateModel"),
    "endpoint-config.json": ("sagemaker", "CreateEndpointConfig"),
    "endpoint-config-shadow.json": ("sagemaker", "CreateEndpointConfig"),
    "endpoint.json": ("sagemaker", "CreateEndpoint"),
    "scalable-target.json": ("application-autoscaling", "RegisterScalableTarget"),
    "scaling-policy.json": ("application-autoscaling", "PutScalingPolicy"),
}
FILLED = {
    "MOPT_MODEL_URL": "s3://bucket/model.tar.gz",
    "MOPT_IMAGE": "123456789012.dkr.ecr.us-east-1.amazonaws.com/image:1",
    "MOPT_ROLE_ARN": "arn:aws:iam::123456789012:role/name",
    "MOPT_INSTANCE_TYPE": "ml.m5.xlarge",
    "MOPT_LIVE_MODEL": "live",
}
"""What people fill in, as it could be."""


def checked(value: Any, shape: Any, place: str) -> list[str]:
    """Return the texts that are no value of their enumeration, or do not fit their pattern: botocore leaves these to AWS.

    Args:
        value: What is sent.
        shape: botocore's.
        place: Of the value, for people.
    """
    match shape.type_name:
        case "structure":
            members = shape.members
            return [
                mistake
                for key, item in value.items()
                if key in members
                for mistake in checked(item, members[key], f"{place}.{key}")
            ]
        case "list":
            return [mistake for index, item in enumerate(value) for mistake in checked(item, shape.member, f"{place}.{index}")]
        case "map":
            return [mistake for key, item in value.items() for mistake in checked(item, shape.value, f"{place}.{key}")]
        case "string":
            return _checked_text(value, shape, place)
        case _:
            return []


def _checked_text(value: str, shape: Any, place: str) -> list[str]:
    if shape.enum and value not in shape.enum:
        return [f"{place}: AWS knows no {value}"]
    pattern, most = shape.metadata.get("pattern"), shape.metadata.get("max", len(value))
    if len(value) > most:
        return [f"{place}: {value} is longer than {most}"]
    if not pattern:
        return []
    try:
        fits = re.fullmatch(pattern, value) is not None
    except re.error:  # Java's words, which Python does not know
        return []
    return [] if fits else [f"{place}: {value} is not {pattern}"]


def main(paths: list[str]) -> None:
    """Print the mistakes."""
    import botocore.session
    import botocore.validate

    session = botocore.session.get_session()
    for path in map(Path, paths):
        service, operation = OPERATIONS[path.name]
        shape = session.get_service_model(service).operation_model(operation).input_shape
        text = path.read_text(encoding="utf-8")
        for name, value in FILLED.items():
            text = text.replace(name, value)
        request = json.loads(text)
        report = botocore.validate.ParamValidator().validate(request, shape)
        mistakes = report.generate_report().splitlines() if report.has_errors() else checked(request, shape, operation)
        for mistake in mistakes:
            print(f"{path.name}: {mistake}")  # noqa: T201 - what it is started for


if __name__ == "__main__":
    main(sys.argv[1:])
