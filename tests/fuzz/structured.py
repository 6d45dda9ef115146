"""Every generator by name: from a random number generator, one case.

They only ask the generator for numbers, so that hypothesis can hand in its own and shrink what
it finds, and a seed alone says what a case is.
"""

from collections.abc import Callable
from random import Random

from tests.fuzz import documents, pickles, protobufs, zips
from tests.fuzz.case import Case
from tests.fuzz.corpus import good
from tests.fuzz.mutations import mutated

Generator = Callable[[Random], Case]


def _bytes_of(kind: str) -> Generator:
    """Return a generator that changes bytes of one good file without knowing the format."""

    def generate(rng: Random) -> Case:
        case = good()[kind]
        name = rng.choice(sorted(case.files))
        other = good()[rng.choice(sorted(good()))]
        piece = other.files[rng.choice(sorted(other.files))]
        return case.changed(name, mutated(rng, case.files[name], piece))

    return generate


BYTES: tuple[str, ...] = (
    "pt", "legacy", "module", "checkpoint", "torchscript", "pt2", "safetensors", "sharded",
    "onnx", "onnx-function", "onnx-external", "config", "baseline", "report",
)  # fmt: skip
STRUCTURED: dict[str, Generator] = {
    "pickle-program": pickles.programs,
    "pickle-edited": pickles.edited,
    "pickle-legacy": pickles.legacy,
    "pickle-nested": pickles.nested,
    "zip-members": zips.members,
    "zip-headers": zips.headers,
    "protobuf-pieces": protobufs.pieces,
    "protobuf-values": protobufs.reflected,
    "protobuf-external": protobufs.external,
    "json-safetensors": documents.safetensors,
    "json-index": documents.index,
    "json-program": documents.program,
    "json-baseline": documents.baseline,
    "json-report": documents.report,
    "toml-values": documents.config,
}
GENERATORS: dict[str, Generator] = {
    **{f"bytes-{kind}": _bytes_of(kind) for kind in BYTES},
    **STRUCTURED,
}


def case_of(name: str, seed: int) -> Case:
    """Return the case of a generator and a seed, the same on every machine."""
    return GENERATORS[name](Random(f"{name} {seed}"))  # noqa: S311 - nothing is kept secret
