"""Proofs about floating-point matrices that rounding cannot break.

Two certificates, both a posteriori: they do not care how a candidate was found.

* **A norm is below t**: the Cholesky factorization of t²I - G, G = A Aᴴ, runs to its end
  although t² was first lowered by everything that rounding can contribute (Rump 2006,
  "Verification of positive definiteness", BIT 46).
* **All singular values lie within a radius of the computed ones**: from the residuals of the
  computed factors (Rump 2011, "Verified bounds for singular values", BIT 51).

What is assumed of the machine: IEEE binary64, rounding to nearest, gradual underflow, and
libraries that form inner products conventionally, in any order and with or without fused
multiply-add (no Strassen, no 3M complex product). Matrix products may come from any device
that has float64. Factorizations are known to work that way on the CPU, in LAPACK; from another
device, whose triangular solvers may multiply by inverses, a factor is only a guess, and what
is proved is proved by its residual.

Notation, after Higham ("Accuracy and Stability of Numerical Algorithms", 2nd ed.): u = 2^-53,
γ_n = n·u / (1 - n·u). A real inner product of n terms is wrong by at most γ_n Σ|a_i||b_i|
(Higham 3.5). Real and imaginary part of a complex one are real inner products of 2n terms
whose moduli sum to at most Σ|a_i||b_i|, so it is wrong by at most √2·γ_2n Σ|a_i||b_i|.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch

from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.errors import NotCertified
from lipaudit.operators import lapack
from lipaudit.operators.factors import largest_eigenvalues
from lipaudit.operators.scaling import normalised, rescaled

Real = TypeVar("Real", float, torch.Tensor)
UNIT = 2.0**-53
"""u: largest relative error of one rounding."""
UNDERFLOW = 2.0**-900
"""More than all gradual underflows of sums and products in one proof: fewer than 2^60 operations,
each of them wrong by at most 2^-1075 and magnified by less than 2^100 (operands are below 2^101,
see `scaling`). A root of what underflowed is wrong by more: see `frobenius_above`."""
_SQUARES_UNDERFLOW = 2.0**-400
"""Lengths above it hardly change, and far less than by one rounding, when the squares of small
entries underflow: together these are less than 2^-1000."""
ROOM = 1.0 + 2.0**-40
"""Covers the roundings of the few hundred scalar operations with which a bound is put together."""
SQRT2 = math.nextafter(math.sqrt(2.0), 2.0)
"""At least √2."""
_DOUBTED = 3.0
"""How much more is allowed for a factorization that is judged by its residual: forming the
residual is wrong by as much as the textbook's factorization, and the factor may be a bit worse."""
_INFLATIONS = (4.0, 2.0**8, 2.0**16, 2.0**24)
"""By how many of its own rounding allowances a candidate is raised, one try after the other."""
_SHORTFALLS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""By what share a Krylov value, which falls short by an unknown little, is raised until it holds.
A try that fails takes a part of a factorization only."""


def gamma(terms: int) -> float:
    """Return at least γ_n = n·u / (1 - n·u), the error constant of an inner product."""
    if terms * UNIT >= 0.5:
        return math.inf
    return terms * UNIT / (1.0 - terms * UNIT) * (1.0 + 4.0 * UNIT)


def product_constant(terms: int, *, is_complex: bool) -> float:
    """Return the error constant of inner products of so many terms (module docstring)."""
    return SQRT2 * gamma(2 * terms + 2) * ROOM if is_complex else gamma(terms)


def cholesky_constant(size: int, *, is_complex: bool) -> float:
    """Return c such that a completed Cholesky factorization of M has λ_min(M) >= -c·trace(M).

    The factor R satisfies |RᴴR - M|_ij <= g Σ_k |r_ki||r_kj| (Higham 10.3). By Cauchy's
    inequality and (RᴴR)_ii <= m_ii / (1 - g) that is at most g/(1 - g)·√(m_ii m_jj), a matrix of
    rank one and norm g/(1 - g)·trace(M) (Demmel 1989; Rump 2006, theorem 2.3). Inner products
    here have at most `size` terms; 2 more allow for a division done as a multiplication by the
    reciprocal, as optimized triangular solvers do.
    """
    g = product_constant(size + 2, is_complex=is_complex)
    return math.inf if g >= 0.5 else g / (1.0 - g) * ROOM


def check_finite(values: torch.Tensor, name: str = "") -> None:
    """Raise `NotCertified` with the counts when a value is NaN or infinite."""
    parts = torch.view_as_real(values) if values.is_complex() else values
    if parts.numel() == 0 or bool(torch.isfinite(parts).all()):
        return
    nan, infinite = int(torch.isnan(parts).sum()), int(torch.isinf(parts).sum())
    seen = " and ".join(
        f"{count} of {parts.numel()} values are {what}"
        for count, what in ((nan, "NaN"), (infinite, "infinite"))
        if count
    )
    subject = f"{name!r}: " if name else ""
    raise NotCertified(
        f"{subject}{seen}", slug="non-finite", hint="the weights are broken; retrain or restore"
    )


def frobenius_above(matrices: torch.Tensor) -> torch.Tensor:
    """Return at least the Frobenius norm of each matrix of a batch.

    Where it is so small that the squares underflow, which would cost the root up to 2^-538 for
    each, it is bounded by the largest entry.
    """
    terms = matrices.shape[-1] * matrices.shape[-2] * 2
    computed: torch.Tensor = torch.linalg.vector_norm(matrices, dim=(-2, -1))
    tiny = computed < _SQUARES_UNDERFLOW
    if terms and bool(tiny.any()):
        largest = torch.linalg.vector_norm(matrices, math.inf, dim=(-2, -1))
        computed = torch.where(tiny, largest * math.sqrt(terms), computed)
    raised: torch.Tensor = computed * ((1.0 + gamma(terms + 8)) * ROOM) + UNDERFLOW
    return raised


def gram(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return G = A Aᴴ of the smaller side, batched, and a bound on ‖computed - true‖ for each.

    |Ĝ - G| <= c|A||A|ᴴ entry by entry, and ‖ |A||A|ᴴ ‖ <= ‖A‖_F².
    """
    rows, columns = matrices.shape[-2:]
    wide = matrices if rows <= columns else matrices.mH
    constant = product_constant(max(rows, columns), is_complex=matrices.is_complex())
    error = frobenius_above(matrices).square() * (constant * ROOM) + UNDERFLOW
    return wide @ wide.mH, error


