"""Slugs of what in a network has no number, and why."""

NETWORKS = {
    "bilinear": "The node multiplies values that both come from the network's input (attention, "
    "gates, products of signals). Such a product has no Lipschitz constant over all inputs: it "
    "grows with them. It has one where values are bounded: state --input-range, or bound only a "
    "part of the network with --from and --to.",
    "circular": "--padding circular takes a convolution as one on a torus of its input's size. "
    "That is defined only where the stride divides the size. Measure the layer as it pads.",
    "computed-parameter": "A weight, axis or size of the node is computed by the network instead "
    "of stored in the file. Export the model with constants folded; a weight that depends on the "
    "input is a product of signals and has no global constant.",
    "control-flow": "A branch or loop depends on values that are known only at run time, in a "
    "way that lipaudit cannot follow. Export the model for fixed sizes, so that it is unrolled.",
    "discontinuous": "The operation jumps: rounding, comparison, sorting positions, quantization, "
    "integer casts. Two inputs that are arbitrarily near can give outputs that are not, so that "
    "no finite Lipschitz constant exists. Bound the part before it (--to), or audit the model "
    "before quantization.",
    "weight-type": "A layer's weight is stored in a type that says no numbers by itself: integers "
    "or truth values without a scale, a type that this machine's torch does not have, or numbers "
    "with a scale beside them (weight_scale) that nobody says how to apply. Export the model in a "
    "floating type, or as ONNX with the scales beside the integers.",
    "dtype": "The values are of a type with which the operation, or this machine's torch, cannot "
    "compute. Save the weights in float32 or float64, or give a real-valued input.",
    "geometry": "The file states no stride, padding or groups for a convolution, or states some "
    "that do not fit its kernel. `--model pkg.mod:factory` gives the real ones.",
    "hidden-tensor": "The file holds tensors inside of an object, as attributes of another tensor, "
    "or as arrays of numpy, where lipaudit has no name for them: they may be weights of which no "
    "row speaks. Save the weights in plain dictionaries of tensors "
    "(`torch.save(model.state_dict(), ...)`).",
    "infinite-gain": "The operation divides by something that may be 0 or has an eps of 0, so "
    "that its slope has no bound. A positive eps, or --input-range keeping away from 0, gives it "
    "one.",
    "loop": "A loop takes no step, or more of them than lipaudit runs, so that the network could "
    "not be run for a lower bound or for shapes. Export the model with a fixed number of steps.",
    "loose": "The file lists this weight but not what it is connected to, so that the network "
    "cannot be run. `--model pkg.mod:factory` gives the graph.",
    "malformed-node": "Parameters of the node contradict one another or the operation's "
    "definition. Run onnx.checker on the file, and export it again.",
    "memory": "The layer needs more memory than there is or than --max-memory allows. Allow more, "
    "give a smaller --input-shape, or measure fewer layers at a time (--layers).",
    "needs-shape": "The constant depends on the size of the input (a sum over positions, say). "
    "Give --input-shape.",
    "negative-variance": "The stored running variance of a batch norm is negative, which no "
    "training can leave behind: the checkpoint is damaged, or the tensor is another one.",
    "no-layer": "The tensor cannot be the weight of a layer that lipaudit knows by its shape and "
    "name alone. `--model pkg.mod:factory` says what it belongs to.",
    "non-finite": "Values are NaN or infinite. Nothing can be said about a network that holds "
    "them; see `lipaudit explain LIP003`.",
    "not-measured": "The norm of the layer was not worked out, so that there is no bound through "
    "it. The report says why where it lists the layer.",
    "random": "The output is drawn at random and differs from run to run: there is no function "
    "to bound. Export the model in evaluation mode.",
    "shape": "Shapes do not fit at the node that is named. Check --input-shape: sizes, their "
    "order (channels first), and whether the batch axis is counted.",
    "size": "A tensor that would have to be worked out or read while the graph is built (a "
    "list of axes, a folded constant) is far larger than an honest one. Export the model again "
    "with constants folded.",
    "training": "The node normalizes by the statistics of the batch: samples then depend on each "
    "other, and the network is not one function of its input. Export it in evaluation mode "
    "(model.eval()).",
    "unbounded-slope": "The slope of the function grows without end (exp, square, powers) or near "
    "a point (log, square root). --input-range may keep its input where the slope is bounded.",
    "unknown-op": "lipaudit does not know what the operation computes. If you know a Lipschitz "
    "constant for it, state it under [constants] of the config: it is printed as an assumption.",
    "unsupported": "A variant of a known operation that lipaudit does not model; the message "
    "says which of its parameters is the cause.",
}
