"""Slugs of work that is shared out: processes, GPUs and clusters."""

MACHINES = {
    "dask": "--scheduler shares the layers out with Dask, which is not installed: "
    "pip install 'lipaudit[dask]', here and on every worker.",
    "no-workers": "The scheduler answers, but no worker has come to it. Start some with "
    "`dask worker` and the address of the scheduler.",
    "place": "A layer was to be measured that the network does not have: the processes that share "
    "the work see different files. Run again without --workers and --scheduler.",
    "scheduler": "Nothing that speaks Dask answers at the address given with --scheduler. The "
    "scheduler prints its address when it starts.",
    "scheduler-lost": "The scheduler went away while layers were measured. Nothing was reported; "
    "run again when it is back.",
    "worker-copy": "A worker sees another file at the model's path than this machine: its size or "
    "its content differs. Give every worker the same file at the same path.",
    "worker-failed": "A worker could not run the task at all; the message is its own. Install "
    "lipaudit on every worker, with the versions of this machine.",
    "worker-lost": "Every process or worker that measured the layer was killed, most often "
    "because the machine ran out of memory. The other layers have their numbers; give a smaller "
    "--max-memory, or workers with more memory.",
    "worker-version": "A worker has other versions of lipaudit or torch than this machine, so "
    "that its numbers could differ. Install the same versions on every machine.",
    "workers": "A number of processes cannot be negative: --workers 0 takes one for each core.",
}
