"""Metrics for others: Prometheus' text format, and drawings."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from negspace import metrics
from negspace.cli import metrics_chart
from negspace.errors import InvalidInputError
from negspace.metrics import Sample, Window

NOW = datetime.now(UTC)


def exported(services, **options):
    """What its own parser reads: family → (type, {(name, labels): value})."""
    text = metrics.exposition(services, **options)
    families = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in families
        samples = {(s.name, frozenset(s.labels.items())): s.value for s in family.samples}
        assert len(samples) == len(family.samples)
        families[family.name] = (family.type, samples)
    return families


def test_each_kind_as_prometheus_has_it(services):
    ago = [NOW - timedelta(hours=h) for h in (30, 2, 0)]
    for at, value in zip(ago, (5, 6, 7), strict=True):
        metrics.record(
            services,
            Sample("hits", value, kind="counter", recorded_at=at),
            Sample("depth", value, kind="gauge", labels={"q": "a"}, recorded_at=at),
            Sample("run_ms", value, "ms", labels={"ok": True}, recorded_at=at),
        )
    for _ in range(2):
        found = exported(services)
        assert found["negspace_hits"] == (
            "counter",
            {("negspace_hits_total", frozenset()): 18.0},
        )
        depth = ("negspace_depth", frozenset({("q", "a")}))
        assert found["negspace_depth"] == ("gauge", {depth: 7.0})
        kind, samples = found["negspace_run_seconds"]
        labels = frozenset({("ok", "true")})
        assert kind == "summary"
        assert samples["negspace_run_seconds_sum", labels] == pytest.approx(0.018)
        assert samples["negspace_run_seconds_count", labels] == 3.0
        quantiles = {dict(key[1]).get("quantile"): v for key, v in samples.items()}
        assert quantiles["0.5"] == pytest.approx(0.007, rel=0.01)  # of the last hour
        metrics.roll_up(services)


@pytest.mark.parametrize(
    ("name", "unit", "kind", "family", "value"),
    [
        ("step_ms", "ms", "gauge", "negspace_step_seconds", 0.002),
        ("step", "s", "gauge", "negspace_step_seconds", 2.0),
        ("read_bytes", "B", "counter", "negspace_read_bytes_total", 2.0),
        ("size_kb", "kB", "gauge", "negspace_size_bytes", 2000.0),
        ("width", "px", "gauge", "negspace_width", 2.0),
    ],
)
def test_units_are_base_units_at_the_end_of_the_name(services, name, unit, kind, family, value):
    metrics.record(services, Sample(name, 2, unit, kind=kind))
    [(labels, found)] = [
        (dict(labels), value)
        for _, samples in exported(services).values()
        for (sample, labels), value in samples.items()
        if sample == family
    ]
    assert found == pytest.approx(value)
    assert labels == ({"unit": "px"} if unit == "px" else {})


def test_metrics_that_become_one_family_stay_apart(services):
    metrics.record(services, Sample("step_ms", 5, "ms"), Sample("step_seconds", 7, "s"))
    metrics.record(services, Sample("queue_jobs", 1, kind="gauge"))
    _, samples = exported(services, taken=["negspace_queue_jobs"])["negspace_step_seconds"]
    sums = {dict(labels)["metric"]: v for (n, labels), v in samples.items() if n.endswith("_sum")}
    assert sums == {"step_ms": pytest.approx(0.005), "step_seconds": 7}
    assert "negspace_queue_jobs" not in exported(services, taken=["negspace_queue_jobs"])


def test_hostile_names_and_labels_stay_readable(services):
    texts = ['a"b', "back\\slash", "two\nlines", "ünï", ""]
    for number, text in enumerate(texts):
        metrics.record(services, Sample("odd.name:x", number, labels={"9 lives": text}))
    metrics.record(services, Sample("odd_name:x", 1), Sample("odd.name:x", 1, kind="gauge"))
    metrics.record(services, Sample("same", 1, labels={"a.b": 1, "a b": [1, {"c": None}]}))
    metrics.record(services, Sample("same", 1, labels={"quantile": "x", "__name__": "y"}))
    found = exported(services)
    values = {
        dict(labels).get("label_9_lives") for _, samples in found.values() for _, labels in samples
    }
    assert values - {None} == set(texts)


def test_nothing_measured_is_an_empty_text(services):
    assert metrics.exposition(services) == ""


# ── drawings ─────────────────────────────────────────────────────────────────────────────


def windows(*values, gap=1):
    hour = timedelta(hours=1)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        Window(start + n * gap * hour, start + (n * gap + 1) * hour, 1, v, v, v, v, v * 2, v * 3)
        for n, v in enumerate(values)
    ]


@pytest.mark.parametrize("values", [(1,), (0, 0), (-5, 5), (1e-4, 9e10), tuple(range(200))])
def test_anything_can_be_drawn(values, tmp_path):
    chart = metrics_chart.Chart("a <title> & more", windows(*values))
    text = metrics_chart.terminal(chart)
    assert any("\u2801" <= sign <= "\u28ff" for sign in text)
    for column in metrics_chart.COLUMNS:
        points = list(itertools.chain(*chart.runs(column)))
        assert len(points) == len(values)
        assert all(0 <= x <= 960 and 0 <= y <= 420 for x, y in points)
    metrics_chart.save(chart, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (960, 420)
        assert len(image.getcolors(10**6)) > 3
    metrics_chart.save(chart, tmp_path / "a.html")
    assert "a &lt;title&gt; &amp; more" in (tmp_path / "a.html").read_text()


def test_a_line_ends_where_nothing_was_measured():
    chart = metrics_chart.Chart("t", windows(1, 2, 3, gap=2))
    assert [len(run) for run in chart.runs("p50")] == [1, 1, 1]
    assert [len(run) for run in metrics_chart.Chart("t", windows(1, 2)).runs("p50")] == [2]


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="neither"):
        metrics_chart.save(metrics_chart.Chart("t", windows(1)), tmp_path / "a.gif")


def test_the_command_line(cli, database, services, tmp_path):
    for hours in range(40):
        metrics.record(services, Sample("load", hours, recorded_at=NOW - timedelta(hours=hours)))
    shown = cli("metrics", "show", "load", "--since", "7d", env=database.environment)
    assert shown.status == 0
    assert "load per 60 min, UTC" in shown.out
    assert "sample count" in shown.out
    file = tmp_path / "load.png"
    drawn = cli("metrics", "show", "load", "--output", str(file), env=database.environment)
    assert drawn.status == 0
    assert file.stat().st_size > 1000
    wrong = cli("metrics", "show", "load", "--output", "x.gif", "--json", env=database.environment)
    assert wrong.error["message"].startswith("x.gif is neither")
    assert list(
        text_string_to_metric_families(cli("metrics", "export", env=database.environment).out)
    )
    assert cli("metrics", "rollup", "--json", env=database.environment).json["hours"] >= 0
    gone = cli("metrics", "purge", "--dry-run", "--json", env=database.environment).json
    assert gone == {"dropped": [], "dry_run": True}
