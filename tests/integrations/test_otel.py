"""OpenTelemetry: spans of closing scopes, for a program that asks for them; nothing in any other."""

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
    from lastly.integrations import otel
    otel.instrument()
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
    whole = spans["close scope"]
    assert whole.attributes["lastly.scope"] == "demo"
    assert whole.attributes["lastly.reason"] == "the end"
    assert before <= whole.start_time / 1e9 <= time.time()
    assert spans["sleep"].parent.span_id == whole.context.span_id
    assert spans["print"].parent.span_id == spans["pool"].context.span_id
    assert 0.05 <= (spans["sleep"].end_time - spans["sleep"].start_time) / 1e9 < 5
    assert spans["bad"].status.description == "ZeroDivisionError('division by zero')"
    """
    result = programs.run(code)
    assert result.err == ""
    assert result.lines == ["in the pool", "['bad', 'close scope', 'pool', 'print', 'sleep']"]


SETUP = """
import atexit, lastly
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from lastly.integrations import otel
class Printer(SpanExporter):
    def export(self, spans):
        for span in spans:
            print(span.name, {k.removeprefix("lastly."): v for k, v in sorted(span.attributes.items())}, flush=True)
        return SpanExportResult.SUCCESS
provider = TracerProvider()
"""


def test_a_name_is_the_actions_and_what_it_was_done_to_an_attribute(programs, tmp_path):
    """So it is whatever the cleanup is called, and whether it is timed by itself or not."""
    code = SETUP + """
import sys
provider.add_span_processor(SimpleSpanProcessor(Printer()))
otel.instrument(provider)
for grace in (None, 60):
    with lastly.Scope(grace=grace) as scope:
        scope.defer(lastly.actions.remove, sys.argv[1])
        scope.defer(lastly.actions.remove, sys.argv[1]).named("the build")
        scope.defer(print)
"""
    result = programs.run(code, str(tmp_path / "nothing"))
    one, scope = "'outcome': 'done'}", "close scope {'reason': 'the end', 'scope': '', 'untimed': 0}"
    spans = [
        f"print {{'cleanup': 'print', {one}",
        f"remove {{'cleanup': 'the build', {one}",
        f"remove {{'cleanup': 'remove {tmp_path}/nothing', {one}",
        scope,
    ]
    assert [line for line in result.lines if line] == [*spans, *spans]


def test_the_process_itself_and_a_provider_that_exports_in_batches(programs):
    code = SETUP + """
provider.add_span_processor(BatchSpanProcessor(Printer()))
otel.instrument(provider)
lastly.defer(print, "bye", flush=True)
"""
    result = programs.run(code)
    assert result.lines == [
        "bye",
        "print {'cleanup': 'print', 'outcome': 'done'}",
        "close scope {'reason': 'the end', 'scope': 'root', 'untimed': 0}",
    ]


def test_an_error_of_telemetry_fails_no_close(programs):
    code = SETUP + """
class Broken:
    def start_span(self, *args, **kwargs): raise OSError("no route")
otel.instrument(type("Provider", (), {"get_tracer": lambda *args, **kwargs: Broken()})())
with lastly.Scope() as scope:
    scope.defer(print, "x")
otel.uninstrument()
otel.uninstrument()
"""
    result = programs.run(code)
    assert (result.status, result.out, result.err) == (0, "x\n", "")


def test_nobody_else_loads_it(programs):
    """...nor is anything sent when the program has imported OpenTelemetry for itself."""
    code = SETUP.replace("from lastly.integrations import otel", "from opentelemetry import trace") + """
provider.add_span_processor(SimpleSpanProcessor(Printer()))
trace.set_tracer_provider(provider)
with lastly.Scope() as scope:
    scope.defer(print, "x")
"""
    result = programs.run(code)
    assert (result.status, result.out, result.err) == (0, "x\n", "")
