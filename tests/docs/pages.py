"""The pages of the documentation, and the fenced blocks in them."""

from __future__ import annotations

__all__ = ["PAGES", "REPOSITORY", "Block", "anchors", "blocks", "commands", "links"]

import dataclasses
import re
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
_FENCE = re.compile(
    r"^(?:<!-- (?P<note>(?:test|file): [^\n]*?) -->\n\s*\n?)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (?P<text>.+?)\s*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Where it stands.
        line: Number of its first line in the page.
        language: What stands behind its fence.
        text: What is in it.
        note: What the comment before it says: ``test: parse``, ``test: exit 3``, ``file: PATH``; empty without one.
    """

    page: Path
    line: int
    language: str
    text: str
    note: str

    @property
    def place(self) -> str:
        """Page and line, for the name of a test."""
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks(*languages: str) -> Iterator[Block]:
    """Yield every fenced block of these languages, page by page."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            if match["language"] in languages:
                line = text.count("\n", 0, match.start("text")) + 1
                yield Block(page, line, match["language"], match["text"], match["note"] or "")


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a console block: what follows a ``$``, comments left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            yield shlex.split(line[2:], comments=True)


def links(page: Path) -> list[str]:
    """Return the targets of all links and pictures of a page, code left out."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [match["target"] for match in _LINK.finditer(re.sub(r"`[^`\n]*`", "", text))]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as Python-Markdown makes them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {_slug(re.sub(r"[`*]|\]\([^)]*\)|\[", "", match["text"])) for match in _HEADING.finditer(text)}


def _slug(heading: str) -> str:
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
