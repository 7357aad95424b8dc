"""Every format of a language model on every runtime that is installed: size, perplexity, divergence, speed.

    python -m benchmarks.language_formats MODEL... --train FOLDER --heldout FOLDER
    python -m benchmarks.language_formats MODEL --train FOLDER --heldout FOLDER --candidates 'llama_cpp-*' --effort quick

The candidates are those of ``mopt build``, made by the same passes and scored in the runtime that serves them. ``--page``
writes the tables for the documentation.
"""

from __future__ import annotations

import datetime
import sys

from benchmarks.language_scoring import Row, Setting, common, judge, markdown, prepare, reference_row, write_page, write_rows
from mopt.profiles.machine import detect
from mopt.recipe import EffortName, Language
from mopt.search.language.candidates import language_candidates
from mopt.search.language.spaces._base import LanguageSpaceInputs
from mopt.search.language.trial import LanguageCandidate
from mopt.system.forkserver import forking


def main() -> None:
    """Print the tables."""
    parser = common(__doc__)
    parser.add_argument("--candidates", nargs="+", default=["*"], help="patterns of their names")
    parser.add_argument("--effort", choices=("quick", "standard", "thorough"), default="thorough")
    arguments = parser.parse_args()
    rows: dict[str, list[Row]] = {}
    sections = []
    with forking():
        for model in arguments.models:
            setting = prepare(model, arguments)
            rows[model.name] = [reference_row(setting)]
            for candidate in _candidates(setting, arguments.candidates, arguments.effort):
                rows[model.name].append(_row(setting, candidate))
                print(markdown(rows[model.name][-1:]).splitlines()[-1], flush=True)
            windows = setting.windows
            text = f"{windows.count:,} tokens of {len(windows.size)} documents, windows of {windows.length}"
            sections.append(f"## {model.name}\n\nScored on {text}, stride {windows.stride}.\n\n{markdown(rows[model.name])}")
    command = f"python -m benchmarks.language_formats {' '.join(model.name for model in arguments.models)}"
    write_page(arguments.page, "Language models", command, sections, datetime.date.today().isoformat())
    write_rows(arguments.json, rows)
    sys.exit(any(row.failure for listed in rows.values() for row in listed))


def _candidates(setting: Setting, patterns: list[str], effort: EffortName) -> list[LanguageCandidate]:
    inputs = LanguageSpaceInputs(
        format=setting.source.format,
        architecture=setting.checkpoint.architecture,
        windows=setting.calibration,
        threads=setting.threads,
        context=setting.context,
        options=Language(),
        systems=(),
        isa=detect().isa,
        chat=False,
    )
    return language_candidates(inputs, patterns, effort)


def _row(setting: Setting, candidate: LanguageCandidate) -> Row:
    if candidate.refused is not None:
        return Row(name=candidate.name, runtime=candidate.runtime.name, failure=candidate.refused.reason)
    if candidate.scored_passes is not None:
        return judge(setting, candidate.name, candidate.scored_passes, candidate.runtime, candidate.passes)
    return judge(setting, candidate.name, candidate.passes, candidate.runtime)


if __name__ == "__main__":
    main()
