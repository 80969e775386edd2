"""Names the packages, because the repository root is itself the package `conceptloom`.

Everything else is in pyproject.toml. A package that is not listed here does not reach the wheel.
"""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PACKAGES = (
    "attention",
    "batch",
    "cli",
    "concepts",
    "host",
    "methods",
    "nodes",
    "samplers",
    "scenes",
    "tinyworld",
    "training",
    "vision",
    "viz",
)


class BuildWithoutSetup(build_py):
    """This file lies in the package's folder, but is no part of it."""

    def find_package_modules(self, package, package_dir):
        modules = super().find_package_modules(package, package_dir)
        return [module for module in modules if module[:2] != ("conceptloom", "setup")]


found = find_packages(
    ".", include=[pattern for package in PACKAGES for pattern in (package, f"{package}.*")]
)
setup(
    packages=["conceptloom", *(f"conceptloom.{name}" for name in found)],
    cmdclass={"build_py": BuildWithoutSetup},
)
