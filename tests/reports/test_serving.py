# ruff: noqa: RUF001 the report is written in typographic signs
from mopt.records.serving import Batching, Setting
from mopt.reports.serving import batching_facts, capacity_facts, serving_sentence, setting_rows
from tests.manifests import manifest


def setting(max_batch: int, replicas: int | None, p99_ms: float | None) -> Setting:
    return Setting(
        max_batch=max_batch, queue_delay_us=500, instances=1, threads=2, replicas=replicas, p99_ms=p99_ms,
        utilization=0.5, mean_batch=3.0, limited_by="p99",
    )  # fmt: skip


def batching(**changes) -> Batching:
    return manifest().batching.model_copy(update=changes)


def test_the_settings_are_one_line():
    assert serving_sentence(batching(threads=2, spare_replicas=1)) == (
        "batches up to 8, 1 instance of 2 threads; 0.500 ms queue delay; 2 servers (1 of them may be lost); "
        "predicted p99 23.4 ms at 62% utilization, without the server's own time (decided by p99)"
    )


def test_without_traffic_the_line_says_what_one_server_can_take():
    alone = batching(rate=None, predicted_p99_ms=None, utilization=None, queue_delay_us=0, peak_qps=120.0)
    assert "no queue delay" in serving_sentence(alone)
    assert "up to 120" in serving_sentence(alone)
    names = [fact.name for fact in batching_facts(alone)]
    assert "largest rate of one server" in names
    assert "planned for" not in names


def test_alternatives_are_ranked_by_their_servers_and_the_rule_of_thumb_is_last():
    weighed = (setting(1, None, None), setting(8, 2, 23.4), setting(4, 2, 20.0))
    rows = setting_rows(batching(alternatives=weighed, rule_of_thumb=setting(32, 4, 30.0)))
    assert [row["Largest batch"] for row in rows] == ["4", "8", "1", "32"]
    assert [row[""] for row in rows] == ["", "chosen", "", "rule of thumb: 2 times the servers"]
    assert rows[2]["Servers"] == rows[2]["p99"] == "–"


def test_the_facts_end_with_what_decided():
    facts = batching_facts(batching())
    assert (facts[0].value, facts[-1].value) == ("8", "p99")
    assert next(fact.value for fact in facts if fact.name == "utilization").startswith("62")


def test_a_replica_that_was_not_measured_has_no_facts():
    assert capacity_facts(None) == []
