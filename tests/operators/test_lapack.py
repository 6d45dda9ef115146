"""Two LAPACKs, one result."""

import pytest
import torch

from lipaudit.operators import lapack


def matrices(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.complex128)


@pytest.fixture(params=["NumPy's", "torch's"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take one of the two, whatever this machine prefers."""

    class Unlimited:
        """Is there; nobody limits it here."""

    chosen = Unlimited() if request.param == "NumPy's" else None
    monkeypatch.setattr(lapack, "_openblas", lambda: chosen)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("side", [1, 5, 100, 130])
def test_gram_and_its_eigenvalues(side: int) -> None:
    wide = matrices(3, 1, side, side + 7)
    gram = lapack.gram(wide)
    torch.testing.assert_close(gram, wide @ wide.mH, rtol=1e-13, atol=1e-11)
    assert torch.equal(gram, gram.mH) or side < 96
    truth = torch.linalg.svdvals(wide).square().flip(-1)
    found = lapack.eigenvalues(gram)
    assert float((found - truth).abs().max()) <= 1e-13 * side * float(truth.max())


def test_threads_are_given_back() -> None:
    library = lapack._openblas()
    if library is None:
        pytest.skip("NumPy's library is not used here: no threadpoolctl, or torch's is as quick")
    before = [each.num_threads for each in library.lib_controllers]
    with lapack.numpy_on_one_thread():
        assert [each.num_threads for each in library.lib_controllers] == [1] * len(before)
    assert [each.num_threads for each in library.lib_controllers] == before
