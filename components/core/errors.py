"""Errors for people. Each says what was given, what is allowed and what to do.

One root, a few names worth catching; ``exit_code`` is what the command line returns.
"""


class LacewingError(Exception):
    """Root of all errors that are reported as one message, without a traceback."""

    exit_code = 1


class InputError(LacewingError):
    """The caller gave something that cannot be used: a source, a key, a value, an override."""

    exit_code = 2


class ArtifactError(LacewingError):
    """An artifact is missing, truncated or altered."""

    exit_code = 4


class DiskFullError(LacewingError):
    """A write failed because the disk is full; what had been written before is intact."""

    exit_code = 5


class ServiceError(LacewingError):
    """Something outside this process does not answer: MLflow, a DVC remote, a port, a server."""

    exit_code = 6
