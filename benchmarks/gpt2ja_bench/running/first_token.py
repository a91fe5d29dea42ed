"""A new process to its first token: what a `Contestant` starts for a cold start.

Prints the peak of its memory in bytes when the token is there; the caller's clock does the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gpt2ja_bench.running.engines.base import Job, make_engine
from gpt2ja_bench.running.memory import peak_memory


def main() -> None:
    """Load, generate one token, and say so."""
    kind, precision, device, directory, threads = sys.argv[1:]
    engine = make_engine(kind, precision, device)
    engine.load(Path(directory), int(threads))
    engine.run(Job([list(range(16, 32))], [1], 1))
    print(f"first token {peak_memory()}", flush=True)


if __name__ == "__main__":
    main()
