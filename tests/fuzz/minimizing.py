"""Minimizing: a smaller case that fails in the same way, by cutting and by zeroing bytes."""

import zipfile
from collections.abc import Callable, Iterator

from tests.fuzz.case import Case
from tests.fuzz.pickles import members_of, zipped

_SMALLEST = 1
Fails = Callable[[Case], bool]


def minimized(case: Case, fails: Fails, attempts: int = 600) -> Case:
    """Return the smallest case found within so many attempts; the case itself must fail.

    An archive is taken apart, so that its members shrink and their checksums stay right.
    """
    left = attempts

    def still(candidate: Case) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and fails(candidate)

    for name in sorted(case.files):
        fewer = Case({n: d for n, d in case.files.items() if n != name}, case.target, case.reader)
        if name != case.target and fewer.files and still(fewer):
            case = fewer
    for name in sorted(case.files):
        members = _taken_apart(case.files[name])
        if members and still(case.changed(name, zipped(members))):
            case = _with_smaller_members(case, name, members, still)
        else:
            case = _with_smaller_file(case, name, still)
    return case


def _with_smaller_file(case: Case, name: str, still: Fails) -> Case:
    def holds(data: bytes) -> bool:
        return still(case.changed(name, data))

    return case.changed(name, _smaller(case.files[name], holds))


def _with_smaller_members(case: Case, name: str, members: dict[str, bytes], still: Fails) -> Case:
    for member in sorted(members):
        fewer = {n: d for n, d in members.items() if n != member}
        if still(case.changed(name, zipped(fewer))):
            members = fewer
    for member in sorted(members):

        def holds(data: bytes, member: str = member) -> bool:
            return still(case.changed(name, zipped({**members, member: data})))

        members[member] = _smaller(members[member], holds)
    return case.changed(name, zipped(members))


def _smaller(data: bytes, holds: Callable[[bytes], bool]) -> bytes:
    """Leave out runs of bytes, long ones first, then set bytes to zero."""
    length = len(data) // 2
    while length >= _SMALLEST:
        at = 0
        while at < len(data):
            candidate = data[:at] + data[at + length :]
            if candidate and holds(candidate):
                data = candidate
            else:
                at += length
        length //= 2
    for start, end in _runs(len(data)):
        candidate = data[:start] + bytes(end - start) + data[end:]
        if candidate != data and holds(candidate):
            data = candidate
    return data


def _runs(size: int) -> Iterator[tuple[int, int]]:
    for length in (64, 8, 1):
        for start in range(0, size, length):
            yield start, min(size, start + length)


def _taken_apart(data: bytes) -> dict[str, bytes]:
    try:
        return members_of(data)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, KeyError, RuntimeError):
        return {}
