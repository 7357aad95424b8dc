"""BentoML's JSON over HTTP."""

from __future__ import annotations

__all__ = ["bentoml_outputs", "connect_bentoml"]

from typing import Any

from mopt.errors import UserError
from mopt.loadgen.protocols._endpoint import Endpoint, Server, only
from mopt.loadgen.protocols._http import dictionary, fetch
from mopt.model.signature import Feed


def connect_bentoml(server: Server, route: str) -> Endpoint:
    routes = {str(entry["route"]).strip("/"): entry for entry in dictionary(fetch(server, "/schema.json")).get("routes", ())}
    if not routes:
        raise UserError(f"the server at {server} has no routes in /schema.json", "check that BentoML listens there")
    name = route.strip("/") or only(
        server, [key for key, entry in routes.items() if entry.get("batchable")] or [*routes], "route"
    )
    if name not in routes:
        raise UserError(f"the server at {server} has no route /{name}", f"it has {', '.join(f'/{key}' for key in routes)}")
    if fetch(server, "/readyz").status != 200:
        raise UserError(f"the server at {server} is not ready", "wait until it is, or look at its log")
    properties = routes[name].get("input", {}).get("properties", {})
    return Endpoint("bentoml", server, f"/{name}", "/livez", name, inputs=dict.fromkeys(properties))


def bentoml_outputs(answer: Any) -> Feed:
    import numpy as np

    if isinstance(answer, dict):
        return {str(name): np.asarray(value) for name, value in answer.items()}
    return {"output": np.asarray(answer)}
