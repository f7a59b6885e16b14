"""Everything in `docs/reference/benchmarks.md`, one after the other. Takes ``--rounds N``; about half an hour."""

import subprocess
import sys

for name in ("step", "loss", "prepare", "loader", "mixture", "packing", "checkpoint", "async_save"):
    print(f"\n## {name}\n", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)
