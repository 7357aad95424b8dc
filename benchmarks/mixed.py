"""What mixed precision saves: models whose plain INT8 fails, tuned by mopt, by NNCF and by Intel Neural Compressor.

    python -m benchmarks.mixed [--neural-compressor-python ENVIRONMENT/bin/python]
    python -m benchmarks.mixed --model efficientnet_lite0 --fidelity --keep 0.99

The race and the judging are those of ``benchmarks.peers``; the remark of a row says how often its tuner evaluated a model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import peers
from benchmarks.tools import REFERENCE, TUNERS
from tests import models

MODELS = ("ocr_rec", "magika", "efficientnet_lite0", "minilm_sentiment", "ocr_det")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=500, help="most held-out samples")
    parser.add_argument("--keep", type=float, default=0.99, help="share of the score that has to be kept")
    parser.add_argument("--fidelity", action="store_true", help="judge by the cosine to the FP32 model's outputs instead")
    parser.add_argument(
        "--neural-compressor-python",
        help="Python of an environment with onnx-neural-compressor, prettytable, scipy and numpy<2",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.olive_python = None
    arguments.tools = [name for name in TUNERS if name != REFERENCE]
    for name in arguments.model or MODELS:
        try:
            result = peers.measure_model(name, arguments, home="tuners")
        except models.UnavailableError as reason:
            print(f"{name}: {reason}")
            continue
        kind = "-fidelity" if arguments.fidelity else ""
        (arguments.out / f"mixed-{name}{kind}-{arguments.keep:g}.json").write_text(json.dumps(result, indent=1))
        print(peers.table(result), flush=True)


if __name__ == "__main__":
    main()
