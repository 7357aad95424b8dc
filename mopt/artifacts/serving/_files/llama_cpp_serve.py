"""Start llama-server, the one inside of the xllamacpp wheel, on the GGUF that ``settings.json`` names.

mopt copies this file. Requests go to llama-server itself; this only sets its options and waits for the end.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Start it, and end it when asked."""
    settings = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))
    options = _parser(settings).parse_args()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before it starts threads, so that they come to this one
    server = _server(options, settings)
    sys.stderr.write(f"llama-server listens at {server.listening_address}\n")
    signal.sigwait(ends)
    sys.exit(0)


def _parser(settings: dict[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Serve a GGUF with OpenAI's protocol.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / settings["model"])
    parser.add_argument("--threads", type=int, default=settings["threads"])
    parser.add_argument("--parallel", type=int, default=settings["parallel"], help="requests that are answered at once")
    parser.add_argument("--context", type=int, default=settings["context"], help="tokens of prompt and answer together")
    return parser


def _server(options: argparse.Namespace, settings: dict[str, Any]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(options.model.resolve())
    params.model_alias = {settings["name"]}
    params.hostnames, params.port = [options.host], options.port
    params.n_parallel, params.n_ctx = options.parallel, options.context * options.parallel
    params.n_gpu_layers, params.fit_params = 0, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{settings['cache_type'].upper()}")
    params.use_jinja, params.endpoint_metrics = True, True
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
