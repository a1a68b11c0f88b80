"""The exceptions that whimbrel raises, in one file.

WhimbrelError                    exit code 1   anything we can explain in one line
├── UsageError (ValueError)      exit code 2   the request itself is wrong
│   ├── InvalidParameter                       one named parameter has an impossible value
│   └── PromptTooLong                          more tokens than the context holds
├── ModelNotFound                exit code 3   no such model, file or revision
├── DoesNotFit                   exit code 4   more memory than the machine has free
├── FormatError (ValueError)                   a file is truncated, corrupt or not what it claims
├── UnsupportedModel                           a model that no code here can run
├── UnsupportedImplementation                  an op was asked for an implementation that can't serve it
├── UnsupportedCapability                      a backend was asked for something it lacks
├── DownloadError                              the network, a checksum or the disk stopped a download
├── WriteError                                 the disk is full, or refuses for another reason
├── TrainingDiverged                           a training run that only gets worse
└── MissingExtra                               an optional dependency is not installed

Every message says what was asked, what was found, and what to do next.
"""


class WhimbrelError(Exception):
    """Base of all errors that are shown to people as one line."""

    exit_code = 1


class UsageError(WhimbrelError, ValueError):
    """The request is wrong in itself; repeating it can't help."""

    exit_code = 2


class InvalidParameter(UsageError):
    """A named parameter has a value that makes no sense."""

    parameter: str | None = None
    """its name, where the message doesn't begin with it, as in ``NAME=value is impossible``"""


class PromptTooLong(UsageError):
    """The prompt and the answer need more tokens than the context holds."""


class ModelNotFound(WhimbrelError):
    """No model, file or revision of that name."""

    exit_code = 3


class DoesNotFit(WhimbrelError):
    """Weights, cache and scratch need more memory than is free."""

    exit_code = 4


class FormatError(WhimbrelError, ValueError):
    """A file is truncated, corrupt, or not of the kind that it claims to be."""


class UnsupportedModel(WhimbrelError):
    """A model of an architecture, or with an option, that is not implemented."""


class UnsupportedImplementation(WhimbrelError):
    """An op's implementation was asked for by name and can't serve these inputs."""


class UnsupportedCapability(WhimbrelError):
    """A backend lacks what was asked; the message names an alternative."""


class DownloadError(WhimbrelError):
    """A download stopped: network, checksum or disk."""


class WriteError(WhimbrelError):
    """A file could not be written: the disk is full, or refuses for another reason."""


class TrainingDiverged(WhimbrelError):
    """Batch after batch had to be skipped; the learning rate is too high, or the data is broken."""


class MissingExtra(WhimbrelError):
    """An optional dependency is missing; the message names the extra to install."""
