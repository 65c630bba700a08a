"""Laws that no single file shows: who imports whom, where collectives are, what is banned."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "webssl_toolbox").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
TOOLS = sorted((ROOT / "tools").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
LIBRARY = [*CORE, *PLUGINS]
EXAMPLES = [*(ROOT / "docs").rglob("*.py"), *(ROOT / "tools/templates").rglob("*.py")]
PRODUCT = [ROOT / "setup.py", *LIBRARY, *TOOLS, *CONFIGS, *EXAMPLES]
COLLECTIVES = (
    *("all_gather", "all_reduce", "broadcast", "all_to_all", "reduce_scatter", "barrier"),
    *("monitored_barrier", "gather", "scatter", "reduce", "send", "recv", "isend", "irecv"),
)


def name(path):
    return str(path.relative_to(ROOT))


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def package(path):
    """The package that relative imports in a file start from, as a list of names."""
    parts = list(path.relative_to(ROOT).parts[:-1])
    return ["webssl_plugins", *parts[1:]] if parts[0] == "plugins" else parts


def imports(path):
    """Yields absolute names of all that a file imports, wherever it does."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package(path)[: len(package(path)) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def under(imported, package):
    return imported == package or imported.startswith(f"{package}.")


def test_the_core_imports_no_plugin_and_no_tool():
    for path in CORE:
        for imported in imports(path):
            for other in ("webssl_plugins", "webssl_configs", "plugins", "tools", "tests"):
                assert not under(imported, other), f"{name(path)} imports {imported}"


def test_plugins_share_only_private_modules_of_their_own_kind():
    for path in PLUGINS:
        kind = path.relative_to(ROOT).parts[1]
        for imported in imports(path):
            if under(imported, "webssl_plugins"):
                _, *place = imported.split(".")
                assert place[0] == kind, f"{name(path)} imports {imported} of another kind"
                assert place[1].startswith("_"), f"{name(path)} imports its sibling {imported}"


def test_nothing_imports_the_plugins_by_their_folder():
    """`import plugins.x` beside `webssl_plugins.x` would give a second copy of every class."""
    for path in [*LIBRARY, *TOOLS, *TESTS, *CONFIGS]:
        for imported in imports(path):
            assert not under(imported, "plugins"), f"{name(path)} imports {imported}"
    assert not [module for module in sys.modules if under(module, "plugins")]


def test_what_plugins_import_of_the_core_exists_for_third_parties_too():
    for path in PLUGINS:
        for imported in imports(path):
            if under(imported, "webssl_toolbox"):
                private = [part for part in imported.split(".") if part.startswith("_")]
                assert not private, f"{name(path)} imports the private {imported}"


def test_collectives_live_in_dist():
    for path in [*LIBRARY, *TOOLS]:
        if name(path) == "webssl_toolbox/dist.py":
            continue
        found = collectives(tree(path))
        if name(path) == "webssl_toolbox/compat.py":  # it knows what a collective is called
            found -= {"torch_dist"}
        assert not found, f"{name(path)} uses {sorted(found)}: collectives belong in dist.py"


def collectives(node):
    """Names under which a file could reach a collective of torch."""
    homes, found = {"torch.distributed"}, set()
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                if alias.name.startswith("torch.distributed") and alias.asname:
                    homes.add(alias.asname)
        elif isinstance(child, ast.ImportFrom) and child.module:
            for alias in child.names:
                if (child.module, alias.name) == ("torch", "distributed"):
                    homes.add(alias.asname or alias.name)
                elif child.module.startswith("torch.distributed") and calls(alias.name):
                    found.add(alias.name)
    for child in ast.walk(node):
        if isinstance(child, ast.Attribute) and calls(child.attr):
            if ast.unparse(child.value) in homes:
                found.add(ast.unparse(child))
        elif isinstance(child, ast.Call) and ast.unparse(child.func) == "getattr":
            found |= {ast.unparse(child.args[0])} & homes
    return found


def calls(attribute):
    return attribute.startswith(COLLECTIVES)