def proves_below(
    grams: torch.Tensor, gram_error: torch.Tensor | float, bound: torch.Tensor | float
) -> torch.Tensor:
    """Tell for each Gram matrix whether √λ_max <= bound is proved; False proves nothing.

    `gram_error` bounds ‖computed - true‖ of each matrix. Success of the factorization of
    M = shift·I - Ĝ gives λ_max(Ĝ) <= shift + c·trace(M) + (rounding of the diagonal); `shift`
    is bound² less that and less the Gram's own error.
    """
    size = grams.shape[-1]
    share = size * cholesky_constant(size, is_complex=grams.is_complex())
    share *= 1.0 if trusted(grams) else _DOUBTED
    matrix = -grams
    diagonals = matrix.diagonal(dim1=-2, dim2=-1)
    possible: torch.Tensor | bool
    factorization: torch.Tensor | float
    if isinstance(gram_error, float) and isinstance(bound, float):
        # One number for all: no arithmetic of tensors, which take longer than small matrices do.
        shift, allowed = provable_shift(bound * bound, gram_error, share)
        diagonals.add_(shift)
        factorization, possible = allowed, math.isfinite(gram_error) and bound > 0 and shift > 0
    else:
        error = torch.as_tensor(gram_error, dtype=torch.float64, device=grams.device)
        limit = torch.as_tensor(bound, dtype=torch.float64, device=grams.device)
        shifts, allowances = provable_shift(limit.square(), error, share)
        diagonals.add_(shifts.unsqueeze(-1))
        factorization, possible = allowances, torch.isfinite(error) & (limit > 0) & (shifts > 0)
    if trusted(grams):
        return lapack.have_factors(matrix) & possible
    factor, failed = torch.linalg.cholesky_ex(matrix)
    known = factor_residual(matrix, factor) <= factorization
    proved: torch.Tensor = (failed == 0) & known & possible
    return proved.cpu()


