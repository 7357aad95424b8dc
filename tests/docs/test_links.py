"""Every link and every path in the documentation that stays within the repository leads somewhere."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, REPOSITORY, anchors, links


def _name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(REPOSITORY), f"{link} leaves the repository"
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors(target), f"{link}: the headings are {sorted(anchors(target))}"


@pytest.mark.parametrize("page", PAGES[2:], ids=_name)
def test_a_page_of_the_site_links_to_nothing_outside_of_it(page: Path) -> None:
    for link in links(page):
        if not link.startswith(("http://", "https://", "#")):
            assert (page.parent / link.partition("#")[0]).resolve().is_relative_to(REPOSITORY / "docs"), link


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_paths_of_the_code_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    written = {note.removeprefix("file: ") for note in re.findall(r"<!-- (file: \S+) -->", text)}
    for path in re.findall(r"`((?:mopt|tests|examples|benchmarks|ci|docs)/[\w./-]+)`", text):
        assert (REPOSITORY / path).exists() or path in written, path


def test_the_map_names_every_room() -> None:
    """And no file that a function it names is not in."""
    text = (REPOSITORY / "docs" / "contributing" / "map-of-the-code.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (REPOSITORY / "mopt").glob("*/__init__.py")}
    assert rooms == set(re.findall(r"^\| `mopt/(\w+)` \|", text, re.MULTILINE))
    for path, functions in re.findall(r"`(mopt/[\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", text):
        source = (REPOSITORY / path).read_text(encoding="utf-8")
        for function in re.findall(r"\w+", functions):
            assert re.search(rf"^(def|class) {function}\b", source, re.MULTILINE), f"{path} has no {function}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[2:]:
        assert f": {page.relative_to(REPOSITORY / 'docs').as_posix()}\n" in navigation, page


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 110
