"""Check folders for ``kubectl apply -k`` with the types of KServe's SDK and of Kubernetes' client; one mistake a line.

Started with the folders: resources are read, patches are merged into them, and what comes out must be made of fields that the
types know, with all that they require.
"""

from __future__ import annotations

__all__ = ["checked", "merged"]

import re
import sys
from pathlib import Path
from typing import Any

KINDS = {
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): "V1alpha1ServingRuntime",
}
_SIMPLE: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "bool": (bool,), "float": (int, float)}
_OF = re.compile(r"(list|dict)[\[(](?:str, ?)?(.+)[\])]")


def merged(target: Any, patch: Any) -> Any:
    """Return what kustomize makes of a resource that Kubernetes has no own rules for: a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def checked(value: Any, kind: str, types: Any, place: str) -> list[str]:
    """Return the mistakes in a value that should be of a type.

    Args:
        value: As it was read.
        kind: Name of the type, as the generated classes write it.
        types: Returns a class by its name; None for what is not one.
        place: Of the value, for people.
    """
    if of := _OF.fullmatch(kind):
        holder, inner = of.groups()
        if not isinstance(value, list | dict) or isinstance(value, list) != (holder == "list"):
            return [f"{place} is no {holder}"]
        entries = enumerate(value) if isinstance(value, list) else value.items()
        return [mistake for key, item in entries for mistake in checked(item, inner, types, f"{place}.{key}")]
    if kind in _SIMPLE:
        right = isinstance(value, _SIMPLE[kind]) and (kind == "bool" or not isinstance(value, bool))
        return [] if right else [f"{place} is {value!r}, and should be {kind}"]
    known = types(kind)
    if known is None:
        return []
    if not isinstance(value, dict):
        return [f"{place} is no {kind}"]
    names = {json: attribute for attribute, json in known.attribute_map.items()}
    mistakes = [f"{place}.{key} is no field of {kind}" for key in value.keys() - names.keys()]
    fields = {names[key]: item for key, item in value.items() if key in names}
    for attribute, item in fields.items():
        json = known.attribute_map[attribute]
        mistakes += checked(item, known.openapi_types[attribute], types, f"{place}.{json}")
    try:
        known(**fields)
    except ValueError as error:
        mistakes.append(f"{place}: {error}")
    return mistakes


def _types(name: str) -> Any:
    import kserve.models
    import kubernetes.client.models

    return getattr(kserve.models, name, None) or getattr(kubernetes.client.models, name, None)


def _resources(folder: Path) -> list[dict[str, Any]]:
    import yaml

    content = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    resources: list[dict[str, Any]] = []
    for name in content["resources"]:
        path = folder / name
        resources += _resources(path) if path.is_dir() else [yaml.safe_load(path.read_text(encoding="utf-8"))]
    for entry in content.get("patches", ()):
        patch = yaml.safe_load((folder / entry["path"]).read_text(encoding="utf-8"))
        named = (patch["kind"], patch["metadata"]["name"])
        if named not in [(each["kind"], each["metadata"]["name"]) for each in resources]:
            raise ValueError(f"{entry['path']} is for {' '.join(named)}, which is not there")
        resources = [merged(each, patch) if (each["kind"], each["metadata"]["name"]) == named else each for each in resources]
    return resources


def main(folders: list[str]) -> None:
    """Print the mistakes."""
    for folder in folders:
        for resource in _resources(Path(folder)):
            kind = KINDS[resource["apiVersion"], resource["kind"]]
            for mistake in checked(resource, kind, _types, resource["kind"]):
                print(f"{Path(folder).name}: {mistake}")  # noqa: T201 - what it is started for


if __name__ == "__main__":
    main(sys.argv[1:])
