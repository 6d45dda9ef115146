"""Slugs of work that is shared out: processes, GPUs and clusters."""

MACHINES = {
    "dask": "--scheduler shares the layers out with Dask, which is not installed: "
    "pip install 'lipaudit[dask]', here and on every worker.",
    "no-workers": "The scheduler answers, but for as long as --wait says no worker has come to it, "
    "or all have gone. Start some with `dask worker` and the address of the scheduler, or wait "
    "longer where they are queued.",
    "place": "A layer was to be measured that the network does not have: the processes that share "
    "the work see different files. Run again without --workers and --scheduler.",
    "scheduler": "Nothing that speaks Dask answers at the address given with --scheduler. The "
    "scheduler prints its address when it starts.",
    "scheduler-lost": "The scheduler went away while layers were measured. Nothing was reported; "
    "run again when it is back.",
    "worker-copy": "A worker sees another file at the model's path than this machine: its size or "
    "its content differs, or the folder holds other files. Give every worker the same files at the "
    "same path.",
    "worker-failed": "A worker could not run the task at all; the message is its own. Install "
    "lipaudit on every worker, with the versions of this machine.",
    "worker-graph": "A worker made another layer graph of the model's config.json than this "
    "machine: its transformers package differs, or its config.json. Install the same everywhere.",
    "worker-lost": "Every process or worker that measured the layer was killed, though it did "
    "nothing else meanwhile, most often because the machine ran out of memory. The other layers "
    "have their numbers; give a smaller --max-memory, or workers with more memory.",
    "worker-version": "A worker has another lipaudit (its version or its source), Python, torch, "
    "NumPy, onnx or safetensors than this machine, so that its numbers could differ. The message "
    "says which. Install the same on every machine.",
    "workers-start": "Not one process for the layers could be started. Each imports the program's "
    'main module anew: a script must hire under `if __name__ == "__main__":`, and stand in a '
    "file, or else every process hires again and ends.",
    "workers": "A number of processes cannot be negative: --workers 0 takes one for each core.",
}