def provable_shift(square: Real, error: Real, share: float) -> tuple[Real, Real]:
    """Return a shift with λ_max(G) <= square where shift·I - Ĝ has a Cholesky factor.

    Also by how much the factorization may be wrong for that, `share` of the diagonal's largest.
    Diagonal entries of M are at most bound² + error, also where rounding made Ĝ_ii negative.
    """
    diagonal = square + error
    factorization = diagonal * share
    slack = error + factorization + diagonal * (8.0 * UNIT) + UNDERFLOW
    return square - slack * ROOM, factorization


def proves_semidefinite(matrix: torch.Tensor, error: float) -> bool:
    """Tell whether every symmetric matrix within `error` (in norm) is proved to have no λ < 0.

    The matrix is given by its lower triangle, on the CPU. Lowered by s it has a Cholesky
    factor, so that λ_min >= s - c·trace - (rounding of the diagonal), which s makes >= error.
    """
    diagonal = matrix.diagonal()
    largest = float(diagonal.max())
    trace = float(diagonal.abs().sum()) * ROOM
    constant = cholesky_constant(matrix.shape[-1], is_complex=False)
    shift = (error + constant * trace + 8.0 * UNIT * largest + UNDERFLOW) * ROOM
    if not math.isfinite(shift):
        return False
    lowered = matrix.clone()
    lowered.diagonal().sub_(shift)
    factor, info = torch.linalg.cholesky_ex(lowered)
    return int(info) == 0 and bool(torch.isfinite(factor.diagonal()).all())


def trusted(matrices: torch.Tensor) -> bool:
    """Tell whether factorizations on this device are known to be the textbook's."""
    return matrices.device.type == "cpu"


