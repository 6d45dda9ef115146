"""Two LAPACKs, one result."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lipaudit.device import choose
from lipaudit.operators import lapack
from lipaudit.operators.certify import product_constant
from lipaudit.operators.convolution import as_circular, convolution
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.operators.openblas import OpenBlas, openblas


def matrices(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.complex128)


@pytest.fixture
def numpys() -> OpenBlas:
    """Return NumPy's library; most installations have it."""
    found = openblas()
    if found is None:
        pytest.skip("this NumPy is not linked to an OpenBLAS with 64-bit integers")
    return found


@pytest.fixture(params=["NumPy's", "torch's"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take one of the two, whatever this machine prefers."""
    chosen = request.getfixturevalue("numpys") if request.param == "NumPy's" else None
    monkeypatch.setattr(lapack, "_quicker", lambda: chosen)


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


@pytest.mark.parametrize("side", [640, 700])
def test_eigenvalues_over_a_band_in_two_threads(side: int, numpys: OpenBlas) -> None:
    wide = matrices(2, side, side)
    truth = torch.linalg.svdvals(wide).square().flip(-1)
    grams = wide @ wide.mH
    with numpys.on_one_thread(), ThreadPoolExecutor(2) as pool:
        found = list(pool.map(numpys.eigenvalues, [grams[:1].clone(), grams[1:].clone()]))
    for values, expected in zip(found, truth, strict=True):
        assert values is not None
        assert float((values[0] - expected).abs().max()) <= 1e-13 * side * float(truth.max())


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("side", [1, 5, 31, 100])
def test_what_has_a_factor(side: int, dtype: torch.dtype) -> None:
    wide = matrices(5, side, side + 7)
    grams = (wide @ wide.mH).to(dtype)
    top = torch.linalg.eigvalsh(grams[1])[-1]
    grams[1] -= (1.01 * top) * torch.eye(side)
    grams[2] *= 0.0
    grams[3, 0, side - 1] = grams[3, side - 1, 0] = torch.nan
    # A view that stands for the negative of what is stored has to be read as that.
    negated = torch._neg_view(-grams)
    assert lapack.have_factors(grams.clone()).tolist() == [True, False, False, False, True]
    assert lapack.have_factors(negated).tolist() == [True, False, False, False, True]


def test_a_factor_is_as_near_as_the_proof_allows(numpys: OpenBlas) -> None:
    # |L Lᴴ - M| <= g|L||L|ᴴ (Higham 10.3), in arithmetic of 64 bits.
    for side in (1, 7, 32, 65, 130):
        for decades in (0, 3, 6):  # down to singular ones, but for a little
            wide = matrices(side, side + 1) * torch.logspace(0, -decades, side)[:, None]
            matrix = wide @ wide.mH + 1e-12 * torch.eye(side)
            factors = matrix.clone().unsqueeze(0)
            assert numpys.factorize(factors).tolist() == [0]
            # It took rows for columns: the factor is above the diagonal, of the conjugate.
            lower = factors[0].triu().mT.numpy().astype(np.clongdouble)
            stored = matrix.mT.numpy().astype(np.clongdouble)
            off = np.abs(lower @ lower.conj().T - stored)
            allowed = np.abs(lower) @ np.abs(lower).T
            assert (off <= product_constant(side + 2, is_complex=True) * allowed).all()


def test_what_does_not_converge_is_said(numpys: OpenBlas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lapack, "_quicker", lambda: numpys)
    endless = torch.full((1, 100, 100), torch.nan, dtype=torch.complex128)
    with pytest.raises(lapack.NotConverged, match="did not converge"):
        lapack.eigenvalues(endless)


@pytest.mark.parametrize(
    "wrong",
    [
        matrices(2, 30, 30).mT,
        matrices(2, 30, 31),
        matrices(2, 0, 0),
        matrices(30, 30).to("meta"),
    ],
)
def test_only_what_may_be_overwritten_is(wrong: torch.Tensor, numpys: OpenBlas) -> None:
    with pytest.raises(ValueError, match="where they are"):
        numpys.factorize(wrong)
    with pytest.raises(ValueError, match="where they are"):
        numpys.eigenvalues(wrong)


def test_eigenvalues_of_other_numbers_are_refused(numpys: OpenBlas) -> None:
    with pytest.raises(ValueError, match="complex128"):
        numpys.eigenvalues(matrices(2, 30, 30).to(torch.complex64))


@pytest.mark.parametrize("shape", [(0, 30, 30), (2, 1, 1), (2, 3, 5, 5)])
def test_any_batch_is_taken(shape: tuple[int, ...], numpys: OpenBlas) -> None:
    wide = matrices(*shape)
    grams = wide @ wide.mH + torch.eye(shape[-1])
    assert torch.equal(numpys.factorize(grams.clone()), torch.zeros(shape[:-2], dtype=torch.int64))
    found = numpys.eigenvalues(grams.clone())
    torch.testing.assert_close(found, torch.linalg.eigvalsh(grams))


@pytest.mark.parametrize("side", [60, 650])
def test_a_default_device_of_the_program_is_not_written_to(side: int, numpys: OpenBlas) -> None:
    wide = matrices(2, side, side)
    grams = wide @ wide.mH
    truth = torch.linalg.eigvalsh(grams)
    with torch.device("meta"):
        assert numpys.factorize(grams.clone()).tolist() == [0, 0]
        found = numpys.eigenvalues(grams)
    torch.testing.assert_close(found, truth)


def test_threads_are_given_back(numpys: OpenBlas) -> None:
    before = numpys.threads
    numpys._allow(2)
    entered, left = threading.Event(), threading.Event()

    def other() -> int:
        with numpys.on_one_thread():
            entered.set()
            assert left.wait(60)
            return numpys.threads

    with ThreadPoolExecutor(1) as pool:
        try:
            with numpys.on_one_thread():
                during = pool.submit(other)
                assert entered.wait(60)
                assert numpys.threads == 1
            # Whoever is first to leave takes nothing away from the other.
            assert numpys.threads == 1
            left.set()
            assert during.result() == 1
            assert numpys.threads == 2
        finally:
            left.set()
            numpys._allow(before)


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
