"""Configs, baselines and reports: text that a pull request brings, wrong in every way."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.hostile import written
from tests.hostile.case import Hostile
from tests.hostile.written import Build, file

_CONFIG, _BASELINE, _REPORT = "lipaudit.toml", "base.json", "report.json"
_MODEL = '[[models]]\npath = "m.safetensors"\n'
_LIMIT = "max-norm = 10\n"
_GOOD_CONFIG = (_LIMIT + _MODEL).encode()
_MB = 1 << 20


def _beside(name: str, write: Build) -> Build:
    """Return what writes a good model, config and report, and then the bad file."""

    def build(folder: Path) -> Path:
        file("m.safetensors", written.tensors())(folder)
        file(_CONFIG, _GOOD_CONFIG)(folder)
        file("good.json", json.dumps(_report()).encode())(folder)
        (folder / name).unlink(missing_ok=True)
        return write(folder)

    return build


def _report(**changed: Any) -> dict[str, Any]:
    model = {"path": "m", "layers": [], "bounds": [], "skipped": [], "notes": []}
    return {"schema_version": 1, "tool": {"version": "1"}, "models": [model], **changed}


def _baseline(**changed: Any) -> dict[str, Any]:
    model = {"path": "m.safetensors", "layers": [_layer()]}
    return {"lipaudit_baseline": 1, "version": "1", "models": [model], **changed}


def _layer(**changed: Any) -> dict[str, Any]:
    return {"name": "fc", "upper": 3.0, "rigor": "proved", "kind": "Linear", "shape": [2, 2]} | (
        changed
    )


def _of(layer: Mapping[str, Any]) -> dict[str, Any]:
    return _baseline(models=[{"path": "m.safetensors", "layers": [layer]}])


def _raw(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def _toml(name: str, what: str, text: str | bytes, *says: str, code: int = 2) -> Hostile:
    data = text.encode() if isinstance(text, str) else text
    build = _beside(_CONFIG, file(_CONFIG, data))
    return Hostile(f"config-{name}", what, build, code, says, command=("check", "--config"))


def _base(name: str, what: str, value: object, *says: str, code: int = 2) -> Hostile:
    return _base_of(name, what, file(_BASELINE, _raw(value)), *says, code=code)


def _base_of(name: str, what: str, build: Build, *says: str, code: int = 2) -> Hostile:
    command = ("check", "--config", _CONFIG, "--baseline")
    return Hostile(f"baseline-{name}", what, _beside(_BASELINE, build), code, says, command=command)


def _diff(name: str, what: str, value: object, *says: str, code: int = 2) -> Hostile:
    return _diff_of(name, what, file(_REPORT, _raw(value)), *says, code=code)


def _diff_of(name: str, what: str, build: Build, *says: str, code: int = 2) -> Hostile:
    return Hostile(
        f"diff-{name}",
        what,
        _beside(_REPORT, build),
        code,
        says,
        command=("diff",),
        options=("good.json",),
    )


def _pipe(name: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    return build


_VALUES: tuple[tuple[str, str, str], ...] = (
    ("nan", "max-norm = nan", "max-norm must be a finite number"),
    ("infinite", "max-norm = inf", "max-norm must be a finite number"),
    ("negative", "max-norm = -1", "max-norm must be a number >= 0"),
    ("text", 'max-norm = "10"', "max-norm must be a number"),
    ("boolean", "max-norm = true", "max-norm must be a number"),
    ("list", "max-norm = [10]", "max-norm must be a number"),
    ("table", "max-norm = {a = 1}", "max-norm must be a number"),
    ("date", "max-norm = 2026-01-01", "max-norm must be a number"),
    ("huge", f"max-norm = {'9' * 4000}", "max-norm must be a finite number"),
    ("digits", f"max-norm = {'9' * 5000}", "is not valid TOML"),
    ("misspelt", "max-nrom = 10", "unknown key 'max-nrom'; did you mean 'max-norm'?"),
    ("escapes", '"\\u001b[31m" = 10', "unknown key '\\x1b[31m'"),
    ("twice", "max-norm = 1\nmax-norm = 2", "is not valid TOML"),
    ("layers-nan", "layers = {fc = nan}", "layers.fc must be a finite number"),
    ("layers-list", "layers = [1]", "layers must be a table"),
    ("glob", 'layers = {"[" = 1}', "a bracket is not closed"),
    ("shape", 'input-shape = "-3x2"', "input-shape must be a shape"),
    ("range", "input-range = [1, 0]", "input-range must be a range"),
    ("range-nan", "input-range = [nan, 1]", "input-range must be a finite number"),
    ("increase", 'max-increase = "-5%"', "max-increase must be a percentage"),
    ("memory", 'max-memory = "lots"', "max-memory must be an amount of memory"),
    ("ignores-nan", 'ignore = [{rule = "LIP003"}]', "LIP003 cannot be ignored"),
)

CASES: tuple[Hostile, ...] = (
    _toml("good", "good config", _GOOD_CONFIG, "fc", code=0),
    _toml("empty", "empty config", b"", "no models are named"),
    _toml("no-utf-8", "config that is not UTF-8", b"max-norm = 1 # \xff", "not UTF-8 at byte 15"),
    _toml("no-toml", "config that is noise", "max-norm = = 1", "is not valid TOML"),
    _toml("json", "config that is JSON", '{"max-norm": 1}', "is not valid TOML"),
    _toml("nul", "config with NUL", b"max-norm = 1\0", "is not valid TOML"),
    _toml("nested-lists", "10,000 nested lists", "a = " + "[" * 10_000, "nested too deep"),
    _toml("nested-tables", "10,000 nested tables", "a = " + "{a = " * 10_000, "nested too deep"),
    _toml("long-key", "key of 100,000 parts", ".".join("a" * 100_000) + " = 1", "nested too deep"),
    _toml(
        "long-header", "table of 100,000 parts", f"[{'.'.join('a' * 100_000)}]", "nested too deep"
    ),
    _toml(
        "long-quoted-key",
        "key of 100,000 quoted parts",
        ".".join(['"a"'] * 100_000) + " = 1",
        "nested too deep",
    ),
    _toml(
        "long-inner-key",
        "key of 100,000 parts in a value",
        f"a = {{{' . '.join('a' * 100_000)} = 1}}",
        "nested too deep",
    ),
    Hostile(
        "config-of-100-mb",
        "config of 100 MB",
        _beside(_CONFIG, written.sparse(_CONFIG, b"# ", 100 * _MB)),
        2,
        ("is larger than 1,000,000 bytes",),
        command=("check", "--config"),
    ),
    Hostile(
        "config-pipe",
        "config that is a pipe",
        _beside(_CONFIG, _pipe(_CONFIG)),
        2,
        ("not a regular file",),
        command=("check", "--config"),
        row=8,
    ),
    Hostile(
        "config-device",
        "config that is /dev/zero",
        lambda _: Path("/dev/zero"),
        2,
        ("not a regular file",),
        command=("check", "--config"),
        row=8,
    ),
    *(
        _toml(f"value-{name}", f"config: {text[:30]}", f"{text}\n{_MODEL}", said)
        for name, text, said in _VALUES
    ),
    _toml(
        "models-missing",
        "model that is missing",
        f'{_LIMIT}[[models]]\npath = "no.pt"\n',
        "there is no file 'no.pt'",
    ),
    _toml(
        "models-glob",
        "glob that finds nothing",
        f'{_LIMIT}[[models]]\npath = "no*.pt"\n',
        "'no*.pt' matches nothing",
    ),
    _toml("models-no-list", "models that are no list", f"{_LIMIT}models = 1\n", "models must be"),
    _toml("no-limit", "config without a limit", _MODEL, "there is nothing to check"),
    _base("good", "good baseline", _baseline(), "fc", code=0),
    _base_of("missing", "missing baseline", lambda folder: folder / _BASELINE, "no such file"),
    _base_of("pipe", "baseline that is a pipe", _pipe(_BASELINE), "not a regular file"),
    _base_of(
        "of-100-mb",
        "baseline of 100 MB",
        written.sparse(_BASELINE, b"{", 100 * _MB),
        "is larger than 25,000,000 bytes",
    ),
    _base("empty", "empty baseline", b"", "document is not valid JSON at byte 0"),
    _base("no-utf-8", "baseline that is not UTF-8", b'{"\xff": 1}', "document is not UTF-8"),
    _base("nan", "NaN in a baseline", _of(_layer(upper=float("nan"))), "NaN is no JSON number"),
    _base(
        "overflow",
        "1e999 in a baseline",
        _raw(_of(_layer())).replace(b"3.0", b"1e999"),
        "is not a finite number",
    ),
    _base(
        "digits",
        "number of 5,000 digits",
        _raw(_of(_layer())).replace(b"3.0", b"9" * 5000),
        "document: ",
    ),
    _base("nested", "100,000 nested lists", b"[" * 100_000, "nested too deep"),
    _base("brackets", "ten million brackets", b"[" * 10**7, "too large to be one"),
    _base("list", "baseline that is a list", [], "is not a JSON object"),
    _base("config", "baseline that is a config.json", {"a": 1}, "is no baseline of lipaudit"),
    _base("version-2", "baseline of version 2", _baseline(lipaudit_baseline=2), "version 2"),
    _base(
        "version-text",
        "version that is a text",
        _baseline(lipaudit_baseline="1"),
        "lipaudit_baseline is not a whole number",
    ),
    _base("models-null", "models that are null", _baseline(models=None), "models is not a list"),
    _base("models-of-numbers", "models that are numbers", _baseline(models=[1]), "models is not"),
    _base(
        "model-twice",
        "model that stands there twice",
        _baseline(models=_baseline()["models"] * 2),
        "stands in it twice",
    ),
    _base(
        "key-twice",
        "key that stands there twice",
        _raw(_baseline()).replace(b'"version"', b'"models"'),
        "'models' is defined twice",
    ),
    *(
        _base(
            f"layer-{field}-{at}",
            f"layer whose {field} is {value!r}",
            _of(_layer(**{field: value})),
            field,
        )
        for at, (field, value) in enumerate(
            (
                ("name", 1),
                ("name", None),
                ("upper", "3"),
                ("upper", True),
                ("upper", [3]),
                ("rigor", "sworn"),
                ("rigor", 1),
                ("shape", "2x2"),
                ("shape", [-1]),
                ("shape", [True]),
                ("kind", 1),
                ("frobenius", "1"),
            )
        )
    ),
    _base("negative", "negative norm", _of(_layer(upper=-3.0)), "upper"),
    _diff("good", "good report", _report(), code=0),
    _diff("empty", "empty report", b"", "file is empty"),
    _diff("no-json", "report cut short", _raw(_report())[:-9], "document is not valid JSON"),
    _diff("nan", "NaN in a report", _raw(_report(x=float("nan"))), "NaN is no JSON number"),
    _diff("version-99", "report of schema 99", _report(schema_version=99), "schema version 99"),
    _diff(
        "version-float",
        "report of schema 1.0",
        _report(schema_version=1.0),
        "schema_version is not a whole number",
    ),
    _diff("no-models", "report without models", {"schema_version": 1}, "is not the report"),
    _diff("models-text", "models that are a text", _report(models="m"), "models is not a list"),
    _diff(
        "layer-without-norm",
        "layer without a norm",
        _report(models=[{"path": "m", "layers": [{"name": "fc"}], "bounds": [], "skipped": []}]),
        "norm",
    ),
    _diff(
        "nested",
        "report nested too deep",
        b'{"schema_version": ' + b"[" * 100_000,
        "nested too deep",
    ),
    _diff("config-json", "config.json for a report", {"model_type": "x"}, "JSON text, not a model"),
    _diff_of("pipe", "report that is a pipe", _pipe(_REPORT), "not a regular file"),
    _diff_of(
        "of-100-mb",
        "report of 100 MB",
        written.sparse(_REPORT, b'{"schema_version": 1, ', 100 * _MB),
        "is larger than 25,000,000 bytes",
    ),
    _diff_of(
        "long-name",
        "report whose name is too long",
        lambda folder: folder / ("r" * 300),
        "File name too long",
    ),
)
