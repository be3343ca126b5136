"""Installs the other servers into the environment that runs this, one by one: what cannot be installed here is said, and its rows
say so too. Never installs into the product's environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    wanted = [line.strip() for line in Path(sys.argv[1]).read_text().splitlines() if line.strip() and not line.startswith("#")]
    for requirement in wanted:
        done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", requirement], check=False)
        if done.returncode:
            print(f"{requirement} cannot be installed here: its rows will say so", file=sys.stderr)


if __name__ == "__main__":
    main()
