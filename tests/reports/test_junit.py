import xml.etree.ElementTree as ElementTree

import pytest

from mopt.reports.junit import write_junit
from tests.manifests import HOSTILE
from tests.verdicts import cost, gate, quality


def parse(made):
    (suite,) = ElementTree.fromstring(write_junit(made))
    return suite


@pytest.mark.parametrize(
    ("word", "inconclusive", "tag"),
    [
        ("pass", "reject", None),
        ("fail", "accept", "failure"),
        ("inconclusive", "reject", "error"),
        ("inconclusive", "accept", "skipped"),
    ],
)
def test_a_check_is_a_test_case_that_ends_as_the_check_did(word, inconclusive, tag):
    suite = parse(gate(quality(word), cost("fail", counts=False), inconclusive=inconclusive))
    first, shown = suite.findall("testcase")
    assert [child.tag for child in first] == ([tag] if tag else [])
    assert [child.tag for child in shown] == ["skipped"], "what does not count fails nothing"
    counted = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    assert counted["tests"] == 2
    assert counted == {
        "tests": 2, "failures": int(tag == "failure"), "errors": int(tag == "error"), "skipped": 1 + (tag == "skipped"),
    }  # fmt: skip


def test_the_figures_are_in_the_message_and_the_text():
    suite = parse(gate(quality("fail"), warnings=("slow clock",)))
    (failure,) = suite.iter("failure")
    assert failure.get("message") == "-6.40 pp (-7.90 pp to -5.10 pp), allowed -1pp"
    assert failure.text.startswith("candidate 91.60 %, baseline 98.00 %.")
    assert suite.find("system-out").text == "slow clock"
    assert {entry.get("name"): entry.get("value") for entry in suite.iter("property")}["verdict"] == "fail"


def test_what_xml_cannot_hold_is_replaced():
    text = write_junit(
        gate(quality("fail", name=HOSTILE, note="\x00\x1b[31m\ud800".encode("utf-8", "replace").decode() + HOSTILE))
    )
    name = ElementTree.fromstring(text)[0].find("testcase").get("name")
    assert "\N{REPLACEMENT CHARACTER}" in name
    assert "<script>" in name
