"""How fast `limner` answers: `limner --help`, `import limner`, against a bare Python and `import torch`. Medians of several processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

REPEATS = 9
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import limner": [sys.executable, "-c", "import limner"],
    "limner --help": [sys.executable, "-m", "limner", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    for command in COMMANDS.values():
        seconds(command)  # fills the caches of the file system and of bytecode
    times = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    print("| command | median | fastest | slowest |\n|---|---|---|---|")
    for name, found in times.items():
        print(f"| `{name}` | {statistics.median(found):.3f} s | {min(found):.3f} s | {max(found):.3f} s |")
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, limner; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"\n`import limner` loads torch: {loaded.stdout.strip()}")


if __name__ == "__main__":
    main()
