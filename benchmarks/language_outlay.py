"""What builds of language models were said to take, and what they took: from the manifests of artifacts.

    python -m benchmarks.language_outlay ARTIFACT...

Build them with an empty cache and nothing beside. The last two tables are what the costs in
``mopt/workflows/language/_outlay.py`` are fitted to: seconds of each pass and of each judging, and what these are in units of a
product of float32 for each parameter (and token) on this machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mopt.artifacts.language import LanguageArtifact
from mopt.records.language import LanguageManifest
from mopt.workflows.language._outlay import first_made, product_seconds


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=Path)
    manifests = [LanguageArtifact.read(path).manifest for path in parser.parse_args().artifacts]
    print("| model | | expected | taken | factor |\n|---|---|---|---|---|")
    for manifest in manifests:
        _print_outlay(manifest)
    product = product_seconds()
    print(f"\nA product of float32 takes {product:.3g} s.\n")
    print("| model | step | seconds | for each parameter | and token |\n|---|---|---|---|---|")
    for manifest in manifests:
        _print_steps(manifest, product)


def _print_outlay(manifest: LanguageManifest) -> None:
    expected, taken = manifest.expected, manifest.taken
    if expected is None or taken is None:
        print(f"| {manifest.name} | from the cache | | | |")
        return
    for field, scale, unit in (
        ("memory_bytes", 1e6, "MB"), ("seconds", 1, "s"), ("passes_seconds", 1, "s, passes"), ("disk_bytes", 1e6, "MB of disk"),
    ):  # fmt: skip
        before, after = getattr(expected, field) / scale, getattr(taken, field) / scale
        print(f"| {manifest.name} | {unit} | {before:.0f} | {after:.0f} | {before / max(after, 1e-9):.2f} |")


def _print_steps(manifest: LanguageManifest, product: float) -> None:
    parameters, tokens = manifest.source.parameters, int(manifest.data["scored_tokens"])
    for record in first_made(manifest.trials):
        units = record.seconds / product / parameters
        print(f"| {manifest.name} | {record.name} | {record.seconds:.1f} | {units:.0f} | |")
    for trial in manifest.trials:
        if trial.judging_seconds:
            units = trial.judging_seconds / product / parameters
            row = (
                f"| {manifest.name} | {trial.name} judged | {trial.judging_seconds:.1f} | {units:.0f} | {units / tokens:.2f} |"
            )
            print(row)


if __name__ == "__main__":
    main()
