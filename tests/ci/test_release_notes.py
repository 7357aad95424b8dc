import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def notes(folder, changelog, tag):
    """Run the script as the workflow does, on another changelog."""
    (folder / "ci").mkdir()
    script = folder / "ci" / "release_notes.py"
    script.write_text((ROOT / "ci" / "release_notes.py").read_text())
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (folder / "CHANGELOG.md").write_text(changelog)
    return subprocess.run([sys.executable, str(script), tag], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("heading", [VERSION, f"[{VERSION}]", f"{VERSION} - 2026-12-01", f"[{VERSION}] - 2026-12-01"])
@pytest.mark.parametrize("end", ["", "\n## 0.0.9\n\n- old\n", "\n[0.0.9]: https://example.org\n"])
def test_the_section_of_the_version_is_printed(tmp_path, heading, end):
    changelog = f"# Changelog\n\n## Unreleased\n\n- later\n\n## {heading}\n\n### Added\n\n- this\n{end}"
    done = notes(tmp_path, changelog, f"v{VERSION}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "### Added\n\n- this\n"


@pytest.mark.parametrize(
    ("changelog", "tag", "message"),
    [
        (f"## {VERSION}\n\n- this\n", "v9.9.9", f"tag v{VERSION}"),
        (f"## {VERSION}\n\n- this\n", VERSION, f"tag v{VERSION}"),
        ("## Unreleased\n\n- this\n", f"v{VERSION}", "no section"),
        (f"## {VERSION}.1\n\n- this\n", f"v{VERSION}", "no section"),
        (f"## {VERSION}rc1\n\n- this\n", f"v{VERSION}", "no section"),
        (f"## {VERSION}\n\n## 0.0.9\n\n- old\n", f"v{VERSION}", "empty"),
    ],
)
def test_nothing_is_released_when_they_do_not_agree(tmp_path, changelog, tag, message):
    done = notes(tmp_path, changelog, tag)
    assert done.returncode == 1
    assert message in done.stderr
