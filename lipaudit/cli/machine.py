"""Machine: where the layers are measured, by whom, and where results are kept."""

from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lipaudit.errors import LipauditError

if TYPE_CHECKING:
    from lipaudit.cache.store import Store
    from lipaudit.crews.hiring import Hired


class Machine:
    """What the options say of it; helpers are hired for the first file, and let go at the end."""

    def __init__(
        self,
        device: str,
        store: "Store | None",
        workers: int | None,
        scheduler: str | None,
        *,
        wait: float | None,
    ) -> None:
        self.device = device
        self.store = store
        self._wanted = workers, scheduler
        self._wait = wait
        self._hired: Hired | None = None
        self._stack = ExitStack()

    def hire(self) -> dict[str, Any]:
        """Hire, the first time; return the arguments `device`, `cache` and `crew` of the API."""
        if self._hired is None:
            from lipaudit import api  # noqa: PLC0415 - torch is imported only for a file
            from lipaudit.device import keep_memory  # noqa: PLC0415 - the same

            keep_memory()
            crew = api.hired(*self._wanted, device=self.device, wait=self._wait)
            try:
                self._hired = self._stack.enter_context(crew)
            except LipauditError as error:
                error.ends_run = True  # the next file would find nobody either
                raise
        return {"device": self.device, "cache": self.store, "crew": self._hired}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
