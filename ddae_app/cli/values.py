"""Conversion of command-line arguments to the values of settings."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from typing import Any

from ddae_app.settings import check_value


def checked(name: str, convert: Callable[[str], Any] = str) -> Callable[[str], Any]:
    """A type for argparse that converts an argument and checks the value for a setting."""

    def check(text: str) -> Any:
        try:
            value = convert(text)
            check_value(name, value)
        except ValueError as e:
            raise argparse.ArgumentTypeError(str(e)) from e
        return value

    return check


def number(name: str) -> Callable[[str], Any]:
    """A type for argparse that reads a whole number and checks it for a setting."""

    def convert(text: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise ValueError(f'{text!r}: expected a whole number') from None

    return checked(name, convert)


def decimal(name: str, what: str) -> Callable[[str], Any]:
    """A type for argparse that reads a decimal number and checks it for a setting.

    Parameters
    ----------
    name : str
        Of the setting.
    what : str
        What is expected, for the message, such as ``a number of hours``.
    """

    def convert(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f'{text!r}: expected {what}') from None

    return checked(name, convert)


def memory_mb(text: str) -> int:
    """A size in megabytes, from a number with or without a suffix K, M, G or T.

    Raises
    ------
    argparse.ArgumentTypeError
        The text is not a size.
    """
    match = re.fullmatch(r'(\d+)([KMGT]?)B?', text.strip().upper())
    if not match or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f'{text}: expected a size such as 16000 or 16G')
    return max(1, int(int(match[1]) * {'K': 1e-3, '': 1, 'M': 1, 'G': 1e3, 'T': 1e6}[match[2]]))


def default_nprocs() -> int:
    """Number of CPUs that this process may use, which a batch system may have restricted."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    )
