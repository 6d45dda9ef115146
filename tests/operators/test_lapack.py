"""Two LAPACKs, one result."""

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from lipaudit.device import choose
from lipaudit.operators import lapack
from lipaudit.operators.convolution import as_circular, convolution
from lipaudit.operators.geometry import ConvGeometry


def matrices(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.complex128)


@pytest.fixture(params=["NumPy's", "torch's"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take one of the two, whatever this machine prefers."""

    class Unlimited:
        """Is there, and has as many threads as it likes."""

        def limit(self, limits: int) -> AbstractContextManager[None]:
            """Do nothing of the kind."""
            assert limits == 1
            return nullcontext()

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


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("side", [5, 100])
def test_conjugated_views_are_read_as_what_they_stand_for(side: int) -> None:
    tall = matrices(3, 1, side + 7, side)
    truth = tall.mH.resolve_conj() @ tall
    torch.testing.assert_close(lapack.gram(tall.mH), truth, rtol=1e-13, atol=1e-11)
    # The transpose of a Hermitian matrix has the same eigenvalues.
    found = lapack.eigenvalues(truth.conj())
    values = torch.linalg.svdvals(tall).square().flip(-1)
    assert float((found - values).abs().max()) <= 1e-13 * side * float(values.max())


@pytest.mark.usefixtures("library")
def test_more_outputs_than_inputs() -> None:
    kernel = matrices(100, 97, 3, 3).real.contiguous()
    geometry = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))
    operator = convolution(kernel, geometry, (97, 4, 4), choose("cpu"))
    spectrum = as_circular(operator).spectrum()
    assert spectrum is not None
    # The symbol is the FFT of the kernel (Sedghi, Gupta & Long 2019).
    symbol = torch.fft.fft2(kernel, s=(4, 4)).permute(2, 3, 0, 1)
    truth = torch.linalg.svdvals(symbol).flatten().sort(descending=True).values
    off = torch.from_numpy(spectrum.values) - truth
    assert float(off.abs().max()) <= 1e-11 * float(truth[0])
