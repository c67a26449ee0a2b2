"""What ``import lastly`` adds to the start of a program, and ``import lastly.app`` beside ``import cement``."""

from __future__ import annotations

import importlib.util
import sys

from benchmarks.measure import Report, interleaved, median, wall

STARTS = 25


def over_bare(modules: list[str]) -> dict[str, float]:
    """Seconds that importing each module adds to ``python -c pass``: the median of interleaved starts."""

    def start(code: str) -> float:
        return wall([sys.executable, "-c", code])

    cases = {"": lambda: start("pass"), **{m: (lambda m=m: start(f"import {m}")) for m in modules}}
    start("pass")
    results = interleaved(cases, passes=STARTS)
    # Pass by pass, so that a slow second counts on both sides.
    return {m: median(a - b for a, b in zip(results[m], results[""], strict=True)) for m in modules}


def main() -> None:
    """Print the table."""
    peers = [m for m in ("contextlib", "tempfile", "signal", "cement") if importlib.util.find_spec(m)]
    ours = ["lastly", *(["lastly.app"] if importlib.util.find_spec("lastly.app") else [])]
    cost = over_bare([*ours, *peers])
    report = Report("import, over a bare interpreter")
    report.value("import lastly", cost["lastly"], target=5e-3)
    for peer in peers:
        if peer != "cement":
            report.ratio("import lastly", cost["lastly"], f"import {peer}", cost[peer])
    if "lastly.app" in cost and "cement" in cost:
        report.ratio("import lastly.app", cost["lastly.app"], "import cement", cost["cement"], target=0.5)
    report.print()


if __name__ == "__main__":
    main()
