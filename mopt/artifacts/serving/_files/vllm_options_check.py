"""Prints a line for each mistake that vLLM finds in ``vllm.yaml`` and in the checkpoint that it names; no weight is read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.update(VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1", VLLM_CPU_OMP_THREADS_BIND="nobind")


def main(options: Path, model: Path) -> None:
    """Parse the options as the server does, then make the configuration of the engine."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    try:
        arguments = parser.parse_args(["--config", str(options), "--model", str(model)])
    except SystemExit:
        sys.stdout.write("vLLM's parser refuses an option\n")
        return
    try:
        validate_parsed_serve_args(arguments)
        AsyncEngineArgs.from_cli_args(arguments).create_engine_config()
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        sys.stdout.write(" ".join(f"{type(error).__name__}: {error}".split())[:400] + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
