"""Compute: where the numbers are worked out, and how much memory that may take.

The only file that knows of CUDA.
"""

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch

from lipaudit.cache.store import Store
from lipaudit.errors import UsageError

DEFAULT_MEMORY = 2 << 30
"""Bytes of work space for one layer: what a small CI machine can spare."""
CPU = torch.device("cpu")
_ANY_GPU = frozenset({"auto", "cuda"})
"""Names that leave open which GPU is meant."""
_LEAST = 1 << 28
"""Bytes of a GPU that are counted on even where it is full."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of two options in malloc.h."""
_KEPT_PIECE = 1 << 25
"""Bytes of a tensor from which on it has pages of its own, which go when it does: glibc's most."""
_KEPT = 1 << 25
"""Free bytes at the end of a thread's heap up to which none are given back: twice what a piece of
a batch takes. One heap for all threads would make them wait for it: a tenth of the time."""

Move = Callable[[torch.Tensor, torch.device], torch.Tensor]
Warn = Callable[[str], None]
Tick = Callable[[float], None]


def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device; the tensor itself when it is there already."""
    return tensor.to(device)


def ignore(_: object) -> None:
    """Take no notice."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user asked for, before a machine chose by what it has."""

    name: str
    max_memory: int | None


@dataclass(frozen=True, slots=True)
class Compute:
    """The device for the linear algebra (always in float64) and the work-space budgets."""

    device: torch.device
    max_memory: int = DEFAULT_MEMORY
    """Bytes of this machine's memory, whatever the device."""
    full_spectra: bool = True
    """Whether singular values are wanted, or only norms."""
    by_svd: bool = False
    """Whether every matrix is decomposed itself and proved, whatever that costs."""
    warn: Warn = ignore
    """Called with one line when something had to be done another way."""
    tick: Tick = ignore
    """Called with the share of the layer's present stage that is done."""
    move: Move = move
    """How tensors get to a device: a field so that a test can play a device that runs full."""
    enough: float | None = None
    """An upper end of a norm that need not be improved on where that would take longer."""
    device_memory: int | None = None
    """Bytes of the device's own memory; None: as many as of this machine's."""
    cache: Store | None = None
    """Where the numbers of layers are kept, and looked for before they are worked out."""
    wanted: Wanted | None = None
    """What another machine is to choose by; None: it has to take the device as it is."""

    @property
    def on_cpu(self) -> bool:
        """Whether the work is done on the CPU anyway."""
        return self.device.type == "cpu"

    def memory_on(self, device: torch.device) -> int:
        """Return the budget where the work is done: there, or on the CPU in its place."""
        if device.type == "cpu" or self.device_memory is None:
            return self.max_memory
        return self.device_memory

    def there(self, device: torch.device) -> "Compute":
        """Return the same for work on one device, whose budget is then the only one."""
        return replace(self, max_memory=self.memory_on(device))


def choose(
    name: str,
    *,
    max_memory: int | None = None,
    full_spectra: bool = True,
    by_svd: bool = False,
    warn: Warn = ignore,
    tick: Tick = ignore,
    cache: Store | None = None,
) -> Compute:
    """Turn `auto`, `cpu`, `cuda` or `cuda:1` into a device that is really there.

    `max_memory` is the limit on this machine and on the device; left open, there is a default
    for the one, and the other may be filled by half, or less: by a power of two, so that two runs
    which find about as much free decide alike.
    """
    wanted = Wanted(name, max_memory)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"no device is called {name!r}", slug="device", hint="use auto, cpu or cuda"
        ) from None
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(
            f"device {name!r} has no float64 linear algebra", slug="device", hint="use cpu or cuda"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not there", slug="device", hint="use --device cpu")
    there = max_memory
    if there is None and device.type == "cuda":
        there = _half_of_free(device)
    return Compute(
        device,
        DEFAULT_MEMORY if max_memory is None else max_memory,
        full_spectra,
        by_svd,
        warn,
        tick,
        device_memory=there,
        cache=cache,
        wanted=wanted,
    )


def here(compute: Compute, own: str = "", sharers: int = 1) -> Compute:
    """Choose anew, for a worker, what was chosen where the work was shared out.

    `own` is this process's GPU, if it was given one; so many processes share its memory.
    """
    if compute.wanted is None:
        return compute
    name = own if own and compute.wanted.name in _ANY_GPU else compute.wanted.name
    device, memory = _here(name, compute.wanted.max_memory, sharers)
    return replace(compute, device=device, device_memory=memory)


@cache
def _here(name: str, max_memory: int | None, sharers: int) -> tuple[torch.device, int | None]:
    """Return a device and the budget on it; once, for what is taken later is not free any more."""
    chosen = choose(name, max_memory=max_memory)
    memory = chosen.device_memory
    if memory is not None and max_memory is None:
        memory = max(memory // sharers, _LEAST)
    return chosen.device, memory


def gpus(name: str) -> list[str]:
    """Name every GPU that a name like `auto` means; none where it means one or the CPU."""
    if name not in _ANY_GPU:
        return []
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def described() -> list[str]:
    """Say which devices there are, in words."""
    found = ["cpu"]
    for index in range(torch.cuda.device_count()):
        try:
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
        except RuntimeError as error:  # a driver that does not fit
            found.append(f"cuda:{index}: cannot be used: {error}")
        else:
            found.append(f"cuda:{index}: {name}, {free >> 30} of {total >> 30} GiB free")
    return found


def ran_out_of_memory(error: Exception) -> bool:
    """Tell whether an error means that a device (or this machine) had no memory left.

    The libraries below torch report it in words of their own.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return any(
        phrase in text
        for phrase in ("out of memory", "ALLOC_FAILED", "can't allocate memory", "NOT_ENOUGH_MEM")
    )


def release(device: torch.device) -> None:
    """Give memory back that nobody holds any more.

    On a GPU torch keeps it; on the CPU glibc does, between the matrices of several threads, and
    would let a process grow to several times what it uses.
    """
    if device.type == "cpu":
        trim = _glibc("malloc_trim")
        if trim is not None:
            trim(0)
    elif torch.cuda.is_available():
        torch.cuda.empty_cache()


def keep_memory() -> None:
    """Let this process use freed memory again instead of asking the system for new pages.

    glibc gives back whatever is freed at the end of its heap. Where batches of matrices come and
    go that costs as much time as factorizing them. It concerns the whole process, so that only
    commands and workers do this, nobody who imports the library.
    """
    options = _glibc("mallopt")
    if options is not None:
        options(_MMAP_THRESHOLD, _KEPT_PIECE)
        options(_TRIM_THRESHOLD, _KEPT)


@cache
def _glibc(name: str) -> Callable[..., int] | None:
    """Return a function of glibc that concerns memory, None on other systems."""
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found


def _half_of_free(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return 1 << max((free // 2).bit_length() - 1, _LEAST.bit_length() - 1)
