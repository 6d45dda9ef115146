"""Safety: the rule about files that act on the machine that opens them."""

from collections.abc import Iterator

from lipaudit.gates.policy import Policy
from lipaudit.gates.rule import ERROR, Rule
from lipaudit.results import Finding, ModelReport

ID = "LIP005"


def _dangerous_pickle(model: ModelReport, _policy: Policy) -> Iterator[Finding]:
    for alarm in model.alarms:
        yield Finding(ID, ERROR, model.path, "", f"the file's pickle {alarm}")


DANGEROUS_PICKLE = Rule(
    ID,
    "dangerous pickle",
    "The file holds a pickle that calls something which acts on the machine (runs a command, "
    "opens a connection, reads or writes files) when an ordinary loader opens it. lipaudit reads "
    "pickles as data and ran nothing; torch.load without weights_only, joblib and pickle would. "
    "It makes the exit code 1 whether or not a gate was asked for.\n\n"
    "What helps: do not load the file. Ask its author for safetensors or ONNX, and check where "
    "it came from. If it is your own and the call is harmless, save the weights again as a "
    "plain state dict.",
    _dangerous_pickle,
)
