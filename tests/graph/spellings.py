"""How files spell functions out, and what only looks like it."""

from dataclasses import dataclass

GELU, GELU_TANH, SILU = 1.1289041451851548, 1.1289930686587718, 1.0998393201288669


@dataclass(frozen=True, slots=True)
class Spelled:
    """One way to spell a function out."""

    op: str
    text: str
    constant: float
    left: tuple[str, ...] = ()
    """Operations beside the joined node."""
    shape: tuple[int | str, ...] = (2, 3, 4)


MEAN = "m = ReduceMean(x, [-1]); d = Sub(x, m);"
VARIANCE = MEAN + "q = Mul(d, d); v = ReduceMean(q, [-1]); w = Add(v, 0.25);"
ERF = "e = Erf(a); p = Add(e, 1.0);"
ANGLE = "h = Mul(a, 0.7978845608028654); t = Tanh(h); p = Add(t, 1.0);"
CUBE = "b = Mul(c, 0.044715); a = Add(x, b);"
RAMP = "a = Add(x, 3.0); g = Clip(a, 0.0, 6.0);"
NORM = 'n = ReduceL2(x, [1]) {"keepdims": 1};'

CASES = {
    # torch, all exporters
    "layer norm": Spelled(
        "LayerNormalization",
        MEAN + "q = Pow(d, 2.0); v = ReduceMean(q, [-1]); w = Add(v, 0.25); s = Sqrt(w);"
        "y = Div(d, s)",
        2.0,
    ),
    "layer norm by a reciprocal root": Spelled(
        "LayerNormalization", VARIANCE + "s = Sqrt(w); r = Reciprocal(s); y = Mul(d, r)", 2.0
    ),
    "layer norm by one over the root": Spelled(
        "LayerNormalization", VARIANCE + "s = Sqrt(w); r = Div(1.0, s); y = Mul(d, r)", 2.0
    ),
    "layer norm by a power": Spelled(
        "LayerNormalization", VARIANCE + "r = Pow(w, -0.5); y = Mul(d, r)", 2.0
    ),
    "layer norm scaled and shifted": Spelled(
        "LayerNormalization",
        VARIANCE + "s = Sqrt(w); n = Div(d, s); k = Mul(n, c4); y = Add(k, c4)",
        2.0,
        left=("Mul", "Add"),
    ),
    "layer norm over two axes": Spelled(
        "LayerNormalization",
        "m = ReduceMean(x, [2, 1]); d = Sub(x, m); q = Pow(d, 2.0);"
        "v = ReduceMean(q, [-1, -2]); w = Add(v, 0.25); s = Sqrt(w); y = Div(d, s)",
        2.0,
    ),
    # torch.var: the difference is made twice, and the axes are put back
    "layer norm by torch.var": Spelled(
        "LayerNormalization",
        MEAN + "n = ReduceMean(x, [2]); b = Sub(x, n); q = Mul(b, b);"
        'u = ReduceMean(q, [2]) {"keepdims": 0}; v = Reshape(u, [2, 3, 1]);'
        "w = Add(v, 0.25); s = Sqrt(w); r = Reciprocal(s); y = Mul(d, r)",
        2.0,
    ),
    "layer norm of an unknown batch": Spelled(
        "LayerNormalization", VARIANCE + "s = Sqrt(w); y = Div(d, s)", 2.0, shape=("N", 3, 4)
    ),
    "RMS norm": Spelled(
        "RMSNormalization",
        "q = Pow(x, 2.0); v = ReduceMean(q, [-1]); w = Add(v, 0.25); s = Sqrt(w);"
        "r = Reciprocal(s); y = Mul(x, r)",
        2.0,
    ),
    "RMS norm by a root": Spelled(
        "RMSNormalization",
        "q = Mul(x, x); v = ReduceMean(q, [1, 2]); w = Add(v, 0.25); s = Sqrt(w); y = Div(x, s)",
        2.0,
    ),
    "normalize": Spelled(
        "Normalize",
        NORM + "f = Clip(n, 0.5); s = Shape(x); b = Expand(f, s); y = Div(x, b)",
        2.0,
    ),
    "normalize without expanding": Spelled(
        "Normalize", NORM + "f = Max(n, 0.5); y = Div(x, f)", 2.0
    ),
    "normalize the whole": Spelled(
        "Normalize", "n = ReduceL2(x); f = Clip(n, 0.5); y = Div(x, f)", 2.0
    ),
    "gelu of torch": Spelled(
        "Gelu",
        f"a = Div(x, 1.4142135623730951); {ERF} b = Mul(x, p); y = Mul(b, 0.5)",
        GELU,
    ),
    "gelu of dynamo": Spelled(
        "Gelu",
        f"a = Mul(x, 0.7071067811865476); {ERF} b = Mul(p, 0.5); y = Mul(x, b)",
        GELU,
    ),
    "gelu, half of x first": Spelled(
        "Gelu",
        f"a = Div(x, 1.4142135623730951); {ERF} b = Mul(x, 0.5); y = Mul(b, p)",
        GELU,
    ),
    "gelu by dividing": Spelled(
        "Gelu", f"a = Div(x, 1.4142135623730951); {ERF} b = Mul(x, p); y = Div(b, 2.0)", GELU
    ),
    "gelu, the half inside": Spelled(
        "Gelu",
        "a = Div(x, 1.4142135623730951); e = Erf(a); k = Mul(e, 0.5); p = Add(k, 0.5);"
        "y = Mul(x, p)",
        GELU,
    ),
    # BERT in TensorFlow
    "gelu with a root of two": Spelled(
        "Gelu", f"k = Sqrt(2.0); a = Div(x, k); {ERF} b = Mul(x, p); y = Mul(b, 0.5)", GELU
    ),
    "gelu of a product": Spelled(
        "Gelu",
        f"u = Mul(x, -1.0); a = Div(u, 1.4142135623730951);{ERF} b = Mul(u, p); y = Mul(b, 0.5)",
        GELU,
        left=("Mul",),
    ),
    # The sharpness does not matter to the constant, and the layer takes it as it is.
    "gelu of another sharpness": Spelled(
        "Gelu", f"a = Div(x, 1.41); {ERF} b = Mul(x, p); y = Mul(b, 0.5)", GELU
    ),
    "gelu by tanh": Spelled(
        "Gelu", f"c = Pow(x, 3.0); {CUBE} {ANGLE} b2 = Mul(x, p); y = Mul(b2, 0.5)", GELU_TANH
    ),
    "gelu by tanh, the cube a product": Spelled(
        "Gelu",
        f"s = Mul(x, x); c = Mul(x, s); {CUBE} {ANGLE} b2 = Mul(x, 0.5); y = Mul(b2, p)",
        GELU_TANH,
    ),
    "gelu by tanh, x taken out": Spelled(
        "Gelu",
        "k = Mul(x, 0.044715); s = Mul(k, x); u = Add(s, 1.0); a = Mul(x, u);"
        f"{ANGLE} b2 = Mul(x, 0.5); y = Mul(b2, p)",
        GELU_TANH,
    ),
    "silu": Spelled("Swish", "s = Sigmoid(x); y = Mul(x, s)", SILU),
    "quick gelu": Spelled("Swish", "a = Mul(x, 1.702); s = Sigmoid(a); y = Mul(x, s)", SILU),
    "silu of a slower gate": Spelled(
        "Swish", "a = Div(x, -3.0); s = Sigmoid(a); y = Mul(x, s)", SILU
    ),
    "silu twice": Spelled(
        "Swish",
        "s = Sigmoid(x); b = Mul(x, s); t = Sigmoid(b); y = Mul(b, t)",
        SILU**2,
        left=("Swish",),
    ),
    "half a silu": Spelled(
        "Swish", "s = Sigmoid(x); b = Mul(x, s); y = Mul(b, 0.5)", SILU / 2, left=("Mul",)
    ),
    "mish": Spelled("Mish", "s = Softplus(x); t = Tanh(s); y = Mul(x, t)", 1.0884981612517279),
    "hard swish by a hard sigmoid": Spelled(
        "HardSwish", 's = HardSigmoid(x) {"alpha": 0.16666667, "beta": 0.5}; y = Mul(x, s)', 1.5
    ),
    "hard swish": Spelled("HardSwish", f"{RAMP} b = Mul(x, g); y = Div(b, 6.0)", 1.5),
    "hard swish, the gate divided": Spelled(
        "HardSwish", f"{RAMP} b = Div(g, 6.0); y = Mul(x, b)", 1.5
    ),
    # 6·0.125 = 3/4 of a hard swish.
    "hard swish by a factor": Spelled(
        "HardSwish", f"{RAMP} b = Mul(g, 0.125); y = Mul(x, b)", 1.125
    ),
    "softsign": Spelled("Softsign", "a = Abs(x); b = Add(a, 1.0); y = Div(x, b)", 1.0),
    "softmax": Spelled("Softmax", "e = Exp(x); s = ReduceSum(e, [1]); y = Div(e, s)", 0.5),
    "softmax less the largest": Spelled(
        "Softmax",
        "m = ReduceMax(x, [1]); d = Sub(x, m); e = Exp(d); s = ReduceSum(e, [-2]); y = Div(e, s)",
        0.5,
    ),
    "log-sum-exp": Spelled(
        "ReduceLogSumExp",
        'e = Exp(x); s = ReduceSum(e, [0, 2]) {"keepdims": 0}; y = Log(s)',
        1.0,
    ),
}

