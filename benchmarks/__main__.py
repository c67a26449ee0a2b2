"""All benchmarks, each in a process of its own: ``python -m benchmarks [part of a name]…``.

They print what they measure beside the target; they never fail for being slow, because a busy machine is no bug. What
grows worse than linear does fail: that is none of the machine's doing. What takes minutes by itself runs only when it
is named.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LONG = {"bench_million"}


def names(wanted: list[str]) -> list[str]:
    """Modules bench_*.py in this folder that contain one of the words; without words, all but the long ones."""
    found = sorted(
        name[:-3] for name in os.listdir(HERE) if name.startswith("bench_") and name.endswith(".py")
    )
    return [name for name in found if (any(word in name for word in wanted) if wanted else name not in LONG)]


def main() -> int:
    """Run them one after the other; 1 when one failed."""
    begun = time.perf_counter()
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}"
    )
    # Both sides with their bytecode on disk, as what is installed has it: compiling is not what is measured.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    failed = []
    for name in names(sys.argv[1:]):
        sys.stdout.flush()
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}"], cwd=os.path.dirname(HERE), check=False
        )
        if done.returncode:
            failed.append(name)
            print(f"{name} ended with {done.returncode}", file=sys.stderr)
    print(f"\n{time.perf_counter() - begun:.0f} s, load {os.getloadavg()[0]:.1f}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
