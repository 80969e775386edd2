"""What the tests of unsound concept files begin with."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck

FUZZ: Any = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


def sound_document() -> dict[str, Any]:
    return {
        "base": "b",
        "format": "concept",
        "history": {},
        "method": "m",
        "prompts": [],
        "recipe": {},
        "scales": {},
        "seeds": {},
        "thumbnail": "",
        "version": 1,
        "words": {},
    }
