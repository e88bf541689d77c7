"""What the page's mathematics is tested against is what this package computes today."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "page_values.py"


def compare(found: Any, written: Any, at: str) -> None:
    if isinstance(written, dict):
        assert list(found) == list(written), at
        for name, value in written.items():
            compare(found[name], value, f"{at}.{name}")
    elif isinstance(written, list) and written and isinstance(written[0], dict | list):
        assert len(found) == len(written), at
        for i, value in enumerate(written):
            compare(found[i], value, f"{at}[{i}]")
    else:
        largest = max((abs(value) for value in written), default=0) if isinstance(written, list) else abs(written)
        assert found == pytest.approx(written, rel=1e-6, abs=1e-6 * largest), at


def test_the_values_for_the_page_are_current() -> None:
    spec = importlib.util.spec_from_file_location("page_values", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = json.loads(script.PLACE.read_text(encoding="utf-8"))
    compare(script.values(), written, "values")
