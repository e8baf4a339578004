"""What may not stand in the source: ways to run code that comes in a file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / "src" / "dien").rglob("*.py")), *sorted((ROOT / "scripts").rglob("*.py"))]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
DOTTED = {"os.system", "os.popen", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "pl.read_ipc", "hydra.utils.call"}
NEEDED = {  # a call, and the keyword without which it would unpickle
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
SAFE_LOADERS = (["yaml.SafeLoader"], ["getattr(yaml, 'CSafeLoader', yaml.SafeLoader)"])
INSTANTIATE = ("src/dien/targets.py",)
UNPICKLES = ("src/dien/convert/pickles.py", "src/dien/data/sources/plain_pickle.py")
"""Readers that import nothing of what a pickle names; tests of their own attack them."""


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def offences(source: str, name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (
                alias.name for alias in node.names if alias.name.split(".")[0] in MODULES and name not in UNPICKLES
            )
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported = [alias.name for alias in node.names]
            if node.module.split(".")[0] in MODULES and imported != ["UnpicklingError"]:
                yield f"from {node.module} import {', '.join(imported)}"
            if node.module == "hydra.utils" and name not in INSTANTIATE:
                yield "hydra.utils.instantiate past dien.targets"
        elif isinstance(node, ast.Call):
            called = dotted(node.func)
            keywords = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
            loaders = [ast.unparse(k.value) for k in node.keywords if k.arg == "Loader"]
            if called == "yaml.load" and loaders in SAFE_LOADERS:
                continue
            if called in BUILTINS or called in DOTTED or keywords.get("shell"):
                yield f"{called} in line {node.lineno}"
            if called in NEEDED and keywords.get(NEEDED[called][0]) is not NEEDED[called][1]:
                yield f"{called} without {NEEDED[called][0]}={NEEDED[called][1]} in line {node.lineno}"
            if called == "hydra.utils.instantiate" and name not in INSTANTIATE:
                yield f"{called} past dien.targets in line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_runs_what_a_file_says(path):
    assert list(offences(path.read_text(), str(path.relative_to(ROOT)))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "eval('1')",
        "exec(code)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "from hydra.utils import instantiate",
        "hydra.utils.instantiate(config)",
    ],
)
def test_the_scan_sees_an_offence(source):
    assert list(offences(source, "elsewhere.py"))


@pytest.mark.parametrize(
    "source",
    ["network.eval()", "re.compile(x)", "torch.load(p, weights_only=True)", "yaml.load(t, Loader=yaml.SafeLoader)"],
)
def test_the_scan_lets_harmless_code_be(source):
    assert not list(offences(source, "elsewhere.py"))
