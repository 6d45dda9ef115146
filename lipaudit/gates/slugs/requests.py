"""Slugs of what was asked: the command line, the config, the call."""

_SHAPE = "Write sizes with x between them, without or with the batch axis: --input-shape 3x32x32."

REQUESTS = {
    "baseline-folder": "A baseline is to be written into a folder that does not exist. Make the "
    "folder, or name another file with --baseline.",
    "clip-bound": "The bound of the whole network cannot be brought under that number by clipping "
    "its layers: it is infinite, or rests on nodes that have no weight. `lipaudit bound` shows "
    "which.",
    "clip-dtype": "No weights of the file's type were found whose norm is proved to be at most "
    "the limit. Clip to a little more, or store the model in a finer type.",
    "clip-layers": "A glob of layer names matches nothing, so that what you meant would be left as "
    "it is. `lipaudit inspect` lists the names.",
    "clip-limit": "A limit is a positive finite number; one of --to, --limits and --bound must be "
    "given, and --bound chooses the limits of the layers itself.",
    "clip-method": "There are three methods: project (the nearest weights), scale (the weights "
    "times "
    "a number) and sedghi (the paper's single pass, which meets no bound).",
    "clip-nothing": "No layer of the file has a norm that could be limited: it holds no weights of "
    "linear maps, or --layers and --limits leave all of them out.",
    "clip-unmeasured": "A layer without a norm cannot be clipped, since nobody knows by how much. "
    "Leave it out with --layers; the report of `lipaudit inspect` says why it has none.",
    "clip-unwritable": "The layer's weight is computed from other tensors, and there is no one "
    "tensor whose scaling would scale it. Leave it out with --layers.",
    "config-glob": "A glob in the config is not well formed (an open bracket, nothing in it) or "
    "matches nothing. A glob that silently matched nothing would be a gate that checks nothing.",
    "config-key": "The config has a key that lipaudit does not know. It is refused since a "
    "misspelt limit would limit nothing; docs/config.md lists all keys.",
    "config-missing": "There is no config: no lipaudit.toml and no [tool.lipaudit] in a "
    "pyproject.toml from the working directory upward (to the root of the repository), or the "
    "file that --config names has none.",
    "config-models": "What the config says about models makes no sense: no model is named, a "
    "path does not exist, a glob finds nothing, or two entries say different things of one file.",
    "config-syntax": "The file is not valid TOML; the message names the line and column.",
    "config-two": "A lipaudit.toml and a pyproject.toml with [tool.lipaudit] lie in one folder. "
    "Keep one, or name the one that counts with --config.",
    "config-value": "A value in the config is of the wrong type or out of range, or one that must "
    "be there is missing. Limits are finite numbers >= 0, increases percentages in quotation "
    "marks, dates like 2026-12-31; docs/config.md describes each key.",
    "data": "The samples given with --data cannot be used: an .npy file holds inputs, an .npz "
    "file inputs and, if wanted, labels; their shape must fit the network's input.",
    "declared": "[constants] of the config states a Lipschitz constant for an operation that "
    "lipaudit knows itself. Only unknown operations can be declared; take the entry out.",
    "device": "The device does not exist or cannot be used. --device takes auto, cpu, or a GPU as "
    "torch names it; auto takes the CPU where there is none.",
    "executed-dtype": "--executed takes the floating types whose rounding is modelled: float32, "
    "float16 and bfloat16, and float64.",
    "export": "The graph of the module could not be taken with torch.export; the message "
    "is torch's own. Control flow that depends on values is the usual cause.",
    "export-spectra": "--export writes singular values, and --no-spectra asks for none.",
    "folder-gone": "The folder in which lipaudit was started was deleted or may not be read, so "
    "that no path can be looked up from it.",
    "format": "There is no output format of that name for this command; the message lists them.",
    "github-summary": "--github-summary adds to the file that GitHub Actions names in "
    "GITHUB_STEP_SUMMARY, and there is none here. Elsewhere write --report markdown=FILE.",
    "hf": "--hf and --model both give the layer graph. Keep the one that is meant.",
    "hf-build": "The transformers package could not build, name or export what config.json says; "
    "the message is its own. A config of another version of it is the usual cause; --model "
    "pkg.mod:factory takes the graph from your code instead.",
    "hf-family": "The model_type or the class of config.json is none of the installed transformers "
    "package, often since its code lies beside the weights, and no code of a file is run. Install "
    "a newer transformers, or write --model pkg.mod:factory.",
    "hf-missing": "--hf takes the layer graph from the transformers package, which is not "
    "installed or too old: pip install 'lipaudit[hf]'.",
    "hf-tables": "A table that transformers' code makes, such as positions, does not come out the "
    "same twice, so that nothing can be proved with it. Write --model pkg.mod:factory.",
    "input-name": "The network's inputs have names, and a shape or range was given for one that "
    "it does not have, or one for several inputs. Write NAME=3x32x32 or NAME=0,1.",
    "input-radius": "--executed and --input-radius go together: the error of a running network "
    "depends on the type it runs in and on how large its inputs are.",
    "input-range": "A range is two finite numbers, the smaller one first: --input-range 0,1.",
    "installation": "A library that lipaudit needs is missing or broken. `pip install .` in a "
    "new virtual environment mends that; install the torch build you want first.",
    "limit": "A limit is a finite number >= 0, and an increase is a percentage such as 5%.",
    "model-factory": "--model names a function of yours, as pkg.mod:factory, that takes no "
    "argument and returns the torch.nn.Module whose weights the checkpoint holds.",
    "no-limit": "`lipaudit check` was asked to check, but nothing is limited: that would pass "
    "whatever the model is. State max-bound, max-norm, [layers], or a baseline; max-increase "
    "alone says nothing.",
    "node-name": "--from or --to names a node that the graph does not have. `lipaudit bound` "
    "lists the nodes.",
    "node-order": "The node given with --to does not come after the one given with --from.",
    "padding": "--padding is own or circular. A gate judges layers as they run, so that it does "
    "not go together with circular.",
    "plot-extra": "Plots as PNG are drawn by matplotlib, which is not installed: "
    "pip install 'lipaudit[plot]'. Plots as SVG need nothing.",
    "plot-format": "Plots are written as svg or png.",
    "report": "--report takes a format and a file with an equals sign between: "
    "--report sarif=lipaudit.sarif.",
    "report-twice": "Two of the files that are to be written are the same one, and the second "
    "would take the place of the first; or two reports go to standard output. Give each its own "
    "name: - is standard output, where -o takes the report that -f names.",
    "shape-syntax": _SHAPE,
    "spectral": "lipaudit.torch.spectral_norm was asked for something that the module does not "
    "have, or for an input shape that does not fit it; the message says which.",
    "sort": "Layers can be sorted by name, norm, share, size or kind.",
    "schema": "There is no JSON document of that name: `lipaudit schema` knows those that the "
    "message lists.",
    "topic": "`lipaudit explain` takes the id of a rule (LIP001) or the slug of a message, which "
    "stands in brackets behind a cause or in the JSON report. `lipaudit rules` lists the rules.",
    "usage": "The command line cannot be understood; --help of the command shows its options.",
}
