"""Batches on a device that runs out of memory at will, and what the engine makes of one.

The device is played: `Compute.move` leaves every tensor on the CPU, so that all of the device's
path runs here, except for the device.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import torch

from lipaudit.device import DEFAULT_MEMORY, Compute, choose, ran_out_of_memory
from lipaudit.enclosure import Rigor
from lipaudit.errors import NotCertified
from lipaudit.operators import batches
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.batches import between_steps, in_batches, interruptible
from lipaudit.operators.convolution import convolution
from lipaudit.operators.dense import DenseOperator
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.operators.streamed import StreamedOperator

CPU = choose("cpu")
CUDA = torch.device("cuda", 0)
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


@dataclass
class Device:
    """A device whose memory holds so many frequencies, or nothing at all."""

    room: float
    moves: int = 0
    warnings: list[str] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)

    def move(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Take a tensor where it fits; the CPU always has room."""
        if device.type == "cpu":
            return tensor
        assert device == CUDA
        self.moves += 1
        # Frequencies come as integers, one row each; everything else fits, unless nothing does.
        many = tensor.shape[0] if tensor.dtype == torch.int64 and tensor.dim() == 2 else 1
        if many > self.room:
            raise torch.OutOfMemoryError(FULL)
        return tensor

    def compute(self, max_memory: int = 1 << 30, device_memory: int | None = None) -> Compute:
        """Return what makes the engine use it."""
        return Compute(
            CUDA,
            max_memory,
            warn=self.warnings.append,
            tick=self.ticks.append,
            move=self.move,
            device_memory=device_memory,
        )


def fitting(most: int) -> tuple[Callable[[slice, torch.device], list[int]], list[int]]:
    """Return work that needs room for each item on the device, and the sizes that were tried."""
    tried: list[int] = []

    def work(run: slice, device: torch.device) -> list[int]:
        items = list(range(run.start, run.stop))
        if device.type == "cuda":
            tried.append(len(items))
            if len(items) > most:
                raise torch.OutOfMemoryError(FULL)
        return items

    return work, tried


@pytest.mark.parametrize("count", [0, 1, 7, 64, 1000])
@pytest.mark.parametrize("compute", [CPU, Device(1).compute(), replace(CPU, max_memory=1)])
def test_every_item_once_and_in_order(count: int, compute: Compute) -> None:
    work, _ = fitting(count)
    for flops in (1.0, 1e8, 1e12):
        found = in_batches(work, count, bytes_each=1 << 20, flops_each=flops, compute=compute)
        assert [item for part in found for item in part] == list(range(count))


@pytest.mark.parametrize(("flops", "alone"), [(1e7, True), (1e9, False)])
def test_small_work_between_steps_stays_on_the_calling_thread(flops: float, alone: bool) -> None:
    def work(run: slice, device: torch.device) -> set[str]:
        del run, device
        time.sleep(0.05)
        return {threading.current_thread().name}

    with threads(2):
        there = in_batches(work, 16, bytes_each=1, flops_each=flops, compute=CPU)
        with between_steps():
            here = in_batches(work, 16, bytes_each=1, flops_each=flops, compute=CPU)
    caller = threading.current_thread().name
    assert set.union(*there) != {caller}
    assert (set.union(*here) == {caller}) is alone


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch have so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_in_a_small_job_nobody_waits_for_a_helper_that_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Asleep:
        def submit(self, *_: object) -> Future[None]:
            return Future()

    monkeypatch.setattr(batches, "_pool", lambda *_: Asleep())
    with threads(2):
        found = in_batches(
            lambda run, _: list(range(40))[run], 40, bytes_each=1, flops_each=1e7, compute=CPU
        )
    assert len(found) > 1
    assert [item for part in found for item in part] == list(range(40))


def test_in_a_small_job_the_calling_thread_and_a_helper_work_side_by_side() -> None:
    both = threading.Barrier(2)

    def work(run: slice, _: torch.device) -> tuple[slice, str, int]:
        both.wait(20)
        return run, threading.current_thread().name, torch.get_num_threads()

    with threads(2):
        found = in_batches(work, 4, bytes_each=1, flops_each=2e7, compute=CPU)
    assert [run.start for run, _, _ in found] == sorted(run.start for run, _, _ in found)
    assert len({name for _, name, _ in found}) == 2
    assert {count for _, _, count in found} == {1}


