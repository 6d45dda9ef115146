"""Names of layers: of the containers around a tensor, the innermost one is told by its path."""

import random

import pytest

from lipaudit.formats import loose


def innermost(owner: str, homes: frozenset[str]) -> str:
    """Return it by taking one step after the other off the name."""
    steps = owner.split("/")
    paths = ("/".join(steps[:count]) for count in range(len(steps) - 1, 0, -1))
    return next((path for path in paths if path and path in homes), "")


@pytest.mark.parametrize("seed", range(200))
def test_the_innermost_container_is_found(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - draws of a test
    names = {"".join(rng.choices("ab/.", k=rng.randint(1, 7))) for _ in range(40)}
    homes = frozenset({"".join(rng.choices("ab/.", k=rng.randint(0, 5))) for _ in range(15)})
    assert loose._placed(names, homes) == {name: innermost(name, homes) for name in names}


@pytest.mark.parametrize(
    ("paths", "common"),
    [
        (["a/b", "a/bc"], "a"),
        (["a/b", "a/b/c"], "a/b"),
        (["a"], "a"),
        (["a", ""], ""),
        (["net/gen", "net/critic", "net/gen"], "net"),
        ([], ""),
    ],
)
def test_a_common_path_ends_with_a_whole_step(paths: list[str], common: str) -> None:
    assert loose._common(paths) == common
