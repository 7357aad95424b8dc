"""What people see of a build of a language model."""

from __future__ import annotations

__all__ = ["print_language_artifact", "print_language_plan"]

from typing import TYPE_CHECKING

from mopt.cli._output import print_columns, print_cut_lines, print_json, print_lines, print_table, printable, result_console

if TYPE_CHECKING:
    from mopt.artifacts.language import LanguageArtifact
    from mopt.records.language import LanguageManifest
    from mopt.workflows.language.build import LanguagePlan

_NARROW = ("name", "perplexity", "decode", "outcome")
_WIDE_ENOUGH = 110


def print_language_plan(plan: LanguagePlan, as_json: bool) -> None:
    """Print what a build would try, and what it would take."""
    from mopt.records import units as q
    from mopt.reports.language import outlay_text
    from mopt.system.digests import describe_fields

    rows = [
        {
            "name": candidate.name,
            "runtime": candidate.runtime.name,
            "passes": [{"name": step.name, "fields": describe_fields(step)} for step in candidate.passes],
            "refused": candidate.refused.model_dump(mode="json") if candidate.refused else None,
        }
        for candidate in plan.candidates
    ]
    if as_json:
        print_json(
            {
                "recipe": plan.recipe.model_dump(mode="json"),
                "source": plan.source.model_dump(mode="json"),
                "data": plan.data,
                "candidates": rows,
                "expected": plan.expected.model_dump(mode="json"),
            }
        )
        return
    source = plan.source
    print_lines(
        [
            f"{source.architecture}, {source.parameters:,} parameters, {q.memory(source.size_bytes)}",
            f"metric {plan.metric}, tolerance {plan.recipe.tolerance}, context {plan.context:,}",
        ]
    )
    tried = [candidate for candidate in plan.candidates if candidate.refused is None]
    cells = [[each.name, each.runtime.name, " > ".join(step.name for step in each.passes) or "-"] for each in tried]
    print_table(["candidate", "runtime", "passes"], cells, title="Would be tried, in this order")
    console = result_console()
    for candidate in plan.candidates:
        if candidate.refused is not None:
            reason = f"{candidate.name}: {candidate.refused.rejection}, {candidate.refused.reason}"
            console.print(printable(reason), markup=False, soft_wrap=True)
    console.print(f"takes about {outlay_text(plan.expected)}", markup=False)


def print_language_artifact(artifact: LanguageArtifact, as_json: bool, all_rows: bool) -> None:
    """Print the candidates, what was chosen, and how it is served."""
    from mopt.reports.language import closing_lines

    manifest = artifact.manifest
    if as_json:
        print_json(
            {
                "artifact": str(artifact.folder),
                "cached": artifact.cached,
                "chosen": manifest.chosen,
                "why": manifest.why,
                "deployable": manifest.deployable,
                "warnings": manifest.warnings,
                "trials": [trial.model_dump(mode="json") for trial in manifest.trials],
            }
        )
        return
    _print_rows(manifest, all_rows)
    print_lines(
        [
            f"NOT DEPLOYABLE: {manifest.not_deployable_because}" if not manifest.deployable else "",
            *(f"warning   {text}" for text in manifest.warnings),
            f"artifact  {artifact.folder}" + (" (from the cache)" if artifact.cached else ""),
            f"report    {artifact.folder / 'report.html'}",
        ]
    )
    result_console().print()
    print_lines(closing_lines(manifest, artifact.folder))


def _print_rows(manifest: LanguageManifest, all_rows: bool) -> None:
    """Print what was judged, and the others in a line for each reason; or all with their reasons."""
    from mopt.reports.language import COLUMNS, language_rows, short_outcome

    trials = {trial.name: trial for trial in manifest.trials}
    rows = language_rows(manifest)
    judged = {name for name, trial in trials.items() if trial.text is not None}
    shown = [row for row in rows if all_rows or row["name"] in judged]
    if not all_rows:
        shown = [row | {"outcome": short_outcome(trials[row["name"]], manifest)} for row in shown]
    columns = list(COLUMNS)
    print_columns(COLUMNS, shown, narrow=_NARROW, wide_enough=_WIDE_ENOUGH, right=columns[1:-1])
    if not all_rows:
        reasons: dict[str, list[str]] = {}
        for row in rows:
            if row["name"] not in judged:
                reasons.setdefault(row["outcome"], []).append(row["name"])
        lines = [f"  {', '.join(names)}: {reason}" for reason, names in reasons.items()]
        print_cut_lines(["Not in the table (--all has every row):", *lines] if lines else [])
