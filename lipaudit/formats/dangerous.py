"""Names that a model's pickle has no honest reason to call."""

from lipaudit.formats.pickle_guard import Global, Pickled

# Whole modules whose every function acts on the machine.
_MODULES = frozenset(
    {
        "_posixsubprocess", "asyncio", "code", "codeop", "commands", "ctypes", "ftplib", "http",
        "imp", "importlib", "multiprocessing", "nt", "os", "pdb", "pip", "popen2", "posix",
        "profile", "pty", "pydoc", "requests", "runpy", "shutil", "signal", "site", "smtplib",
        "socket", "subprocess", "sys", "tempfile", "threading", "timeit", "trace", "urllib",
        "venv", "webbrowser", "zipimport",
    }
)  # fmt: skip
_BUILTINS = frozenset(
    {
        "__import__", "apply", "breakpoint", "compile", "delattr", "eval", "exec", "execfile",
        "getattr", "globals", "input", "locals", "open", "setattr", "vars",
    }
)  # fmt: skip
_NAMES = frozenset(
    {
        "functools.partial", "numpy.load", "numpy.testing._private.utils.runstring",
        "operator.attrgetter", "operator.itemgetter", "operator.methodcaller", "pickle.load",
        "pickle.loads", "_pickle.load", "_pickle.loads", "pickle.Unpickler", "dill.loads",
        "cloudpickle.loads", "joblib.load", "torch.load", "torch.hub.load", "torch.jit.load",
        "torch.package.PackageImporter", "torch.serialization.load", "types.CodeType",
        "types.FunctionType", "torch.distributed.rpc.server", "torch.storage._load_from_bytes",
    }
)  # fmt: skip


def is_dangerous(name: Global) -> bool:
    """Tell whether calling this name could run code, reach a file or a network."""
    top = name.module.split(".", 1)[0]
    if top in {"builtins", "__builtin__"}:
        return name.name.split(".", 1)[0] in _BUILTINS
    return top in _MODULES or str(name) in _NAMES


def alarms(*pickles: Pickled) -> tuple[str, ...]:
    """Return one sentence for each dangerous name that the pickles mention."""
    names = {name: None for pickle in pickles for name in pickle.globals if is_dangerous(name)}
    return tuple(f"calls {name}" for name in names)
