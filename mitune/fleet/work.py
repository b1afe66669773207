"""What a fleet works on."""

from typing import Protocol


class Work(Protocol):
    """One job, as a worker sees it after it has opened it: loaded the model, begun the set.

    The object that opens it, a callable without arguments, travels to the workers by pickle.
    """

    @property
    def units(self) -> int:
        """Number of units of the whole job."""
        ...

    def pending(self) -> list[int]:
        """The units that are not made yet, ascending."""
        ...

    def make(self, unit: int) -> None:
        """Make a unit and store it, which does nothing if it is made already. Two workers may make
        the same unit at the same time: what is stored is then the first one's."""
        ...
