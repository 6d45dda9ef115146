"""Names that a model's pickle has no honest reason to call."""

from collections.abc import Iterable

from lipaudit.formats.pickle_guard import Global, Pickled

_ORDINARY = frozenset(
    {"__builtin__", "_codecs", "builtins", "collections", "copy_reg", "copyreg", "numpy", "torch"}
)
"""Packages of which nearly every checkpoint mentions something."""
_SHOWN = 10
# Whole modules whose every function acts on the machine.
_MODULES = frozenset(
    {
        "_aix_support", "_osx_support", "_posixsubprocess", "_pyrepl", "aiohttp", "asyncio", "bdb",
        "cProfile", "cffi", "code", "codeop", "commands", "ctypes", "distutils", "doctest",
        "ensurepip", "fileinput", "ftplib", "gc", "glob", "http", "httplib", "httpx", "idlelib",
        "imaplib", "imp", "importlib", "inspect", "lib2to3", "linecache", "mailcap", "marshal",
        "multiprocessing", "nntplib", "nt", "ntpath", "os", "pathlib", "pdb", "pip", "pkgutil",
        "platform", "poplib", "popen2", "posix", "posixpath", "profile", "pty", "py_compile",
        "pydoc", "requests", "resource", "runpy", "setuptools", "shelve", "shutil", "signal",
        "site", "smtplib", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "sys",
        "tarfile", "telnetlib", "tempfile", "threading", "timeit", "trace", "tty", "types",
        "urllib", "urllib2", "urllib3", "uuid", "venv", "webbrowser", "xmlrpc", "zipfile",
        "zipimport",
    }
)  # fmt: skip
# Of these modules, some names are what every pickle is made of.
_HONEST = frozenset(
    {
        "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePath", "pathlib.PurePosixPath",
        "pathlib.PureWindowsPath", "pathlib.WindowsPath", "pathlib._local.Path",
        "pathlib._local.PosixPath", "pathlib._local.PurePosixPath", "pathlib._local.WindowsPath",
        "types.SimpleNamespace", "uuid.UUID", "uuid.SafeUUID",
    }
)  # fmt: skip
_BUILTINS = frozenset(
    {
        "__import__", "apply", "breakpoint", "compile", "delattr", "eval", "exec", "execfile",
        "exit", "file", "getattr", "globals", "hasattr", "input", "locals", "open", "quit",
        "setattr", "vars",
    }
)  # fmt: skip
_NAMES = frozenset(
    {
        "_io.FileIO", "_io.open", "_io.open_code", "_pickle.Unpickler", "_pickle.load",
        "_pickle.loads", "cloudpickle.load", "cloudpickle.loads", "codecs.open", "dill.load",
        "dill.loads", "functools.partial", "functools.reduce", "io.FileIO", "io.open",
        "io.open_code", "joblib.load", "logging.config.listen", "numpy.f2py.crackfortran.myeval",
        "numpy.f2py.crackfortran.getlincoef", "numpy.load", "numpy.lib.npyio.load",
        "numpy.memmap", "numpy.fromfile", "numpy.testing._private.utils.runstring",
        "numpy.testing._private.utils.measure", "operator.attrgetter", "operator.itemgetter",
        "operator.methodcaller", "pandas.read_pickle", "pickle.Unpickler", "pickle.load",
        "pickle.loads", "torch.classes.load_library", "torch.compile", "torch.from_file",
        "torch.load", "torch.ops.load_library", "torch.package.PackageImporter",
        "torch.serialization.load", "torch.storage._load_from_bytes",
        "torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression",
        "torch.jit.load", "torch.jit.unsupported_tensor_ops.execWrapper",
        "torch.utils._config_module.load_config", "torch.utils.collect_env.run",
        "weakref.finalize",
    }
)  # fmt: skip
# Packages of torch that load code, compile it, or talk to other machines.
_PACKAGES = (
    "torch._dynamo.", "torch._inductor.", "torch.distributed.elastic.",
    "torch.distributed.launch", "torch.distributed.rpc.", "torch.distributed.run.", "torch.hub.",
    "torch.utils.bottleneck.", "torch.utils.cpp_extension.", "torch.utils.model_zoo.",
)  # fmt: skip
_REACHED = frozenset(
    {"builtins", "importlib", "os", "posix", "runpy", "shutil", "subprocess", "sys"}
)
"""Modules that other modules import: `torch.serialization` has an attribute `os`."""


def is_dangerous(name: Global) -> bool:
    """Tell whether calling this name could run code, reach a file or a network."""
    steps = name.name.split(".")
    # From protocol 4 on a name may lead through attributes: `os.system` of torch.serialization.
    if any(step.lstrip("_") in _REACHED for step in steps) or any(map(_is_internal, steps[:-1])):
        return True
    whole, top = str(name), name.module.split(".", 1)[0]
    if top in {"builtins", "__builtin__"}:
        return steps[0] in _BUILTINS
    if whole in _HONEST:
        return False
    return top in _MODULES or whole in _NAMES or whole.startswith(_PACKAGES)


def _is_internal(step: str) -> bool:
    return step.startswith("__") and step.endswith("__")


def is_ordinary(name: Global) -> bool:
    """Tell whether the name is of a package that nearly every checkpoint mentions."""
    return name.module.split(".", 1)[0] in _ORDINARY


def alarms(*pickles: Pickled) -> tuple[str, ...]:
    """Return one sentence for each dangerous name that the pickles mention."""
    return calls(name for pickle in pickles for name in pickle.globals)


def calls(names: Iterable[Global]) -> tuple[str, ...]:
    """Return one sentence for each of the names that is dangerous."""
    return tuple(f"calls {name}" for name in dict.fromkeys(names) if is_dangerous(name))


def strangers(pickled: Pickled) -> tuple[str, ...]:
    """Say which names of other packages than torch the pickle mentions, if it does."""
    names = [
        str(name) for name in pickled.globals if not is_ordinary(name) and not is_dangerous(name)
    ]
    if not names:
        return ()
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return (f"objects kept as data, their classes not imported: {', '.join(names[:_SHOWN])}{more}",)
