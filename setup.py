"""Names the packages, because the repository root is itself the package `conceptloom`.

Everything else is in pyproject.toml. A room that is not listed here does not reach the wheel.
"""

from setuptools import find_packages, setup

ROOMS = (
    "attention",
    "cli",
    "host",
    "methods",
    "nodes",
    "samplers",
    "tinyworld",
    "training",
    "vision",
)

found = find_packages(".", include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")])
setup(packages=["conceptloom", *(f"conceptloom.{name}" for name in found)])
