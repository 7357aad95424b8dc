"""A gate as JUnit XML, which every CI system renders: one test case for each check."""

from __future__ import annotations

__all__ = ["write_junit"]

import re
import xml.etree.ElementTree as ElementTree

from mopt.records.verdict import Check, GateVerdict
from mopt.reports.gate import change_text, figure_text, interval_text

_NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")


def write_junit(gate: GateVerdict) -> str:
    """Return the document.

    A failed check is a failure; an open one is an error, or skipped where the user accepts it; one that does not count is
    skipped.
    """
    suites = ElementTree.Element("testsuites", name="mopt gate")
    cases = [_case(check, gate) for check in gate.checks]
    kinds = [case[0].tag if len(case) else "" for case in cases]
    suite = ElementTree.SubElement(
        suites,
        "testsuite",
        name=_clean(f"mopt gate: {gate.candidate.name} against {gate.baseline.name}"),
        tests=str(len(cases)),
        failures=str(kinds.count("failure")),
        errors=str(kinds.count("error")),
        skipped=str(kinds.count("skipped")),
        timestamp=gate.created[:19],
        time="0",
        hostname="localhost",
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (
        ("verdict", gate.verdict),
        ("samples", str(gate.samples)),
        ("candidate", gate.candidate.digest),
        ("baseline", gate.baseline.digest),
    ):
        ElementTree.SubElement(properties, "property", name=name, value=_clean(value))
    suite.extend(cases)
    ElementTree.SubElement(suite, "system-out").text = _clean("\n".join(gate.warnings))
    ElementTree.SubElement(suite, "system-err").text = ""
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(check: Check, gate: GateVerdict) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=f"mopt.workflows.gate.{check.kind}", name=_clean(check.name), time="0")
    message = _clean(f"{change_text(check.change.value, check)} ({interval_text(check)}), allowed {check.limit or 'anything'}")
    detail = _clean(
        f"candidate {figure_text(check.candidate, check.unit)}, baseline {figure_text(check.baseline, check.unit)}. "
        f"{check.method}. {check.note}"
    )
    if not check.counts:
        ElementTree.SubElement(case, "skipped", message=message)
    elif check.verdict == "fail":
        ElementTree.SubElement(case, "failure", type="fail", message=message).text = detail
    elif check.verdict == "inconclusive" and gate.inconclusive == "reject":
        ElementTree.SubElement(case, "error", type="inconclusive", message=message).text = detail
    elif check.verdict == "inconclusive":
        ElementTree.SubElement(case, "skipped", message=message)
    return case


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
