"""The probes of the benchmarks are tested beside those of the evaluation."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / 'benchmarks'))
