"""One exception tree. Every message says what was found, what was expected and what to do.

The command line prints the message of a :class:`DdaeError` on one line and leaves with its
``exit_code``; any other exception is a defect of the program and keeps its traceback.
"""


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


class NotJudgedError(UsageError):
    """There is too little to judge whether the site is gone; the group level does the rest."""


class InvalidBIDSError(DdaeError):
    """The input dataset is not valid BIDS; exit code 16 (BIDS execution specification)."""

    exit_code = 16


class NothingSelectedError(DdaeError):
    """The filters select no image; exit code 18 (BIDS execution specification)."""

    exit_code = 18
