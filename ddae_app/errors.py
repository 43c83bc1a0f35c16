"""One exception tree. Every message says what was found, what was expected and what to do.

The command line prints the message of a :class:`DdaeError` on one line and leaves with its
``exit_code``; any other exception is a defect of the program and keeps its traceback, but for
those of a machine that has too little memory (:func:`lack_of_memory`).
"""

import re

MORE_MEMORY = 'run the same command again with more memory, a lower --nprocs, or --low-mem'

_NO_MEMORY = re.compile(
    r'MemoryError\b|\bbad_alloc\b|_ALLOC_FAILED|CUDA error: out of memory'
    r"|can't allocate memory|Cannot allocate memory|Failed to allocate memory"
    # Shared libraries that find no room.
    '|failed to map segment from shared object'
)


class DdaeError(Exception):
    """Base of every error that a user can mend; exit code 1."""

    exit_code = 1


class ImageError(DdaeError):
    """One image cannot be processed; costs no other scan anything."""


class RegistrationError(ImageError):
    """The scan did not align with the template, so it must not be harmonised."""


class WorkerKilledError(DdaeError):
    """A process was killed from outside, most likely for lack of memory."""


class UsageError(DdaeError):
    """The command line, a settings file or a named resource is wrong; exit code 2."""

    exit_code = 2


class TemplateError(UsageError):
    """A template image is not at hand or does not fit the input."""


class ModelError(UsageError):
    """A model bundle is missing, corrupt, of another version or does not fit the request."""


class WeightsError(UsageError):
    """Brain-extraction weights are missing or corrupt."""


class NotEvaluableError(UsageError):
    """There are too few data to evaluate the harmonization; the group level does the rest."""


class InvalidBIDSError(DdaeError):
    """The input dataset is not valid BIDS; exit code 16 (BIDS execution specification)."""

    exit_code = 16


class NothingSelectedError(DdaeError):
    """The filters select no image; exit code 18 (BIDS execution specification)."""

    exit_code = 18


def lack_of_memory(said: str) -> str | None:
    """What to tell a user of an error that is no more than a lack of memory, else None.

    Python, NumPy, PyTorch, CUDA, ITK and the linker each have words, and classes, of their own.

    Parameters
    ----------
    said : str
        Name and text of the error, or its whole traceback.

    Returns
    -------
    str or None
        One line.
    """
    if not _NO_MEMORY.search(said):
        return None
    if 'CUDA' in said:
        return (
            'the GPU has too little memory left; end what else runs on it, or run the same '
            'command again with --low-mem, a lower --nprocs, more GPUs (train), or --device cpu'
        )
    return f'there is too little memory; {MORE_MEMORY}'