@pytest.mark.parametrize("whose", ["caller", "helper"])
def test_an_error_in_a_small_job_reaches_the_caller(whose: str) -> None:
    both, caller = threading.Barrier(2), threading.current_thread().name

    def work(run: slice, _: torch.device) -> None:
        if run.start < 2:
            both.wait(20)
        if (threading.current_thread().name == caller) is (whose == "caller"):
            raise ArithmeticError

    with threads(2), pytest.raises(ArithmeticError):
        in_batches(work, 4, bytes_each=1, flops_each=2e7, compute=CPU)


def test_pieces_are_halved_until_they_fit() -> None:
    device = Device(1)
    work, tried = fitting(3)
    found = in_batches(
        work, 40, bytes_each=1 << 20, flops_each=1e6, compute=device.compute(16 << 20)
    )
    assert [item for part in found for item in part] == list(range(40))
    # From what the budget allows downward, and never up again.
    assert tried[:4] == [16, 8, 4, 2]
    assert set(tried[3:]) == {2}
    assert device.warnings == []
    assert device.ticks == sorted(device.ticks)
    assert device.ticks[-1] == 1.0


def test_at_a_single_item_the_cpu_takes_over() -> None:
    device = Device(1)

    def work(run: slice, where: torch.device) -> list[int]:
        # Runs full half-way.
        if where.type == "cuda" and run.stop > 10:
            raise RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED")
        return list(range(run.start, run.stop))

    found = in_batches(
        work, 25, bytes_each=1 << 20, flops_each=1e6, compute=device.compute(8 << 20)
    )
    assert [item for part in found for item in part] == list(range(25))
    (warning,) = device.warnings
    assert "ran out of memory" in warning
    assert "CPU" in warning
    assert "\n" not in warning


def test_each_memory_has_its_own_budget() -> None:
    device = Device(float("inf"))
    compute = device.compute(8 << 20, device_memory=64 << 20)
    runs: list[tuple[str, int]] = []

    def work(run: slice, where: torch.device) -> None:
        if where.type == "cuda" and run.start == 64:
            raise torch.OutOfMemoryError(FULL)
        runs.append((where.type, run.stop - run.start))

    in_batches(work, 164, bytes_each=1 << 20, flops_each=1e9, compute=compute)
    there = [size for where, size in runs if where == "cuda"]
    here = [size for where, size in runs if where == "cpu"]
    assert there == [64]
    assert sum(here) == 100
    # Half of this machine's budget, shared by the threads.
    assert max(here) <= 4


def test_a_gpus_memory_is_no_memory_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (140 << 30, 141 << 30))
    free = choose("cuda")
    assert (free.max_memory, free.memory_on(CUDA)) == (DEFAULT_MEMORY, 64 << 30)
    assert free.memory_on(torch.device("cpu")) == DEFAULT_MEMORY
    limited = choose("cuda", max_memory=1 << 24)
    assert (limited.max_memory, limited.memory_on(CUDA)) == (1 << 24, 1 << 24)
    # What is too much for this machine is not made, however large the device is.
    little = Device(float("inf")).compute(1 << 16, device_memory=64 << 30)
    operator = convolution(kernel(4, 4, 3, 3), WRAPPED, (4, 40, 40), little)
    assert operator.spectrum() is None


def test_a_device_decomposes_what_fits_there() -> None:
    matrix = kernel(30, 40)
    for there, complete in ((1 << 20, True), (1 << 10, False)):
        compute = Device(float("inf")).compute(1 << 10, device_memory=there)
        assert (DenseOperator(matrix, compute).spectrum() is not None) is complete


def test_other_errors_are_not_taken_for_it() -> None:
    def work(run: slice, _: torch.device) -> None:
        raise RuntimeError(f"an illegal memory access was encountered at {run}")

    for compute in (CPU, Device(1).compute()):
        with pytest.raises(RuntimeError, match="illegal"):
            in_batches(work, 5, bytes_each=1, flops_each=1.0, compute=compute)
    assert not ran_out_of_memory(RuntimeError("expected scalar type Double"))


def test_without_memory_for_a_single_item_nothing_is_certified() -> None:
    def work(_: slice, __: torch.device) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
        )

    for compute in (CPU, Device(0).compute()):
        with pytest.raises(NotCertified) as caught:
            in_batches(work, 5, bytes_each=1, flops_each=1.0, compute=compute)
        assert caught.value.slug == "memory"


def test_the_calling_thread_only_waits() -> None:
    # Or else Ctrl-C would wait for LAPACK.
    def whose() -> str:
        return threading.current_thread().name

    assert interruptible(whose, flops=1e12).startswith("lipaudit")
    assert interruptible(whose, flops=1.0) == threading.main_thread().name
    for count in (1, 2, 50):
        names = in_batches(lambda _, __: whose(), count, bytes_each=1, flops_each=1e10, compute=CPU)
        assert all(name.startswith("lipaudit") for name in names)


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Return what interrupts the main thread, as Ctrl-C would."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        # A signal is lost on a thread that is only just going to wait.
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    yield interrupt
    signal.signal(signal.SIGINT, before)


