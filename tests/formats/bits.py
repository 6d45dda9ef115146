"""Numbers chosen for their bits: every kind of item, and windows of every form on them."""

from collections.abc import Iterator

import torch

INTEGERS = (
    torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
)  # fmt: skip
FLOATS = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
    torch.complex32, torch.complex64, torch.complex128,
)  # fmt: skip
DTYPES = (*FLOATS, *INTEGERS)

# Of IEEE formats by their bytes: 0, -0, the least and largest denormals, 1, infinities, and NaN
# quiet and signalling, with payloads and both signs.
_PATTERNS = {
    8: (0, 1 << 63, 1, (1 << 52) - 1, 0x3FF0 << 48, 0x7FF0 << 48, 0xFFF0 << 48, 0x7FF8 << 48,
        0xFFF8_0000_DEAD_BEEF, 0x7FF0_0000_0000_0001, 0xFFF4_5678_9ABC_DEF0),
    4: (0, 1 << 31, 1, (1 << 23) - 1, 0x3F80_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000,
        0xFFC0_BEEF, 0x7F80_0001, 0xFFA1_2345),
    2: (0, 1 << 15, 1, (1 << 7) - 1, (1 << 10) - 1, 0x3C00, 0x7C00, 0xFC00, 0x7E00, 0xFE2A, 0x7C01,
        0x3F80, 0x7F80, 0xFF80, 0x7FC0, 0xFFEF, 0x7F81),
    1: tuple(range(256)),
}  # fmt: skip


def unit(dtype: torch.dtype) -> int:
    """Return the bytes of one number: a complex item is two."""
    return dtype.itemsize // (2 if dtype.is_complex else 1)


def items(dtype: torch.dtype, count: int, seed: int = 0) -> torch.Tensor:
    """Return so many items: the odd ones first, then random bits."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.randint(0, 2, (count,), generator=generator).bool()
    size = unit(dtype)
    wanted = count * dtype.itemsize
    odd = b"".join(pattern.to_bytes(size, "little") for pattern in _PATTERNS[size])
    rest = torch.randint(0, 256, (max(wanted - len(odd), 0),), generator=generator)
    return of_bytes((odd + bytes(rest.tolist()))[:wanted], dtype)


def of_bytes(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    """Return the items that these bytes are."""
    if not data:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype)


def windows(flat: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield windows of every form on at least 720 items that share one storage."""
    whole = flat[:720]
    yield "scalar", flat[7]
    yield "empty", flat[:0]
    yield "no-rows", flat[:0].reshape(0, 5)
    yield "no-columns", flat[5:5].reshape(3, 0, 2)
    yield "vector", whole
    yield "matrix", whole.reshape(24, 30)
    yield "cube", whole.reshape(6, 10, 12)
    yield "kernel", whole.reshape(4, 5, 6, 6)
    yield "kernel-of-five", whole.reshape(2, 3, 4, 5, 6)
    yield "transposed", whole.reshape(24, 30).t()
    yield "permuted", whole.reshape(4, 5, 6, 6).permute(2, 0, 3, 1)
    yield "rows", whole.reshape(24, 30)[3:17]
    yield "columns", whole.reshape(24, 30)[:, 4:9]
    yield "steps", whole.reshape(24, 30)[1::5, 2::7]
    yield "offset", flat[13:]
    yield "diagonal", whole.reshape(24, 30).diagonal()
    yield "overlapping", flat[:40].as_strided((5, 6), (3, 1), 2)
    yield "one-of-each", whole.reshape(1, 720, 1)


def of(tensor: torch.Tensor) -> bytes:
    """Return a tensor's items in order as bytes."""
    return bytes(_flat(tensor).view(torch.uint8).tolist())


def same(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Tell whether two tensors are equal in type, shape and every bit."""
    if mine.dtype != theirs.dtype or mine.shape != theirs.shape:
        return False
    sides = (_flat(side).view(torch.uint8) for side in (mine, theirs))
    return not mine.numel() or torch.equal(*sides)


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return the items in order with nothing between them, whatever strides one item may have."""
    return tensor.contiguous().as_strided((tensor.numel(),), (1,))
