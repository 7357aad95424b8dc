"""What a cloud calls the machine that a model was built for."""

from __future__ import annotations

__all__ = ["sagemaker_instance_type", "vertex_machine_type"]

from mopt.records.manifest import Manifest

_SAGEMAKER_FAMILIES = frozenset(
    {
        "c4", "c5", "c5d", "c6g", "c6gd", "c6gn", "c6i", "c6in", "c7g", "c7i", "c8g", "g4dn", "g5", "g6", "g6e", "g7", "g7e",
        "m4", "m5", "m5d", "m6g", "m6gd", "m6i", "m7i", "m8g", "p3", "p4d", "p4de", "p5", "p5e", "p5en", "r5", "r5d", "r6g",
        "r6gd", "r6i", "r7gd", "r7i", "r8g",
    }
)  # fmt: skip
"""Families of EC2 that endpoints run on; not every one is offered (botocore's ``ProductionVariantInstanceType``)."""


def sagemaker_instance_type(manifest: Manifest) -> str:
    """Return ``ml.c7i.2xlarge`` for the target ``aws-c7i-2xlarge``; empty where endpoints do not run on the target."""
    cloud, _, kind = str(manifest.target.get("name", "")).partition("-")
    family, _, size = kind.partition("-")
    return f"ml.{family}.{size}" if cloud == "aws" and family in _SAGEMAKER_FAMILIES and size else ""


def vertex_machine_type(manifest: Manifest) -> str:
    """Return ``c3-highcpu-8`` for the target ``gcp-c3-highcpu-8``; empty for other targets."""
    cloud, _, kind = str(manifest.target.get("name", "")).partition("-")
    return kind if cloud == "gcp" else ""
