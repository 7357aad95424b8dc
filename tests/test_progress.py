from mopt.cli._output import TerminalProgress
from mopt.progress import Progress, Silent


def test_silence_is_progress_and_so_is_the_terminal(capsys):
    silent: Progress = Silent()
    shown: Progress = TerminalProgress(None)
    for progress in (silent, shown):
        progress.stage("compiling", 1)
        progress.step("one")
    assert capsys.readouterr().err.count("compiling") == 2
