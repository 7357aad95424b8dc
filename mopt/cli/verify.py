"""``mopt verify``."""

from __future__ import annotations

__all__ = ["app"]

from typing import TYPE_CHECKING, Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, print_table, result_console, shown_progress

if TYPE_CHECKING:
    from mopt.records.benchmark import ServerVerification, Verification

app = command_app()

_NOT_PROVEN = ("failed", "not proven")


@app.command("verify", cls=PanelCommand)
def command(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="A folder that mopt build wrote, or its URL.")],
    server: opt.Server = None, as_json: opt.AsJson = False, quiet: opt.Quiet = False,
) -> None:  # fmt: skip
    """Check an artifact on this machine: digests of all files, then the golden samples replayed.

    With --server the real serving system is started on its files, asked over the network, compared with what was judged, put
    under a short load, and stopped. What was not run is named, and not called verified.

    Of a language model tokenizer, chat template and the probabilities of golden texts are compared, in the runtime that serves.

    Leaves with exit code 3 when anything differs.

    \b
    mopt verify model.mopt
    mopt verify model.mopt --server triton
    mopt verify model.mopt --server http://localhost:8000
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.errors import CheckFailedError
    from mopt.workflows.any_model import verify

    if server is not None:
        _verify_server(artifact, server, as_json, quiet)
        return
    with shown_progress(quiet) as progress:
        verification = verify(artifact, progress=progress)
    if as_json:
        print_json(verification.model_dump(mode="json"))
    else:
        _print(verification)
    if not verification.ok:
        raise CheckFailedError(f"{artifact} is not what was built", "build it again, or fetch it again")


def _verify_server(artifact: str, server: str, as_json: bool, quiet: bool) -> None:
    from mopt.errors import CheckFailedError
    from mopt.workflows.any_model import verify_server

    with shown_progress(quiet) as progress:
        verification = verify_server(artifact, server, progress=progress)
    if as_json:
        print_json(verification.model_dump(mode="json"))
    else:
        _print_server(verification)
    if not verification.ok:
        raise CheckFailedError(f"{server} does not pass", "the parts that failed say why")


def _print_server(verification: ServerVerification) -> None:
    rows = [[proof.part, proof.state, proof.detail] for proof in verification.proofs]
    print_table(["part", "", "what was seen"], rows, title=verification.version or verification.system)
    failed, unproven = ([proof.part for proof in verification.proofs if proof.state == state] for state in _NOT_PROVEN)
    if failed:
        result = f"FAILED: {', '.join(failed)}"
    elif not verification.started:
        result = "the server did not run; nothing of it is verified"
    else:
        result = "serves what was judged" + (f"; not proven: {', '.join(dict.fromkeys(unproven))}" if unproven else "")
    result_console().print(f"result    {result}", markup=False, soft_wrap=True)


def _print(verification: Verification) -> None:
    console = result_console()
    for problem in verification.problems:
        console.print(f"wrong     {problem}", markup=False, soft_wrap=True)
    for warning in verification.warnings:
        console.print(f"note      {warning}", markup=False, soft_wrap=True)
    console.print(f"files     {verification.files} checked", markup=False)
    console.print(f"samples   {verification.samples} replayed, {verification.summary}", markup=False, soft_wrap=True)
    console.print("result    " + ("as it was built" if verification.ok else "NOT as it was built"), markup=False)
