from __future__ import annotations

from tests.phantom.conftest import axial_slice  # noqa: F401 - a fixture
