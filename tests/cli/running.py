"""Run a command in this process."""

from typer.testing import CliRunner

from mopt.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
