"""`lipaudit doctor`: whether this installation can prove anything, and what it runs on."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipaudit.cli import remembering, streams
from lipaudit.cli.app import app
from lipaudit.cli.delivery import deliver
from lipaudit.errors import ExitCode, LipauditError, worst

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lipaudit.report.page import Page


@app.command(epilog="Example: lipaudit doctor --json")
def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print strict JSON.")] = False,
) -> None:
    """Show versions, device and config, and prove a norm that is known."""
    import json  # noqa: PLC0415 - keeps `--help` instant
    from dataclasses import asdict  # noqa: PLC0415 - the same

    from lipaudit import device as devices  # noqa: PLC0415 - torch comes only with a command
    from lipaudit.analysis import health  # noqa: PLC0415 - the same

    chosen = devices.choose("auto")
    trials = health.trials(devices.choose("cpu"))
    if not chosen.on_cpu:
        trials += health.trials(chosen)
    config, code, cache = _config()
    versions = health.versions()
    codes = [code]
    codes += [ExitCode.ERROR] if None in versions.values() else []
    codes += [] if all(trial.passed for trial in trials) else [ExitCode.NOT_CERTIFIED]
    found: dict[str, Any] = {
        "schema_version": 1,
        "versions": versions,
        "extras": health.extras(),
        "devices": devices.described(),
        "machine": health.machine(),
        "linear algebra": health.algebra(),
        "config": config,
        "cache": remembering.state(
            remembering.opened(
                os.environ.get(remembering.VARIABLE),
                os.environ.get(remembering.SIZE_VARIABLE),
                configured=cache,
            )
        ),
        "trials": [asdict(trial) for trial in trials],
        "exit_code": int(worst(codes)),
    }
    if as_json:
        deliver(json.dumps(found, indent=2, ensure_ascii=True, allow_nan=False))
    else:
        deliver(_drawn(found, health.EXTRAS))
    raise typer.Exit(found["exit_code"])


def _config() -> tuple[dict[str, Any], ExitCode, str | None]:
    """Return which config counts here, whether it can be read, and the cache it names."""
    from lipaudit.gates import config_file  # noqa: PLC0415 - keeps `--help` instant

    try:
        config = config_file.load()
    except LipauditError as error:
        return {"file": error.path or None, "problem": str(error)}, error.exit_code, None
    except OSError as error:  # the working directory is gone, or may not be read
        return {"file": None, "problem": f"cannot be looked for: {error}"}, ExitCode.ERROR, None
    if config is None:
        return {"file": None, "problem": None}, ExitCode.OK, None
    return {"file": config.file, "problem": None}, ExitCode.OK, config.cache


def _drawn(found: "Mapping[str, Any]", extras: "Mapping[str, str]") -> str:
    from lipaudit.report.page import Page  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.report.text import safe  # noqa: PLC0415 - the same

    page = Page(streams.canvas(to_file=False))
    rows = [(name, version or "MISSING") for name, version in found["versions"].items()]
    rows += [
        (name, version or f"not installed: pip install 'lipaudit[{extras[name]}]'")
        for name, version in found["extras"].items()
    ]
    rows += [("device", text) for text in found["devices"]]
    rows += [(f"linear algebra of {key}", text) for key, text in found["linear algebra"].items()]
    rows += list(_machine(found["machine"]))
    config = found["config"]
    rows.append(("config", config["problem"] or config["file"] or "none from here upward"))
    rows.append(("cache", remembering.described(found["cache"])))
    for name, text in rows:
        page.say(f"{name}: {safe(text)}")
    page.gap()
    _draw_trials(page, found["trials"])
    healthy = found["exit_code"] == ExitCode.OK
    page.say("all is well" if healthy else "something is WRONG: see above", bold=True)
    return page.text()


def _machine(machine: "Mapping[str, Any]") -> list[tuple[str, str]]:
    memory = ", ".join(
        f"{size / 2**30:.1f} GiB {what}" for what, size in machine["memory"].items() if size
    )
    variables = "".join(f", {k}={v}" for k, v in machine["thread variables"].items())
    return [
        ("machine", machine["platform"]),
        ("processors", f"{machine['processors']}, {machine['threads']} threads{variables}"),
        ("memory", memory or "unknown"),
    ]


def _draw_trials(page: "Page", trials: "list[dict[str, Any]]") -> None:
    page.table(
        ("self-test", "known", "found", ""),
        [(t["name"], t["expected"], t["found"], "ok" if t["passed"] else "FAILED") for t in trials],
        right=set(),
        priorities=(0, 2, 1, 0),
    )
