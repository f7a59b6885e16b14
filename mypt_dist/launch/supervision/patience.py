"""How often and how soon a run is started again. Pure functions of numbers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds on restarts that bring a run no further."""

    restarts: int = 3
    """In a row without a new checkpoint. One is for a fault that is over, two more for one that takes a minute to pass,
    such as a GPU that resets or a network that comes back; what fails four times at one step will always fail there.
    """
    first_wait_s: float = 2.0
    """Sockets and GPU memory of the dead need about so long to be free."""
    longest_wait_s: float = 120.0
    """Longer than that, an idle machine costs more than another attempt."""

    def wait_s(self, restart: int) -> float:
        """Seconds before the ``restart``-th restart in a row, from 1: doubled each time, up to a bound."""
        return min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(restart - 1, 60))


@dataclass(frozen=True, slots=True)
class Failures:
    """Those since a run last got further."""

    step: int
    """The newest step that was ever committed."""
    count: int = 0

    def and_another(self, step: int) -> "Failures":
        """After a failure that left ``step`` as the newest committed one."""
        return Failures(step, 1) if step > self.step else Failures(self.step, self.count + 1)