def factor_residual(matrices: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Return at least ‖M - L Lᴴ‖ for each matrix: then λ_min(M) is no lower than minus that.

    The computed product is wrong by at most c‖L‖_F².
    """
    lower = factors.tril()
    difference = matrices - lower @ lower.mH
    # Hermitian matrices are given by their lower triangle.
    below = frobenius_above(difference.tril())
    constant = product_constant(matrices.shape[-1], is_complex=matrices.is_complex())
    known: torch.Tensor = below * (SQRT2 * ROOM) + frobenius_above(lower).square() * (
        constant * ROOM
    )
    # The subtraction rounds once, relative to its result.
    return torch.nan_to_num(known, nan=math.inf) * ROOM + UNDERFLOW


def rounding_share(size: int, *, is_complex: bool) -> float:
    """Return about by how much, relative to t², a proof for one matrix must be lenient."""
    return size * cholesky_constant(size, is_complex=is_complex) + 16.0 * UNIT


def upper_from_gram(
    grams: torch.Tensor,
    gram_error: torch.Tensor,
    candidate: float,
    inflations: Sequence[float] = _INFLATIONS,
) -> float | None:
    """Return a proved upper bound of √λ_max over a batch near a candidate, None if none is found.

    Every try is a proof of its own: a bad candidate costs time, never truth. It is raised by
    so many of its own rounding allowances, one try after the other.
    """
    if candidate <= 0 or not math.isfinite(candidate):
        return None
    share = rounding_share(grams.shape[-1], is_complex=grams.is_complex())
    share += float(gram_error.max()) / candidate**2
    for inflation in inflations:
        bound = candidate * (1.0 + min(inflation * share, 0.5))
        if bool(proves_below(grams, gram_error, bound).all()):
            return bound
    return None


def crude_upper(matrices: torch.Tensor) -> float:
    """Return a true upper bound of every norm in a batch without any factorization.

    The smaller of √(‖A‖₁‖A‖∞) and ‖A‖_F (Golub & Van Loan 2.3), rounded up.
    """
    moduli = matrices.abs()
    # A modulus is wrong by a few u; sums of n terms by γ_n.
    room = (1.0 + gamma(matrices.shape[-1] + matrices.shape[-2] + 16)) * ROOM
    by_sums = (moduli.sum(-1).amax(-1) * moduli.sum(-2).amax(-1)).sqrt() * room
    return float(torch.minimum(by_sums, frobenius_above(matrices)).max()) + UNDERFLOW


def attained(matrix: torch.Tensor, vector: torch.Tensor) -> float:
    """Return at most ‖A x‖/‖x‖, and close to it: a lower bound of the norm of A.

    The vector is of length 1 or thereabouts, so that squares which underflow do not matter.
    """
    rows, columns = matrix.shape
    constant = product_constant(columns, is_complex=matrix.is_complex())
    length = float(torch.linalg.vector_norm(vector)) * (1.0 + gamma(2 * columns + 8))
    if length == 0 or not math.isfinite(length):
        return 0.0
    image = float(torch.linalg.vector_norm(matrix @ vector)) * (1.0 - gamma(2 * rows + 8))
    # |computed A x - A x| <= c |A||x|, of norm at most c‖A‖_F‖x‖.
    doubt = constant * float(frobenius_above(matrix)) * ROOM + UNDERFLOW
    return max(0.0, (image / length) * (2.0 - ROOM) - doubt)


def proved_norm(matrices: torch.Tensor, error: float = 0.0) -> Enclosure:
    """Enclose the largest spectral norm over a batch of matrices, proved.

    `error` bounds ‖stored - true‖ of each matrix, where the entries are themselves computed.
    """
    check_finite(matrices)
    if not bool(matrices.any()):
        return Enclosure.of(0.0, error, Rigor.PROVED)
    flat, factor = normalised(matrices.reshape(-1, *matrices.shape[-2:]))
    grams, gram_error = gram(flat)
    norm = norm_from_gram(flat, grams, gram_error, largest_eigenvalues(grams))
    return widened(rescaled(norm, factor), error)


def norm_from_gram(
    flat: torch.Tensor, grams: torch.Tensor, gram_error: torch.Tensor, values: torch.Tensor
) -> Enclosure:
    """Enclose the largest norm over matrices of moderate size, proved.

    `values` are about the largest eigenvalues of their Gram matrices (see `gram`).
    """
    candidate = math.sqrt(max(float(values.max()), 0.0))
    upper = upper_from_gram(grams, gram_error, candidate)
    winner = int(values.argmax())
    lower = _lower_end(flat[winner], grams[winner], candidate)
    if upper is None:
        upper = crude_upper(flat)
    return Enclosure.of(min(lower, upper), upper, Rigor.PROVED)


def widened(norm: Enclosure, error: float) -> Enclosure:
    """Enclose the norm of a matrix that lies within `error` (in norm) of a measured one."""
    if error == 0:
        return norm
    doubt = Enclosure.exactly(error)
    lower = max(math.nextafter(norm.lower - error, -math.inf), 0.0)
    return Enclosure.of(lower, norm.plus(doubt).hi, norm.rigor)


def _lower_end(matrix: torch.Tensor, gram_matrix: torch.Tensor, candidate: float) -> float:
    """Return a lower bound of the norm from inverse iteration just above the largest eigenvalue."""
    vector = top_vector(gram_matrix, candidate)
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mH
    return attained(wide.mH, vector)


def top_vector(gram_matrix: torch.Tensor, candidate: float) -> torch.Tensor:
    """Return an approximate eigenvector of the largest eigenvalue, about candidate².

    Three steps of inverse iteration; what it returns is only ever used as a trial vector.
    """
    size = gram_matrix.shape[-1]
    # Any start works unless it is orthogonal to the answer; this one has no symmetry.
    start = torch.cos(torch.arange(1, size + 1, dtype=torch.float64) ** 2).to(gram_matrix)
    identity = torch.eye(size).to(gram_matrix)
    shifted = (candidate**2 * (1.0 + 2.0**-36)) * identity - gram_matrix
    factor, info = torch.linalg.cholesky_ex(shifted)
    vector = start
    for _ in range(3):
        if int(info) == 0:
            vector = torch.cholesky_solve(vector.unsqueeze(-1), factor).squeeze(-1)
        else:
            vector = gram_matrix @ vector
        length = torch.linalg.vector_norm(vector)
        if not float(length) > 0 or not math.isfinite(float(length)):
            return start
        vector = vector / length
    return vector


def svd_radius(
    matrices: torch.Tensor, left: torch.Tensor, values: torch.Tensor, right: torch.Tensor
) -> float:
    """Return a proved radius: every true singular value lies that close to the computed one.

    `left @ diag(values) @ right` is a thin decomposition of each matrix, of moderate size
    (see `scaling`). With the larger factor U, the square one V and the residual R = A V - U S,
    ρ >= ‖R‖, α >= ‖I - VᴴV‖ < 1, β >= ‖I - UᴴU‖:
    (s_i√(1-β) - ρ)/√(1+α) <= σ_i <= (s_i√(1+β) + ρ)/√(1-α)   (Rump 2011, theorem 3.1).
    Infinity when the factors are too poor.
    """
    rows, columns = matrices.shape[-2:]
    tall = rows >= columns
    A, U, V = (matrices, left, right.mH) if tall else (matrices.mH, right.mH, left)
    alpha, beta = departure(V), departure(U)
    rho = _residual(A, U, values, V)
    worst_alpha, worst_beta = float(alpha.max()), float(beta.max())
    if not (worst_alpha < 0.5 and worst_beta < 0.5):
        return math.inf
    # √((1+β)/(1-α)) - 1 <= (α+β)/(1-α)/2 · ROOM-sized, and 1 - √((1-β)/(1+α)) <= (α+β)/(1+α).
    stretch = (worst_alpha + worst_beta) / (1.0 - worst_alpha)
    largest = float(values.max()) if values.numel() else 0.0
    radius = largest * stretch + float(rho.max()) / math.sqrt(1.0 - worst_alpha)
    return radius * ROOM + UNDERFLOW if math.isfinite(radius) else math.inf


def departure(factor: torch.Tensor) -> torch.Tensor:
    """Return at least ‖I - XᴴX‖_F of each matrix of a batch."""
    rows, columns = factor.shape[-2:]
    constant = product_constant(rows, is_complex=factor.is_complex())
    difference = factor.mH @ factor - torch.eye(columns).to(factor)
    # The subtraction from the identity is wrong by u times its result, within ROOM.
    return frobenius_above(difference) * ROOM + frobenius_above(factor).square() * constant * ROOM


def _residual(
    A: torch.Tensor, U: torch.Tensor, values: torch.Tensor, V: torch.Tensor
) -> torch.Tensor:
    """Return at least ‖A V - U diag(values)‖_F of each matrix of a batch."""
    constant = product_constant(A.shape[-1], is_complex=A.is_complex())
    scaled = U * values.unsqueeze(-2).to(U.dtype)
    computed = frobenius_above(A @ V - scaled)
    product = frobenius_above(A) * frobenius_above(V) * constant
    # Scaling a column and subtracting: 2 roundings each, of at most √2 u for complex entries.
    rest = frobenius_above(scaled) * (4.0 * UNIT)
    return (computed + product + rest) * ROOM + UNDERFLOW


def raised_until_proved(
    grams: torch.Tensor, gram_error: torch.Tensor, candidate: float
) -> float | None:
    """Return a proved upper bound near a candidate that may lie somewhat below the truth."""
    for shortfall in _SHORTFALLS:
        raised = candidate * (1.0 + shortfall)
        upper = upper_from_gram(grams, gram_error, raised, _INFLATIONS[:1])
        if upper is not None:
            return upper
    return upper_from_gram(grams, gram_error, raised)
