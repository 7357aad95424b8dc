"""One entry for each serving system: whole, and of one form."""

from __future__ import annotations

import pytest

from tests.artifacts.monitoring.prometheus import EXPORTED

FIELDS = ("answered", "failed", "inferences", "p99", "queue", "batch", "pending", "replicas")


@pytest.mark.parametrize("system", EXPORTED)
def test_nothing_is_left_to_fill_in_and_the_model_is_selected(system: str) -> None:
    exported = EXPORTED[system]
    assert exported.source
    assert exported.start
    for field in FIELDS:
        expression = exported.expression(field, "m", "7m")
        assert "$" not in expression
        assert expression.count("(") == expression.count(")")
        if expression:
            assert "{" in expression
    assert "[7m]" in exported.expression("answered", "m", "7m")
    assert exported.metrics


def test_counters_go_through_rate_before_they_are_summed() -> None:
    for exported in EXPORTED.values():
        for field in ("answered", "failed", "inferences", "queue", "batch"):
            expression = exported.expression(field, "m")
            assert expression.count("sum(") == expression.count("sum(rate(") == expression.count("rate("), expression


def test_a_model_is_called_as_the_server_calls_it_and_cannot_break_out_of_its_string() -> None:
    assert 'model="m_1_"' not in EXPORTED["triton"].expression("answered", "m 1")
    assert 'model="m_1"' in EXPORTED["triton"].expression("answered", "m 1")
    assert '"} or up{' not in EXPORTED["triton"].expression("answered", '"} or up{')


def test_names_are_those_of_metrics() -> None:
    assert EXPORTED["triton"].metrics == {
        "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
        "nv_inference_request_summary_us", "nv_inference_queue_duration_us", "nv_inference_pending_request_count",
    }  # fmt: skip


def test_a_replica_of_one_instance_counts_for_its_share_of_a_server() -> None:
    assert EXPORTED["ray_serve"].expression("replicas", "m", instances=3).endswith(" / 3")
