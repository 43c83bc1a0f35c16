"""The exceptions of the program. A message says what is wrong, what was expected, and what to do.

The command line prints the message of a :class:`DdaeError` on one line and exits with its
``exit_code``. Any other exception is a defect of the program and keeps its traceback, except for
a lack of memory (:func:`lack_of_memory`).
"""

import re

MORE_MEMORY = 'run the same command again with more memory, a lower --nprocs, or --low-mem'

_NO_MEMORY = re.compile(
    r'MemoryError\b|\bbad_alloc\b|_ALLOC_FAILED|CUDA error: out of memory'
    r"|can't allocate memory|Cannot allocate memory|Failed to allocate memory"
    # The message of the dynamic linker for a shared library.
    '|failed to map segment from shared object'
)


class DdaeError(Exception):
    """Base class of all errors that a user can resolve; exit code 1."""

    exit_code = 1


class ImageError(DdaeError):
    """One image cannot be processed; the other scans are not affected."""


class RegistrationError(ImageError):
    """The registration of a scan to the template failed, so it must not be harmonized."""


class WorkerKilledError(DdaeError):
    """A process was killed by the system, most likely for lack of memory."""


class UsageError(DdaeError):
    """The command line, a settings file or a file that they name is not valid; exit code 2."""

    exit_code = 2


class TemplateError(UsageError):
    """A template image is missing or does not fit the input."""


class ModelError(UsageError):
    """A model file is missing, corrupt, of another version, or does not fit the request."""


class WeightsError(UsageError):
    """Brain-extraction weights are missing or corrupt."""


class NotEvaluableError(UsageError):
    """There are too few data to evaluate the harmonization; the group level does the rest."""


class NotCalibratedError(UsageError):
    """No site has enough usable scans to be calibrated.

    Attributes
    ----------
    problem : str
        What is wrong, without what to do.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(
            f'{problem}; harmonize each scan by itself (participant --unseen-site agnostic), or '
            'give --allow-few-scans'
        )
        self.problem = problem


class InvalidBIDSError(DdaeError):
    """The input dataset is not valid BIDS; exit code 16 (BIDS execution specification)."""

    exit_code = 16


class NothingSelectedError(DdaeError):
    """The filters selected no image; exit code 18 (BIDS execution specification)."""

    exit_code = 18


def lack_of_memory(text: str) -> str | None:
    """The message for an error that means a lack of memory; None for other errors.

    Python, NumPy, PyTorch, CUDA, ITK and the dynamic linker report it in different ways.

    Parameters
    ----------
    text : str
        Class and message of the error, or its whole traceback.

    Returns
    -------
    str or None
        The message, on one line.
    """
    if not _NO_MEMORY.search(text):
        return None
    if 'CUDA' in text:
        return (
            'the GPU has too little memory left; stop other programs that use it, or run the same '
            'command again with --low-mem, a lower --nprocs, more GPUs (train), or --device cpu'
        )
    return f'there is too little memory; {MORE_MEMORY}'
