"""Slugs of what is wrong with a file that is read or written."""

_AGAIN = "Download it, or save it, again."
_HARM = "No honest writer makes such a file; find out where it comes from."
_ONNX = "Run onnx.checker on the file, and export it again."

FILES = {
    "byteorder": "The checkpoint says of its numbers that they are in an order of bytes that there "
    f"is not. {_HARM}",
    "changed": "The file was written to, or shrank, while it was read, so that no report of it "
    "would be of one file. Audit it when it is complete.",
    "document": "A baseline or JSON report lacks a field, or has one of the wrong type; the "
    "message names it. Such a file is never believed in part. Write it again with lipaudit.",
    "document-size": "The file is far larger than a config, baseline or report can be.",
    "empty-file": f"The file has no bytes: a download or a disk that was full. {_AGAIN}",
    "external-entry": "The ONNX model describes data beside it in a way that makes no sense "
    f"(offset, length or key). {_ONNX}",
    "external-missing": "The ONNX model keeps its weights in another file, which is not there. "
    "Copy it beside the model.",
    "external-outside": "The ONNX model asks for weights outside its own folder. lipaudit does "
    f"not follow: a model could read any file of yours. {_HARM}",
    "graph-duplicate": f"Two nodes of the graph make a value of the same name. {_ONNX}",
    "graph-shape": "The file states a size for a value between its nodes that its own nodes do not "
    "make: it was edited or damaged, or a program wrote it wrong. Export the model again.",
    "graph-order": "A node reads a value that nothing before it makes; the graph has a cycle or "
    f"a part is missing. {_ONNX}",
    "graph-output": f"The graph's output is made by no node. {_ONNX}",
    "hf-config": "--hf reads config.json beside the weights, and it is missing, says no "
    "model_type, or is no config. Name a folder as transformers saves it.",
    "hf-quantized": "The weights of this folder are quantized in a way that only code of "
    "transformers' unpacks. Audit the weights before they were quantized.",
    "hf-size": f"config.json asks for a network larger than any honest one. {_HARM}",
    "hf-weights": "The weights are not those of the network that config.json says: some are "
    "missing or of another shape, or stand in the file in another form, as the experts of a "
    "mixture do one by one. Write --model pkg.mod:factory.",
    "index": "The index of a sharded checkpoint is damaged, or names something impossible. "
    f"{_AGAIN}",
    "index-keys": f"The shards do not hold the tensors that the index says they hold. {_AGAIN}",
    "index-missing": "A shard that the index names is not in the folder. Fetch the missing file.",
    "index-outside": f"The index names a file outside its folder. {_HARM}",
    "json": f"The text is not valid JSON; the message says where. {_AGAIN}",
    "json-depth": f"The JSON is nested deeper than any honest one. {_HARM}",
    "json-size": f"The JSON is larger than any honest one of its kind. {_HARM}",
    "json-twice": "A key appears twice in the JSON, so that readers would disagree on what it "
    f"says. {_HARM}",
    "no-model": "The folder holds no model file that lipaudit knows. Name the file itself.",
    "no-such-file": "There is no file of that name. Check the path and the working directory.",
    "no-weights": "The file can be read but holds no weights: an optimizer's state, a "
    "tokenizer, an empty dictionary.",
    "not-a-file": "The path is a pipe, a device or a folder where a file is wanted.",
    "onnx-depth": f"The graph's subgraphs are nested too deep. {_HARM}",
    "onnx-fields": f"The protobuf has more fields than any honest model. {_HARM}",
    "onnx-function": "A function that the model defines cannot be inlined: it is missing, calls "
    "itself, or is called with other inputs than it takes.",
    "onnx-graph": f"The file is protobuf but holds no ONNX graph. {_AGAIN}",
    "onnx-initializer": f"An initializer has no name, or one that another has. {_ONNX}",
    "onnx-input": f"An input of the graph has no name, or one that another has. {_ONNX}",
    "onnx-node": f"A node has no operation, or attributes that contradict each other. {_ONNX}",
    "onnx-nodes": f"The graph has more nodes than any honest model. {_HARM}",
    "onnx-opset": "The operator set is missing, too old, or newer than lipaudit knows. "
    "onnx.version_converter can convert it.",
    "onnx-protobuf": f"The bytes are no valid protobuf: cut short, or no ONNX. {_AGAIN}",
    "onnx-version": "The version of the ONNX format that the file states is missing, none that "
    "there is, or newer than the installed onnx knows: what the file means could have changed.",
    "onnx-structure": f"The protobuf contradicts the structure of ONNX. {_ONNX}",
    "onnx-tensor": "A tensor's type, shape and data contradict each other. lipaudit checks sizes "
    f"before it allocates anything. {_ONNX}",
    "pickle": f"The pickle inside the file is damaged, or no pickle at all. {_AGAIN}",
    "pickle-depth": f"The pickle is nested deeper than any checkpoint. {_HARM}",
    "pickle-size": "The pickle, or what a few instructions in it stand for (names of tensors, "
    f"modules in modules), is larger than any checkpoint needs. {_HARM}",
    "pt2-json": f"The graph in the .pt2 file lacks a field or contradicts itself. {_AGAIN}",
    "pt2-layout": "The .pt2 archive does not have the members of an exported program.",
    "pt2-pickle": "The .pt2 file keeps something as a pickle, which lipaudit does not open. Save "
    "it again with torch.export.save of a current torch.",
    "pt2-version": "The schema of the .pt2 file is newer or older than lipaudit reads. Export "
    "the model again with a torch that lipaudit knows.",
    "pt2-weight": f"A weight of the .pt2 file is missing or does not fit its description. {_AGAIN}",
    "report-version": "A JSON report or baseline was written in a version of the schema that "
    "this lipaudit does not read. Write it again.",
    "safetensors-header": f"The header of the safetensors file is damaged. {_AGAIN}",
    "safetensors-layout": "Tensors of the safetensors file overlap or leave gaps, which the "
    f"format forbids. {_HARM}",
    "safetensors-tensor": f"A tensor's type, shape and length contradict each other. {_AGAIN}",
    "several-models": "The folder holds several models. Name the file that is meant.",
    "storage-size": f"A stored block has another size than the checkpoint declares. {_HARM}",
    "tensor": "An entry of the checkpoint is a kind of tensor that lipaudit does not read "
    "(quantized, sparse, nested). Save it as a plain tensor.",
    "tensor-bounds": "A tensor claims items that the file does not store. Other readers may "
    f"crash on it. {_HARM}",
    "torch-legacy": f"The old checkpoint format (before torch 1.6) is damaged. {_AGAIN}",
    "truncated": f"The file ends before its content does. {_AGAIN}",
    "unreadable": "The system refuses to open the file; the message says why.",
    "unsupported-format": "The content is of no format that lipaudit reads: torch (.pt, .pth, "
    ".ckpt), .pt2, safetensors, ONNX. The suffix does not count. Convert the file.",
    "write-changed": "The input is no longer the file that was read: somebody wrote to it "
    "meanwhile. Nothing was written; run the command again.",
    "write-alarm": "The input holds a dangerous pickle (LIP005). lipaudit does not write a copy "
    "of it: the copy would be dangerous too.",
    "write-exists": "The output exists. Choose another name, or --force to replace it.",
    "write-failed": "The output cannot be written: rights, space, a name. Nothing was left "
    "behind, and what was there before is unchanged.",
    "write-folder": "The folder of the output does not exist.",
    "write-input": "The output is the input itself. Choose another name.",
    "write-link": "The model's external data is a hard link: its other name may lie outside the "
    "folder, and a copy would carry its bytes out. Copy the model to a folder of its own.",
    "write-live": "A live module has no file that could be copied. Save it first.",
    "write-slot": "The tensor is stored in a way that cannot be replaced in place, such as a "
    "list of numbers.",
    "write-target": "The output is no name for a file.",
    "write-tied": "The tensor shares its bytes with another one that gets other values.",
    "zip": f"The zip archive is damaged or contradicts itself. {_AGAIN}",
    "zip-compressed": "A member of the zip is compressed. torch never does that, and a small "
    f"file could unpack to an enormous one. {_HARM}",
    "zip-crc": f"The checksum of a member is wrong: its bytes changed after it was saved. {_AGAIN}",
    "zip-layout": "The zip does not have the one top folder that torch writes.",
    "zip-name": f"A member of the zip has a name that leads out of the archive. {_HARM}",
}
