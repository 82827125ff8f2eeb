"""Leaves tests out of the wheel: they stand beside each risk, and no user needs them installed."""

from setuptools import setup
from setuptools.command.build_py import build_py


class WithoutTests(build_py):
    """Builds every module but ``test_*.py``."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """The modules of a package, tests left out."""
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if not module[1].startswith("test_")]


setup(cmdclass={"build_py": WithoutTests})
