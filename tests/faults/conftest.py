"""One server of commands for all tests of faults."""

from collections.abc import Iterator

import pytest

from tests.commands import Commands


@pytest.fixture(scope="package")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    server = Commands(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()
