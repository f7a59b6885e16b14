"""Every error a user can cause, and the exit code it ends with. The CLI prints one clear message.

* MyptError              2  bad input of any kind
  - ConfigError          2  a run file, an override, a preset name or a combination of them is wrong
  - DataError            3  shards are truncated, corrupted or do not hold what their manifest says; so are downloads
                            and archives
  - NumericError         4  the loss or the gradient norm stopped being finite
  - SaveError            5  a checkpoint could not be written
  - CheckpointError      6  a checkpoint is corrupt, incomplete or of another format
  - LostPeerError        7  another rank died, stopped answering or never came
  - LockError            8  another process trains in the same folder
  (hang)                 9  no progress for too long: the watchdog ended the process
  - Interrupted    130/143  a signal arrived; the state was saved

A broken invariant of ours is an ``assert`` or a plain Python error, keeps its traceback and exits with 1.
"""

HUNG = 9
"""Exit code of a process that its watchdog ended."""


class MyptError(Exception):
    """Base of every user-facing error."""

    exit_code = 2
    local = False
    """Whether this rank alone knows of it. What every rank finds is told once, by rank 0."""


class ConfigError(MyptError):
    """A run file, an override, a preset name or a combination of them is wrong."""


class DataError(MyptError):
    """Shards, downloads or archives are truncated, corrupted or not what they are said to be."""

    exit_code = 3


class NumericError(MyptError):
    """The loss or the gradient norm stopped being finite."""

    exit_code = 4


class SaveError(MyptError):
    """A checkpoint could not be written."""

    exit_code = 5


class CheckpointError(MyptError):
    """A checkpoint is corrupt, incomplete or of another format."""

    exit_code = 6


class LostPeerError(MyptError):
    """Another rank died, stopped answering or never came."""

    exit_code = 7


class LockError(MyptError):
    """Another process trains in the same folder."""

    exit_code = 8


class Interrupted(MyptError):
    """A signal arrived; the state was saved before leaving."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