def test_after_ctrl_c_the_next_call_waits_for_nothing(ctrl_c: Callable[[], None]) -> None:
    gate, first = threading.Event(), threading.Lock()

    def slow() -> None:
        if first.acquire(blocking=False):
            ctrl_c()
        gate.wait(20)

    with pytest.raises(KeyboardInterrupt):
        interruptible(slow, flops=1e12)
    first.release()
    with pytest.raises(KeyboardInterrupt):
        in_batches(lambda _, __: slow(), 8, bytes_each=1, flops_each=1e10, compute=CPU)
    start = time.monotonic()
    assert interruptible(lambda: 7, flops=1e12) == 7
    assert len(in_batches(lambda _, __: 1, 8, bytes_each=1, flops_each=1e10, compute=CPU)) >= 1
    assert time.monotonic() - start < 10
    gate.set()


def test_abandoned_work_ends_before_its_next_piece(
    ctrl_c: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun = threading.Event(), []
    workers: set[threading.Thread] = set()

    def slow(run: slice, _: torch.device) -> None:
        begun.append(run)
        workers.add(threading.current_thread())
        if len(begun) == 1:
            ctrl_c()
        gate.wait(20)

    # One thread with many pieces: there is work for two, but no more than for one to share.
    monkeypatch.setattr(batches, "WORTH_A_THREAD", 1e30)
    with pytest.raises(KeyboardInterrupt):
        in_batches(slow, 1000, bytes_each=1 << 20, flops_each=1e10, compute=CPU)
    gate.set()
    for thread in workers:
        thread.join(20)
        assert not thread.is_alive()
    assert len(begun) == 1


def kernel(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


PLAIN = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))
WRAPPED = replace(PLAIN, mode=PaddingMode.CIRCULAR)
STRIDED = replace(PLAIN, stride=(2, 2))
FLAT = torch.eye(4, dtype=torch.float64).reshape(4, 4, 1, 1)


def norm_only(compute: Compute) -> Compute:
    return replace(compute, full_spectra=False)


def by_svd(compute: Compute) -> Compute:
    return replace(compute, by_svd=True)


LAYERS: dict[str, Callable[[Compute], AbstractLinearOperator]] = {
    "any size": lambda c: convolution(kernel(5, 4, 3, 3), PLAIN, None, c),
    "flat": lambda c: convolution(FLAT, PLAIN, None, c),
    "strided": lambda c: convolution(kernel(6, 3, 3, 3), STRIDED, (3, 40, 40), norm_only(c)),
    "zero padding": lambda c: convolution(kernel(5, 4, 3, 3), PLAIN, (4, 30, 30), c),
    "circular": lambda c: convolution(kernel(5, 4, 3, 3), WRAPPED, (4, 20, 21), c),
    "circular, proved": lambda c: convolution(kernel(5, 4, 3, 3), WRAPPED, (4, 9, 8), by_svd(c)),
    "written out": lambda c: convolution(kernel(3, 2, 3, 3), PLAIN, (2, 6, 6), c),
    "dense": lambda c: DenseOperator(kernel(30, 40), c),
    "dense, piece by piece": lambda c: StreamedOperator(kernel(90, 80), c),
    "dense, norm only": lambda c: DenseOperator(kernel(300, 280), norm_only(c)),
}


@pytest.mark.parametrize("room", [float("inf"), 3, 0])
@pytest.mark.parametrize("name", LAYERS)
def test_a_device_proves_what_the_cpu_proves(name: str, room: float) -> None:
    device = Device(room)
    there, here = LAYERS[name](device.compute()), LAYERS[name](CPU)
    theirs, ours = there.norm().enclosure, here.norm().enclosure
    assert theirs.rigor is Rigor.PROVED
    # Both hold the truth, so they overlap; and neither is wider than it has to be.
    assert max(theirs.lower, ours.lower) <= min(theirs.upper, ours.upper)
    assert theirs.upper <= ours.upper * (1 + 2e-4)
    assert device.moves > 0
    if room == 0:
        assert device.warnings
    elif room == float("inf"):
        assert device.warnings == []
    spectrum, wanted = there.spectrum(), here.spectrum()
    assert (spectrum is None) == (wanted is None)
    if spectrum is not None and wanted is not None:
        assert spectrum.rigor is wanted.rigor
        off = abs(spectrum.values - wanted.values).max()
        assert off <= 1e-11 * wanted.largest