NEAR_MISSES = {
    "a factor of 0.4": f"a = Div(x, 1.4142135); {ERF} b = Mul(x, p); y = Mul(b, 0.4)",
    "one and a bit": "a = Div(x, 1.4142135); e = Erf(a); p = Add(e, 1.001); b = Mul(x, p);"
    "y = Mul(b, 0.5)",
    "the gate of another signal": "s = Sigmoid(z); y = Mul(x, s)",
    "a gate that moves by a vector": "a = Mul(x, c4); s = Sigmoid(a); y = Mul(x, s)",
    "erf of another signal": f"a = Div(z, 1.4142135); {ERF} b = Mul(x, p); y = Mul(b, 0.5)",
    "half of the tanh missing": f"c = Pow(x, 3.0); {CUBE} {ANGLE} y = Mul(x, p)",
    "a cubic factor of 0.04": "c = Pow(x, 3.0); b = Mul(c, 0.04); a = Add(x, b);"
    f"{ANGLE} b2 = Mul(x, p); y = Mul(b2, 0.5)",
    "an angle of 0.5": "c = Pow(x, 3.0); b = Mul(c, 0.044715); a = Add(x, b); h = Mul(a, 0.5);"
    "t = Tanh(h); p = Add(t, 1.0); b2 = Mul(x, p); y = Mul(b2, 0.5)",
    "a square for the cube": f"c = Pow(x, 2.0); {CUBE} {ANGLE} b2 = Mul(x, p); y = Mul(b2, 0.5)",
    "a cube of another signal": f"c = Pow(z, 3.0); {CUBE} {ANGLE} b2 = Mul(x, p); y = Mul(b2, 0.5)",
    "a hard gate of 0.4": 's = HardSigmoid(x) {"beta": 0.4}; y = Mul(x, s)',
    "a hard gate off its middle": "a = Add(x, 2.0); g = Clip(a, 0.0, 6.0); b = Mul(x, g);"
    "y = Div(b, 6.0)",
    "a hard gate from below 0": "a = Add(x, 3.0); g = Clip(a, -1.0, 6.0); b = Mul(x, g);"
    "y = Div(b, 6.0)",
    "softsign with a 2": "a = Abs(x); b = Add(a, 2.0); y = Div(x, b)",
    "softsign of another signal": "a = Abs(z); b = Add(a, 1.0); y = Div(x, b)",
    "mish of another signal": "s = Softplus(z); t = Tanh(s); y = Mul(x, t)",
    "a mean without its axis": 'm = ReduceMean(x, [0]) {"keepdims": 0}; d = Sub(x, m);'
    "q = Mul(d, d); v = ReduceMean(q, [-1]); w = Add(v, 0.0); s = Sqrt(w); y = Div(d, s)",
    "no epsilon": MEAN + "q = Mul(d, d); v = ReduceMean(q, [-1]); s = Sqrt(v); y = Div(d, s)",
    "a negative epsilon": MEAN + "q = Mul(d, d); v = ReduceMean(q, [-1]); w = Add(v, -0.25);"
    "s = Sqrt(w); y = Div(d, s)",
    "an epsilon of 0": MEAN + "q = Mul(d, d); v = ReduceMean(q, [-1]); w = Add(v, 0.0);"
    "s = Sqrt(w); y = Div(d, s)",
    "an epsilon for each item": MEAN + "q = Mul(d, d); v = ReduceMean(q, [-1]); w = Add(v, c4);"
    "s = Sqrt(w); y = Div(d, s)",
    "channels, not the last axes": "m = ReduceMean(x, [1]); d = Sub(x, m); q = Mul(d, d);"
    "v = ReduceMean(q, [1]); w = Add(v, 0.25); s = Sqrt(w); y = Div(d, s)",
    "the variance of the batch": "q = Mul(x, x); v = ReduceMean(q, [0, 2]); w = Add(v, 0.25);"
    "s = Sqrt(w); y = Div(x, s)",
    "a sum of squares": "q = Mul(x, x); v = ReduceSum(q, [-1]); w = Add(v, 0.25); s = Sqrt(w);"
    "y = Div(x, s)",
    "a root missing": "q = Mul(x, x); v = ReduceMean(q, [-1]); w = Add(v, 0.25); y = Div(x, w)",
    "a fourth power": "q = Pow(x, 4.0); v = ReduceMean(q, [-1]); w = Add(v, 0.25); s = Sqrt(w);"
    "y = Div(x, s)",
    "the squares of another signal": "q = Mul(z, z); v = ReduceMean(q, [-1]); w = Add(v, 0.25);"
    "s = Sqrt(w); y = Div(x, s)",
    "a product of two signals": "q = Mul(x, z); v = ReduceMean(q, [-1]); w = Add(v, 0.25);"
    "s = Sqrt(w); y = Div(x, s)",
    "the length of another signal": "n = ReduceL2(z, [1]); f = Clip(n, 0.5); y = Div(x, f)",
    "an l1 length": "n = ReduceL1(x, [1]); f = Clip(n, 0.5); y = Div(x, f)",
    "a length without a floor": "n = ReduceL2(x, [1]); y = Div(x, n)",
    "a floor of 0": "n = ReduceL2(x, [1]); f = Clip(n, 0.0); y = Div(x, f)",
    "a length with a ceiling": "n = ReduceL2(x, [1]); f = Clip(n, 0.5, 2.0); y = Div(x, f)",
    "a length without its axis": 'n = ReduceL2(x, [0]) {"keepdims": 0}; f = Clip(n, 0.5);'
    "y = Div(x, f)",
    "a length that expands the signal": "n = ReduceL2(x, [1]); f = Clip(n, 0.5);"
    "b = Expand(f, [5, 2, 3, 4]); y = Div(x, b)",
    "a sum over two axes": "e = Exp(x); s = ReduceSum(e, [1, 2]); y = Div(e, s)",
    "a sum without its axis": 'e = Exp(x); s = ReduceSum(e, [0]) {"keepdims": 0}; y = Div(e, s)',
    "a sum of other exponentials": "e = Exp(x); f = Exp(z); s = ReduceSum(f, [1]); y = Div(e, s)",
    "a log of a mean": "e = Exp(x); s = ReduceMean(e, [1]); y = Log(s)",
}
