"""Coverage-guided targets: `python -m tests.fuzz.atheris_targets pickle -max_total_time=120`.

atheris (https://github.com/google/atheris) watches which lines an input reaches, and keeps those
that reach new ones. It comes with the extra `fuzz`; what it finds is written to the working
directory, and becomes a regression file by `--save`.
"""

import hashlib
import logging
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from tests.fuzz.case import Case

MISSING = "atheris is not installed; pip install 'lipaudit[fuzz]' (Linux and macOS only)"
_LARGEST = 1 << 14


def pickle_target() -> Callable[[bytes], None]:
    """Return the pickle guard as a target, with what is made of its result."""
    from lipaudit.errors import LipauditError  # noqa: PLC0415 - imported under instrumentation
    from lipaudit.formats.pickle_guard import unpickle  # noqa: PLC0415 - the same

    def walk(data: bytes) -> None:
        try:
            unpickle(data, path="fuzz")
        except LipauditError:
            return

    return walk


def zip_target() -> Callable[[bytes], None]:
    """Return the zip reader as a target."""
    from lipaudit.errors import LipauditError  # noqa: PLC0415 - imported under instrumentation
    from lipaudit.formats.source import Source  # noqa: PLC0415 - the same
    from lipaudit.formats.zip_archive import Archive  # noqa: PLC0415 - the same

    path = Path(tempfile.mkdtemp()) / "model.pt"

    def open_archive(data: bytes) -> None:
        path.write_bytes(data)
        try:
            archive = Archive.open(Source(path))
            for name in archive.members:
                archive.read(name)
        except LipauditError:
            return

    return open_archive


TARGETS = {"pickle": pickle_target, "zip": zip_target}


def seeds(target: str) -> list[bytes]:
    """Return good inputs to begin with."""
    from tests.fuzz.corpus import good  # noqa: PLC0415 - torch is not needed without atheris
    from tests.fuzz.pickles import members_of  # noqa: PLC0415 - the same

    archives = [good()[kind].files[good()[kind].target] for kind in ("pt", "module", "pt2")]
    if target == "zip":
        return archives
    members = [members_of(data) for data in archives]
    return [data for held in members for name, data in held.items() if name.endswith(".pkl")]


def save(path: Path, folder: Path) -> Path:
    """Turn a file that atheris left behind into a regression file of that folder."""
    data = path.read_bytes()
    case = Case({"model.pt": data}, "model.pt")
    target = folder / f"atheris-{hashlib.sha256(data).hexdigest()[:8]}.txt"
    target.write_text(case.text(f"found by atheris: {path.name}"))
    return target


def main(arguments: list[str]) -> int:
    """Run the target named first with libFuzzer's options, or keep a finding: `--save FILE`."""
    if arguments[:1] == ["--save"]:
        sys.stdout.write(f"{save(Path(arguments[1]), Path(__file__).with_name('regressions'))}\n")
        return 0
    if not arguments or arguments[0] not in TARGETS:
        sys.stderr.write(f"name a target: {', '.join(TARGETS)}\n")
        return 2
    if find_spec("atheris") is None:
        sys.stderr.write(f"{MISSING}\n")
        return 2
    import atheris  # noqa: PLC0415 - an extra

    return _run(atheris, arguments[0], arguments[1:])


def _run(atheris: ModuleType, target: str, options: list[str]) -> int:
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(seeds(target)):
            (Path(corpus) / str(number)).write_bytes(data)
        with atheris.instrument_imports(include=["lipaudit.formats", "zipfile"]):
            for name in [name for name in sys.modules if name.startswith("lipaudit.formats")]:
                del sys.modules[name]  # imported anew, instrumented
            check = TARGETS[target]()
        atheris.Setup([sys.argv[0], f"-max_len={_LARGEST}", *options, corpus], check)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
