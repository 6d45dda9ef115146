"""The long run: `python -m tests.soundness.run --networks 10000`, with a line on how it goes.

Every network is one seed, so that a run is repeated, or continued, from its results file. It goes
on until so many networks had a finite bound and an attack that found something against it: those
that were refused, were too slow or could not be run count for nothing.
"""

import argparse
import collections
import json
import multiprocessing
import shutil
import statistics
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lipaudit.layers import catalog
from tests.soundness.claims import NOT_RUN
from tests.soundness.trial import TooSlow, limited, tried

Record = Mapping[str, Any]
_EVERY = 100
_LEAST_ATTACKED = 0.5
"""Of all networks: with fewer, something else than the bounds is being tried."""
_MOST_LOST = {"refused": 0.05, "too slow": 0.01, "not exported": 0.05, NOT_RUN: 0.02}
"""Share of the networks that may end so, before the run fails of it."""


def record_of(seed: int) -> dict[str, Any]:
    """Try a seed and write down what became of it."""
    begun = time.perf_counter()
    try:
        with limited():
            trial = tried(seed)
    except TooSlow:
        return {"seed": seed, "outcome": "too slow", "seconds": time.perf_counter() - begun}
    except Exception:  # noqa: BLE001 - a crash is what the run is there to find
        why = traceback.format_exc()
        seconds = time.perf_counter() - begun
        return {"seed": seed, "outcome": "crash", "reason": why, "seconds": seconds}
    found: dict[str, Any] = {"seed": seed, "format": trial.format, "seconds": trial.seconds}
    verdict = trial.verdict
    if verdict is None:
        return found | {"outcome": "not exported"}
    claims = collections.Counter(claim.name.split(",")[0] for claim in verdict.claims)
    return found | {
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "kinds": verdict.kinds,
        "attacked": verdict.attacked,
        "without": verdict.without,
        "looseness": verdict.looseness,
        "claims": dict(claims),
        "violations": [
            {"claim": v.name, "stated": v.stated, "found": v.found, "how": v.how}
            for v in verdict.violations
        ],
    }


def _prepared() -> None:
    torch.set_num_threads(1)


def _records(seeds: Sequence[int], processes: int) -> Iterator[Record]:
    if processes == 1:
        _prepared()
        yield from map(record_of, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _prepared, maxtasksperchild=500) as pool:
        yield from pool.imap_unordered(record_of, seeds)


def summary(records: Iterable[Record]) -> str:
    """Say in a few lines what a run found."""
    found = list(records)
    outcomes = collections.Counter(record["outcome"] for record in found)
    formats = collections.Counter(record.get("format", "?") for record in found)
    kinds = collections.Counter(kind for r in found for kind in r.get("kinds", ()))
    registered = {f"{kind.domain or 'onnx'}.{kind.op}" for kind in catalog.all_kinds()}
    missing = sorted(registered - set(kinds))
    reasons = collections.Counter(
        r["reason"][:70] for r in found if r["outcome"] == "not certified"
    )
    claims: collections.Counter[str] = collections.Counter()
    for record in found:
        claims.update(record.get("claims", {}))
    loose = [r["looseness"] for r in found if r.get("looseness") is not None]
    bad = [r["seed"] for r in found if r.get("violations")]
    without = collections.Counter(what for r in found for what in r.get("without", ()))
    lines = [
        f"networks    {len(found)}, {attacked(found)} attacked",
        f"violations  {len(bad)}{': seeds ' + ', '.join(map(str, bad[:20])) if bad else ''}",
        f"outcomes    {_counted(outcomes)}",
        f"formats     {_counted(formats)}",
        f"kinds       {len(registered & set(kinds))} of {len(registered)} registered",
        f"never drawn {', '.join(missing) or 'none'}",
        f"claims      {_counted(claims)}",
        f"not made    {_counted(without)}" if without else "",
        f"looseness   median {statistics.median(loose):.4g}" if loose else "",
        f"reasons     {_counted(reasons, 12)}",
        f"seconds     {sum(r['seconds'] for r in found):.0f}",
    ]
    return "\n".join(line for line in lines if line)


def attacked(records: Iterable[Record]) -> int:
    """Return how many networks had a finite bound, and an attack that found something."""
    return sum(bool(record.get("attacked")) for record in records)


def failures(records: Sequence[Record]) -> list[str]:
    """Return why a run has failed."""
    ends = collections.Counter(record["outcome"] for record in records)
    ends.update(what for record in records for what in record.get("without", ()))
    bad = sum(bool(record.get("violations")) for record in records)
    found = [f"{bad} networks with false claims"] if bad else []
    if ends["crash"]:
        found.append(f"{ends['crash']} crashes")
    for end, share in _MOST_LOST.items():
        if ends[end] > max(share * len(records), 1):
            found.append(f"{ends[end]} of {len(records)} networks: {end}")
    if attacked(records) < _LEAST_ATTACKED * len(records):
        found.append(f"only {attacked(records)} of {len(records)} networks were attacked")
    return found


def _counted(counts: collections.Counter[str], most: int | None = None) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(most))


def _kept(record: Record, out: Path) -> None:
    """Write the network of a violation down, to be looked at."""
    place = out / "violations" / str(record["seed"])
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        with limited():
            tried(int(record["seed"]), place)
    except Exception:  # noqa: BLE001 - the record says what it was
        (place / "crash.txt").write_text(traceback.format_exc(), encoding="utf-8")
    (place / "record.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", type=int, default=10_000, help="to be attacked")
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("soundness"))
    return parser.parse_args()


def main() -> int:
    """Run what is left of a run; 1 where it found something, or tried too little."""
    wanted = _arguments()
    wanted.out.mkdir(parents=True, exist_ok=True)
    results = wanted.out / "results.jsonl"
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    known = {r["seed"]: r for r in map(json.loads, lines)}
    kept: dict[int, Record] = {}
    begun = time.perf_counter()
    last = wanted.seed
    while (lacking := wanted.networks - attacked(kept.values())) > 0:
        seeds = range(last, last + lacking)
        last += lacking
        kept |= {seed: known[seed] for seed in seeds if seed in known}
        _tried([seed for seed in seeds if seed not in known], wanted, kept, begun)
        if attacked(kept.values()) < _LEAST_ATTACKED * len(kept):
            break
    _say(summary(kept.values()))
    found = failures(list(kept.values()))
    _say("\n".join(f"FAILED: {why}" for why in found))
    return int(bool(found))


def _tried(
    seeds: Sequence[int], wanted: argparse.Namespace, kept: dict[int, Record], begun: float
) -> None:
    """Try seeds, add what became of them to `kept`, and write it down."""
    with (wanted.out / "results.jsonl").open("a", encoding="utf-8") as file:
        for number, record in enumerate(_records(seeds, wanted.processes), start=1):
            kept[record["seed"]] = record
            file.write(json.dumps(record) + "\n")
            file.flush()
            if record.get("violations") or record["outcome"] == "crash":
                _kept(record, wanted.out)
                _say(f"\nseed {record['seed']}: {json.dumps(record)[:2000]}")
            if number % _EVERY == 0 or number == len(seeds):
                bad = sum(bool(r.get("violations")) for r in kept.values())
                counts = f"{attacked(kept.values())} of {wanted.networks} attacked"
                speed = len(kept) / (time.perf_counter() - begun)
                _say(f"{len(kept)} networks, {counts}, {bad} violations, {speed:.1f} a second")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
