"""Where the checkout's files are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
VECTORS = ROOT / "tests" / "vectors"