@pytest.mark.parametrize(
    "code",
    [
        "import torch.distributed as d\nd.all_gather_into_tensor(a, b)",
        "from torch import distributed\ndistributed.broadcast(a)",
        "import torch\ntorch.distributed.all_reduce(a)",
        "from torch.distributed import all_reduce\nall_reduce(a)",
        "from torch.distributed.nn.functional import all_gather",
    ],
)
def test_a_hidden_collective_is_found(code):
    assert collectives(ast.parse(code))


def test_no_file_is_longer_than_400_lines():
    for path in [*LIBRARY, *TOOLS, *TESTS, *CONFIGS]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 400, f"{name(path)} has {lines} lines: split it"


def test_the_core_stays_small():
    """Without the contract tests, which it ships for authors of plugins."""
    core = [path for path in CORE if path.name != "testing.py"]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in core) <= 6250


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_library_code_prints_nothing_and_hides_no_error(path):
    for node in ast.walk(tree(path)):
        where = f"{name(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "breakpoint"), f"{where} calls {called}"
            assert not called.startswith("subprocess."), f"{where} calls {called}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where} is a bare except"


# -- nothing that is read may run, and nothing is sent -------------------------------------------

RUNS = {"eval", "exec", "compile", "__import__", "execfile"}
PICKLES = {
    "pickle",
    "_pickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "cloudpickle",
    "yaml",
    "code",
}
NETWORK = {"socket", "ssl", "http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "ftplib"}
NETWORK |= {"smtplib", "telnetlib", "xmlrpc", "websockets", "huggingface_hub", "posthog", "wandb"}
SHELLS = ("os.system", "os.popen", "os.exec", "os.spawn", "subprocess.getoutput", "pty.spawn")
STRANGERS = ("torch.hub", "torch.jit.load", "torch.package", "torch.utils.model_zoo")


def dangers(source):
    """Yields what in a source could run what it reads, or speak to the network."""
    for node in ast.walk(source):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            home = getattr(node, "module", None)
            roots = {(home or each).partition(".")[0] for each in names}
            yield from roots & (PICKLES | NETWORK)
            yield from (f"{home}.{each}" for each in names if f"{home}.{each}".startswith(SHELLS))
            if home in ("torch", "numpy"):
                yield from (f"{home}.{each}" for each in names if each in ("load", "hub"))
        elif isinstance(node, ast.Call):
            yield from dangers_of_call(node)


def dangers_of_call(node):
    called = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called in RUNS or called.startswith((*SHELLS, *STRANGERS)):
        yield called
    if called == "getattr" and any(
        isinstance(a, ast.Constant) and a.value in RUNS for a in node.args
    ):
        yield ast.unparse(node)
    if given.get("shell", "False") != "False" or given.get("allow_pickle", "False") != "False":
        yield ast.unparse(node)
    if (
        given.get("weights_only", "True") != "True"
        or given.get("trust_remote_code", "False") != "False"
    ):
        yield ast.unparse(node)
    if called == "torch.load" and given.get("weights_only") != "True":
        yield f"{called} without weights_only=True"


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_nothing_runs_what_it_reads_or_opens_a_connection(path):
    found = sorted(dangers(tree(path)))
    if name(path) == "webssl_toolbox/engine/config.py":  # a config is a program of its user
        assert found == ["compile", "exec"]
    else:
        assert not found, f"{name(path)}: {', '.join(found)}"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=trusted)",
        "from torch import load",
        "np.load(f, allow_pickle=True)",
        "eval(text)",
        "exec(compile(text, 'x', 'exec'))",
        "getattr(builtins, 'eval')(text)",
        "os.system(text)",
        "from os import system",
        "subprocess.run(text, shell=True)",
        "subprocess.getoutput(text)",
        "import yaml\nyaml.load(f)",
        "torch.hub.load('someone/repo', 'model')",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "import urllib.request",
        "from http.client import HTTPSConnection",
        "def f():\n    import requests",
        "import socket",
    ],
)
def test_a_danger_is_found(code):
    assert list(dangers(ast.parse(code)))


def test_every_module_says_what_it_is_for():
    for path in [*LIBRARY, *TOOLS]:
        source = tree(path)
        assert not source.body or ast.get_docstring(source), f"{name(path)} has no docstring"
