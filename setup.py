"""Only what pyproject.toml cannot say: conf/ is installed as the package adbench.conf."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["adbench", "adbench.*"]), "adbench.conf"])
