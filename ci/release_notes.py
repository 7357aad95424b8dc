"""Print what CHANGELOG.md says of a release, for its page on GitHub.

``python ci/release_notes.py v0.1.0`` ends with an error unless pyproject.toml has the version of the tag, and the changelog a
section of it: then nothing is released.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def section(changelog: str, version: str) -> str:
    """Return the text under the heading of a version, such as ``## 0.1.0`` or ``## [0.1.0] - 2026-12-01``.

    Raises:
        SystemExit: When there is none, or it is empty.
    """
    heading = re.compile(rf"^## \[?{re.escape(version)}\]?(?![\w.]).*$", re.MULTILINE)
    start = heading.search(changelog)
    if start is None:
        raise SystemExit(f"CHANGELOG.md has no section for {version}: rename the section Unreleased")
    following = re.compile(r"^(## |\[[^\]]+\]: )", re.MULTILINE).search(changelog, start.end())
    text = changelog[start.end() : following.start() if following else None].strip()
    if not text:
        raise SystemExit(f"the section for {version} of CHANGELOG.md is empty")
    return text


def main(tag: str) -> None:
    """Check the tag, and print the section."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if tag != f"v{declared}":
        raise SystemExit(f"the tag is {tag}, and the version in pyproject.toml {declared}: tag v{declared}")
    sys.stdout.write(section((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), declared) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
