"""OpenTelemetry: a span for each outermost scope that closes, and one below it for each of its cleanups.

``pip install 'lastly[otel]'``, and once in the program, after its tracer provider has been set up::

    from lastly.integrations import otel

    otel.instrument()

Spans are made when a scope has closed, from the times in its report: spans that are open while the cleanups
run would cost every scope. A scope that closes more than 256 cleanups at once counts them without a span for
each.

A span is named by what is the same for all cleanups of a kind, the action or the function. What it was done
to (a path, a pid) is an attribute: backends keep statistics by name, and break down when each name is new.
"""

import time

from opentelemetry import trace

from lastly._scope.now import now
from lastly._words.clock import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.context import Context

    from lastly._scope.reason import ExitReason
    from lastly._scope.report import Report, ReportEntry

__all__ = ["instrument", "uninstrument"]
__dir__ = __all__.copy  # dir() shows what is public

_tracer: "trace.Tracer | None" = None


def instrument(tracer_provider: "trace.TracerProvider | None" = None) -> None:
    """Make spans of scopes that close from now on; a second call replaces the provider.

    A provider that exports in batches must outlive the process's own cleanups: set it up before the first
    ``defer()``.

    Args:
        tracer_provider: whose spans they are; default: OpenTelemetry's global one.

    .. versionadded:: 0.1
    """
    global _tracer
    _tracer = trace.get_tracer("lastly", tracer_provider=tracer_provider)
    now.subscribe(closed=_closed)


def uninstrument() -> None:
    """Make no more spans; a second call does nothing.

    .. versionadded:: 0.1
    """
    global _tracer
    _tracer = None


def _closed(report: "Report", reason: "ExitReason") -> None:
    if _tracer is None:
        return
    try:
        _send(_tracer, report, str(reason))
    except Exception:  # an exporter's: a telemetry error must not fail the close
        return


def _send(tracer: trace.Tracer, report: "Report", reason: str) -> None:
    if not report.entries:  # all were counted only
        return
    offset = time.time() - monotonic()  # from the report's clock to the calendar's

    def below(entries: "Iterable[ReportEntry]", context: "Context") -> None:
        for entry in entries:
            start, end = entry.start + offset, entry.start + entry.seconds + offset
            made = tracer.start_span(entry.kind, context=context, start_time=int(start * 1e9))
            made.set_attribute("lastly.cleanup", entry.name)
            made.set_attribute("lastly.outcome", entry.outcome)
            if entry.outcome != "done":
                made.set_status(trace.Status(trace.StatusCode.ERROR, entry.error))
            below(entry.cleanups, trace.set_span_in_context(made))
            made.end(end_time=int(end * 1e9))

    start = min(entry.start for entry in report) + offset
    whole = tracer.start_span("close scope", start_time=int(start * 1e9))
    whole.set_attribute("lastly.scope", report.scope or "")
    whole.set_attribute("lastly.reason", reason)
    whole.set_attribute("lastly.untimed", report.untimed)
    below(report, trace.set_span_in_context(whole))
    whole.end(end_time=int((start + report.seconds) * 1e9))
