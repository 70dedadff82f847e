"""The metrics of several replicas are one text: by replica, or added up."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import Metrics
from server.replicas.exposition import labelled, summed


def values(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every series, as Prometheus' own client reads it; none may be there twice."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


@pytest.fixture
def texts() -> dict[str, str]:
    """What two servers say of themselves; the second had an odd model and more to do."""
    one, two = Metrics('od"d {model} x'), Metrics('od"d {model} x')
    one.succeeded(["stop"], 10, 5)
    two.succeeded(["stop", "length"], 100, 50)
    two.timed(0.1, 0.2, [0.01, 0.3], 1.0)
    two.failed(429)
    return {"aaa": one.text().decode(), "bbb": two.text().decode()}


def test_every_series_of_every_replica_is_there_under_its_name(texts: dict[str, str]) -> None:
    found = values(labelled(texts))
    for name, text in texts.items():
        for (metric, labels), value in values(text).items():
            assert found.pop((metric, labels | {("replica", name)})) == value
    assert found == {}


def test_what_all_have_is_added_up_and_what_one_has_stays(texts: dict[str, str]) -> None:
    one, two = values(texts["aaa"]), values(texts["bbb"])
    found = values(summed(texts))
    assert found.keys() == one.keys() | two.keys()
    for key, value in found.items():
        if key[0].endswith(("_created", "_start_time_seconds")):
            assert value == min(one.get(key, value), two.get(key, value))
        else:
            assert value == pytest.approx(one.get(key, 0) + two.get(key, 0))
    model = frozenset({("model_name", 'od"d {model} x')})
    assert found["genarm_prompt_tokens_total", model] == 110
    assert found["genarm_inter_token_latency_seconds_count", model] == 2


def test_a_metric_is_described_once_and_its_series_stand_together(texts: dict[str, str]) -> None:
    for text in (labelled(texts), summed(texts)):
        lines = text.splitlines()
        assert len({line for line in lines if line.startswith("# TYPE")}) == text.count("# TYPE")
        names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
        assert len(names) == len(set(names))


def test_of_shares_the_mean_is_told_and_of_times_the_first() -> None:
    template = '# TYPE genarm_kv_cache_usage_perc gauge\ngenarm_kv_cache_usage_perc{{member="base"}} {}\n'
    template += "# TYPE genarm_x_created gauge\ngenarm_x_created {}\n# TYPE plain gauge\nplain {}\n"
    together = values(summed({"a": template.format(0.5, 100, 1), "b": template.format(0.25, 90, 2)}))
    assert sorted(together.values()) == [0.375, 3.0, 90.0]


def test_infinities_and_series_without_labels_keep_their_form() -> None:
    text = "# TYPE plain gauge\nplain +Inf\n"
    assert 'plain{replica="a"} +Inf' in labelled({"a": text})
    assert summed({"a": text, "b": text}) == text
