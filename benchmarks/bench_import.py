"""What ``import lastly`` adds to the start of a program, and ``import lastly.app`` beside ``import cement``."""

from __future__ import annotations

import importlib.util
import sys

from benchmarks.measure import Report, busy, interleaved, median

STARTS = 25
INSTALL = "lastly.install()"


def over_bare(modules: list[str]) -> dict[str, float]:
    """Seconds of processor time that importing each module adds to ``python -c pass``: medians of interleaved starts."""

    def start(code: str) -> float:
        return busy([sys.executable, "-c", code])

    cases = {"": lambda: start("pass"), **{m: (lambda m=m: start(f"import {m}")) for m in modules}}
    cases[INSTALL] = lambda: start(f"import lastly; {INSTALL}")
    start("pass")
    results = interleaved(cases, passes=STARTS)
    # Pass by pass, so that a slow second counts on both sides.
    return {m: median(a - b for a, b in zip(results[m], results[""], strict=True)) for m in cases if m}


def main() -> None:
    """Print the table."""
    peers = [m for m in ("contextlib", "tempfile", "signal", "cement") if importlib.util.find_spec(m)]
    ours = ["lastly", *(["lastly.app"] if importlib.util.find_spec("lastly.app") else [])]
    cost = over_bare([*ours, *peers])
    report = Report("import, over a bare interpreter")
    report.value("import lastly", cost["lastly"], target=5e-3)
    # 24 files, at 0.15 ms each, of which none may be imported when the signal comes; and `threading`, 3 ms.
    report.value("import lastly, and lastly.install()", cost[INSTALL])
    for peer in peers:
        if peer != "cement":
            report.ratio("import lastly", cost["lastly"], f"import {peer}", cost[peer])
    if "lastly.app" in cost and "cement" in cost:
        report.ratio("import lastly.app", cost["lastly.app"], "import cement", cost["cement"], target=0.5)
    report.print()


if __name__ == "__main__":
    main()
