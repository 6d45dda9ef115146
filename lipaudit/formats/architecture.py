"""Architecture: what a config.json says of a network, read as data and checked before use.

The file comes with the weights, from anybody. Its numbers decide how much is built, so that each
has a limit; what names code to be run (`auto_map`) is left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipaudit import strict_json
from lipaudit.errors import MalformedFile, UnsafeFile, UnsupportedFormat, UsageError
from lipaudit.formats.source import Source
from lipaudit.graph.model import Model

CONFIG = "config.json"
_MAX_BYTES = 1 << 20
_MANY = ("layer", "block", "depth", "stage", "expert", "head", "group", "conv", "resid")
"""Words in the names of numbers that say how many parts are built."""
_MOST_PARTS = 1024
_MOST_ENTRIES = 1 << 17
"""Of what is counted otherwise, such as labels, each of which gets a name."""
_LARGEST = 1 << 24
"""No width, vocabulary or length is larger."""
_CODE = ("auto_map", "custom_pipelines", "trust_remote_code")
_NOT_OURS = ("dtype", "torch_dtype", "quantization_config", "attn_implementation", "use_cache")
"""How the weights are stored and run, which the file of the weights and lipaudit say."""
_WORDS = ("label2id", "task_specific_params")
"""Tables that build nothing: their keys are anybody's words."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One config.json that was read."""

    path: str
    kind: str
    """`model_type`: the family."""
    classes: tuple[str, ...]
    """`architectures`: the classes that the weights belong to, as the file says."""
    settings: Mapping[str, Any]
    notes: tuple[str, ...]


def read(file: Path) -> Architecture:
    """Read a config.json."""
    path = str(file)
    source = Source(file)
    if source.size > _MAX_BYTES:
        raise UnsafeFile(f"config of {source.size:,} bytes", slug="hf-config", path=path)
    stated = strict_json.parse(source.read(0, source.size), "config", path=path)
    kind = stated.get("model_type") if isinstance(stated, dict) else None
    if not isinstance(kind, str):
        raise MalformedFile("says no model_type", slug="hf-config", path=path)
    for name, number in _integers(stated):
        limit = _limit(name)
        if abs(number) > limit:
            raise UnsafeFile(
                f"{name} is {number}, more than {limit:,}: too large to be built",
                slug="hf-size",
                path=path,
            )
    if stated.get("quantization_config") is not None:
        raise UnsupportedFormat(
            "its weights are quantized: transformers reads them with code of their own",
            slug="hf-quantized",
            path=path,
        )
    classes = stated.get("architectures")
    names = classes if isinstance(classes, list) else []
    ignored = [name for name in _CODE if name in stated]
    note = f"{CONFIG} names code to be run ({', '.join(ignored)}): ignored"
    dropped = {*_CODE, *_NOT_OURS, "architectures"}
    return Architecture(
        path=path,
        kind=kind,
        classes=tuple(name for name in names if isinstance(name, str)),
        settings={
            name: value
            for name, value in stated.items()
            if name not in dropped and not name.startswith("_")
        },
        notes=(note,) if ignored else (),
    )


def beside(checkpoint: Model) -> Path:
    """Return the config.json of the folder that a checkpoint lies in."""
    folder = checkpoint.folder
    if folder is None and checkpoint.files:
        folder = checkpoint.files[0].parent
    if folder is None or not (folder / CONFIG).is_file():
        raise UsageError(
            f"--hf reads the layer graph from {CONFIG}, and there is none beside the weights",
            slug="hf-config",
            path=checkpoint.path,
            hint="name a folder as transformers saves it, or give --model pkg.mod:factory",
        )
    return folder / CONFIG


def _limit(name: str) -> int:
    lowered = name.lower()
    if lowered.endswith(("_size", "_dim", "_token_id", "_width", "_channels", "_embeddings")):
        return _LARGEST
    if any(word in lowered for word in _MANY):
        return _MOST_PARTS
    return _MOST_ENTRIES if lowered.startswith(("num_", "n_")) else _LARGEST


def _integers(value: object, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield every integer with the key under which it stands."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in _WORDS:
                yield from _integers(part, str(key))
    elif isinstance(value, list):
        for part in value:
            yield from _integers(part, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value
