"""OpenTelemetry: spans of a closing scope, in a program that uses it; nothing in any other."""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk.trace")


def test_spans_with_times_and_errors(programs):
    code = """
    import sys, time
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    from lastly import Scope
    before = time.time()
    try:
        with Scope("demo") as scope:
            scope.defer(time.sleep, 0.05)
            scope.defer(lambda: 1 / 0).named("bad")
            with scope.parallel("pool") as pool:
                pool.defer(print, "in the pool", flush=True)
    except ExceptionGroup:
        pass
    spans = {span.name: span for span in exporter.get_finished_spans()}
    print(sorted(spans))
    whole = spans["close demo"]
    assert whole.attributes["lastly.reason"] == "the end"
    assert before <= whole.start_time / 1e9 <= time.time()
    assert spans["sleep"].parent.span_id == whole.context.span_id
    assert spans["print"].parent.span_id == spans["pool"].context.span_id
    assert 0.05 <= (spans["sleep"].end_time - spans["sleep"].start_time) / 1e9 < 5
    assert spans["bad"].status.description == "ZeroDivisionError('division by zero')"
    """
    result = programs.run(code)
    assert result.err == ""
    assert result.lines == ["in the pool", "['bad', 'close demo', 'pool', 'print', 'sleep']"]


def test_nobody_else_loads_it(programs):
    code = """
    import sys
    from lastly import Scope
    with Scope() as scope:
        scope.defer(print, "x")
    assert not [name for name in sys.modules if name.startswith("opentelemetry")]
    """
    assert programs.run(code).status == 0
