"""The peers' environments: one per peer, of pinned versions, under `.bench/envs`.

    python -m benchmarks.envs

An environment that is there and was made from the same requirements is left as it is. They use
this project's Python and its uv.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).parent / "peers"
ENVS = ROOT / ".bench" / "envs"
UV = Path(sys.executable).with_name("uv")


def names() -> list[str]:
    """All peers."""
    return sorted(path.parent.name for path in PEERS.glob("*/requirements.txt"))


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, there or not."""
    return ENVS / peer / "bin" / "python"


def install(peer: str) -> str | None:
    """Make a peer's environment unless it is there.

    Returns:
        None, or what went wrong: the peer is then left out, with that reason.
    """
    requirements = PEERS / peer / "requirements.txt"
    stamp = ENVS / peer / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return None
    python = str(python_of(peer))
    commands = [
        [str(UV), "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVS / peer)],
        [str(UV), "pip", "install", "--quiet", "--no-deps", "--compile-bytecode"],
    ]
    commands[1] += ["--python", python, "--requirements", str(requirements)]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            version = ".".join(map(str, sys.version_info[:3]))
            return f"cannot be installed with Python {version}: {done.stderr.strip()[-300:]}"
    stamp.write_text(wanted)
    return None


def main() -> int:
    """Install all; say what could not be."""
    failures = {peer: reason for peer in names() if (reason := install(peer))}
    for peer, reason in failures.items():
        sys.stderr.write(f"{peer} {reason}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
