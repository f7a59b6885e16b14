"""No call of the package can execute what it reads: no pickle, no eval, no shell. Read from the syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "mypt_dist").rglob("*.py"))

MODULES = {
    "pickle", "_pickle", "cPickle", "pickletools", "marshal", "shelve", "dill", "joblib", "cloudpickle", "jsonpickle",
    "dbm", "copyreg", "code", "codeop", "runpy", "pty",
}  # fmt: skip
CALLS = {
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell",
    "torch.save", "torch.package.PackageImporter", "torch.hub.load", "torch.jit.load", "torch.serialization.load",
    "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all", "yaml.full_load_all",
    "pandas.read_pickle", "multiprocessing.connection.Client", "multiprocessing.connection.Listener",
}  # fmt: skip
METHODS = {
    "all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list", "send_object_list",
    "recv_object_list", "load_module", "exec_module", "save_state", "load_state_dict_from_url",
}  # fmt: skip
SAFE_ONLY_WITH = {
    "torch.load": ("weights_only", "True"),
    "numpy.load": ("allow_pickle", "False"),
    "yaml.load": ("Loader", "_Loader"),
}
"""``_Loader`` is the subclass of SafeLoader in config/strict_yaml.py; see the test of it below."""
NEVER_WITH = {("shell", "True"), ("trust_remote_code", "True"), ("allow_pickle", "True"), ("weights_only", "False")}


def offences(source: str) -> list[str]:
    """What in ``source`` could execute data, each with its line."""
    tree = ast.parse(source)
    names = dict(_imported(tree))
    found = [(node.lineno, text) for node in ast.walk(tree) for text in _offences_of(node, names)]
    return [f"line {line}: {text}" for line, text in sorted(found)]


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Local name -> full name of what is imported, so that an alias hides nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (
                    alias.asname or alias.name.partition(".")[0],
                    (alias.name if alias.asname else alias.name.partition(".")[0]),
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _offences_of(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (f"import {a.name}" for a in node.names if a.name.partition(".")[0] in MODULES)
    elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in MODULES:
        yield f"from {node.module} import"
    elif isinstance(node, ast.Call):
        yield from _offences_of_call(node, names)
    elif isinstance(node, ast.Attribute | ast.Name) and _full(node, names) in CALLS and isinstance(node.ctx, ast.Load):
        # Handed on rather than called.
        yield ast.unparse(node)


def _offences_of_call(call: ast.Call, names: dict[str, str]) -> Iterator[str]:
    full = _full(call.func, names)
    keywords = {(keyword.arg, ast.unparse(keyword.value)) for keyword in call.keywords}
    if full.rpartition(".")[2] in METHODS:
        yield full
    if full in SAFE_ONLY_WITH and SAFE_ONLY_WITH[full] not in keywords:
        yield f"{full} without {'='.join(SAFE_ONLY_WITH[full])}"
    yield from (f"{full}({name}={value})" for name, value in keywords & NEVER_WITH)


def _full(node: ast.AST, names: dict[str, str]) -> str:
    text = ast.unparse(node)
    first, dot, rest = text.partition(".")
    return f"{names.get(first, first)}{dot}{rest}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_can_execute_what_it_reads(path: Path) -> None:
    assert offences(path.read_text()) == []


PLANTED = {
    "import pickle": "import pickle",
    "from pickle import loads": "from pickle import",
    "import cloudpickle as safe": "import cloudpickle",
    "def f():\n    import marshal": "import marshal",
    "import joblib.numpy_pickle": "import joblib",
    "eval(text)": "eval",
    "exec(text)": "exec",
    "compile(text, 'f', 'exec')": "compile",
    "run = eval\nrun(text)": "eval",
    "map(exec, lines)": "exec",
    "import os\nos.system(text)": "os.system",
    "from os import system as log\nlog(text)": "log",
    "import torch\ntorch.load(path)": "torch.load without",
    "import torch as t\nt.load(path, weights_only=False)": "torch.load without",
    "from torch import load\nload(path)": "torch.load without",
    "import numpy as np\nnp.load(path)": "numpy.load without",
    "import numpy as np\nnp.load(path, allow_pickle=True)": "numpy.load without",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)": "yaml.load without",
    "import yaml\nyaml.unsafe_load(text)": "yaml.unsafe_load",
    "import subprocess\nsubprocess.run(text, shell=True)": "shell=True",
    "import torch.distributed as dist\ndist.all_gather_object(a, b)": "all_gather_object",
    "AutoModel.from_pretrained(name, trust_remote_code=True)": "trust_remote_code=True",
}


@pytest.mark.parametrize("source", PLANTED, ids=lambda source: source.replace("\n", "; "))
def test_a_planted_offender_is_found(source: str) -> None:
    (found, *_) = offences(source)
    assert PLANTED[source] in found


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "model.eval()\nre.compile(text)\nmodule.compile()",
        "import subprocess\nsubprocess.run(['git'], check=True)",
    ],
)
def test_what_is_harmless_is_let_be(source: str) -> None:
    assert offences(source) == []


def test_our_loader_of_yaml_is_a_safe_one() -> None:
    import yaml

    from mypt_dist.config import strict_yaml

    assert issubclass(strict_yaml._Loader, yaml.SafeLoader)
    assert not issubclass(strict_yaml._Loader, yaml.FullLoader | yaml.UnsafeLoader)
    with pytest.raises(yaml.constructor.ConstructorError):
        yaml.load("!!python/name:os.system", Loader=strict_yaml._Loader)  # noqa: S506
