"""What README.md and docs/ say is run, and compared with the code.

Rules, for the commands in ``bash`` blocks (one a line; in ``console`` blocks those after ``$``) and
for ``python`` blocks, in the order of a document, in a copy of the repository with ``photo.jpg``,
``images/`` (captions beside them), ``pairs.csv``, ``coco/`` and ``yfcc15m/`` in it:

* ``tools/train.py`` of a laptop config, or of a config that the document writes, takes two steps:
  it gets the options ``TINY``. Of any other config the options are checked; nothing is trained.
* ``tools/test.py`` gets the options ``FEW``, so that one evaluator of one split is run.
* ``tools/print_config.py`` and ``tools/preview_views.py`` are run as they are.
* ``tools/plugins.py`` and ``tools/new_plugin.py`` are run as they are, in a process of their own.
* ``pip install -e FOLDER`` makes the entry points of a package known that the document writes; what
  follows finds it. Other uses of ``pip`` are not run.
* ``tools/dist_train.sh`` and ``slurm_train.sh`` start nothing: what they would start is checked.
* other scripts in ``tools/`` must know each option that is used; they are asked by ``--help``.
* ``make`` is run with ``-n``. What begins with a word of ``NOT_RUN`` is not run.
* a Python or TOML block that begins with ``# path/to/file`` is written there; below ``configs/``
  it is also checked as a config, at the end. Other Python blocks of a document share their names.

``work_dirs/declip_r50_laptop`` holds what two steps gave, as if ``make train`` had been run.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]

TINY = [
    "train_cfg.max_iters=2",
    "train_dataloader.batch_size=8",
    "train_dataloader.num_workers=0",
    "evaluation.evaluators={}",
]
SPLITS = {"noto-v1": {"type": "Emoji", "split": "noto-v1", "size": 40}}
FEW = [f"evaluation.evaluators={ {'rank_me': {'type': 'RankMe', 'splits': SPLITS}} }"]
NOT_RUN = ("source", "git", "pip", "cd", "tensorboard", "bash", "torchrun")
TRAINED = "work_dirs/declip_r50_laptop"
WITH_FLAGS = "train replay test extract report_table print_config preview_views study plugins plan"


@dataclasses.dataclass
class Block:
    """A fenced block: its language, its text and the line that it begins on."""

    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(m[1], m[2], text[: m.start()].count("\n") + 1) for m in found]


def commands(block: Block) -> list[str]:
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        return [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


# -- commands and Python -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A checkout in which the laptop config has been trained for two steps."""
    folder = checkout(tmp_path_factory.mktemp("docs") / "trained")
    config = f"configs/{Path(TRAINED).name}.py"
    drive(folder, [("the fixture", "bash", f"python tools/train.py {config}")])
    return folder


def checkout(folder: Path, run: Path | None = None) -> Path:
    """Copies what documents name, with data of one's own beside it."""
    from .own_data import write_own_data  # not at the top: this file is also run as a script

    skip = shutil.ignore_patterns("__pycache__", "*.gz")
    for name in ("configs", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    for name in ("Makefile", "setup.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / "tests").mkdir()
    if run:
        shutil.copytree(run / TRAINED, folder / TRAINED)
    write_own_data(folder)
    return folder


def drive(folder: Path, steps: list[tuple[str, str, str]]) -> None:
    """Runs the steps ``(where, language, text)`` in one process of their own."""
    file = folder / "steps.json"
    file.write_text(json.dumps(steps))
    done = subprocess.run(
        [sys.executable, __file__, str(file)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_document_runs(document, trained, tmp_path):
    found = blocks((ROOT / document).read_text(encoding="utf-8"))
    steps = [
        (f"{document}, line {block.line}", block.language, text)
        for block in found
        if block.language in ("bash", "console", "python", "toml")
        for text in ([block.text] if block.language in ("python", "toml") else commands(block))
    ]
    if steps:
        drive(checkout(tmp_path / "checkout", run=trained), steps)


# The functions from here to `main` run in the process that `drive` starts.


def main(file: str) -> None:
    names: dict[str, object] = {"__name__": "documentation"}
    for where, language, text in json.loads(Path(file).read_text()):
        sys.stdout.write(f"{where}: {text.splitlines()[0]}\n")
        sys.stdout.flush()
        if language not in ("python", "toml"):
            run_command(text)
        elif place := re.match(r"# (\S+\.(py|toml))\n", text):
            write(Path(place[1]), text)
        elif language == "python":
            exec(compile(text, where, "exec"), names)
    for config in filter(lambda path: not (ROOT / path).exists(), Path("configs").glob("*.py")):
        check_config(str(config), [])


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def check_config(config: str, options: list[str]) -> None:
    from webssl_toolbox.engine.config import load_config
    from webssl_toolbox.engine.settings import settings_from

    settings_from(load_config(config, options))


def run_command(line: str) -> None:
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        os.environ[name] = value
    program, *rest = words
    if (program, rest[:1], rest[-2:-1]) == ("pip", ["install"], ["-e"]) and rest[-1] != ".":
        install(Path(rest[-1]))
    if program in NOT_RUN:
        return
    if program == "make":
        subprocess.run(["make", "-n", *rest], check=True)
    elif program in ("tools/dist_train.sh", "tools/slurm_train.sh"):
        launch(words)
    elif (program, rest[0]) == ("python", "tools/train.py"):
        train(rest)
    elif (program, rest[0]) == ("python", "tools/test.py"):
        run_tool(with_options(rest, FEW))
    elif program == "python" and rest[0] in ("tools/print_config.py", "tools/preview_views.py"):
        run_tool(rest)
    elif program == "python" and rest[0] in ("tools/plugins.py", "tools/new_plugin.py"):
        subprocess.run([sys.executable, *rest], check=True)
    elif program == "python" and rest[0].startswith("tools/"):
        known = subprocess.check_output([sys.executable, rest[0], "--help"], text=True)
        for option in (word for word in rest if word.startswith("--")):
            assert re.search(rf"{option}\b", known), f"{rest[0]} has no {option}"
    elif program == "python":
        subprocess.run([sys.executable, *rest], check=True)
    else:
        raise AssertionError(f"no rule says how to check the command {line!r}")


def install(package: Path) -> None:
    """Writes the metadata that an editable install writes, into the working directory."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = Path(f"{project['name'].replace('-', '_')}-{project['version']}.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    for group, entries in project["entry-points"].items():
        lines = [f"[{group}]", *(f"{name} = {place}" for name, place in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines))
    os.environ["PYTHONPATH"] += f":{package.resolve()}"
    sys.path.append(str(package.resolve()))


def train(words: list[str]) -> None:
    config = Path(words[1])
    ours = (ROOT / config).exists() or words[1].startswith("webssl_toolbox::")
    if "--help" in words or config.stem.endswith("laptop") or not ours:
        run_tool(with_options(words, TINY))
    else:
        check_config(str(config), options_of(words))


def launch(words: list[str]) -> None:
    stubs = Path("stubs")
    stubs.mkdir(exist_ok=True)
    for name in ("torchrun", "sbatch"):
        (stubs / name).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (stubs / name).chmod(0o755)
    path = f"{stubs.resolve()}:{os.environ['PATH']}"
    started = subprocess.check_output(words, text=True, env=os.environ | {"PATH": path})
    started = started.splitlines()
    script = next(i for i, word in enumerate(started) if word.endswith("tools/train.py"))
    check_config(started[script + 1], options_of(started[script:]))


def options_of(words: list[str]) -> list[str]:
    if "--cfg-options" not in words:
        return []
    first = words.index("--cfg-options") + 1
    last = next((i for i in range(first, len(words)) if words[i].startswith("--")), len(words))
    return words[first:last]


def with_options(words: list[str], added: list[str]) -> list[str]:
    if "--help" in words:
        return words
    if "--cfg-options" not in words:
        return [*words, "--cfg-options", *added]
    last = words.index("--cfg-options") + 1 + len(options_of(words))
    return [*words[:last], *added, *words[last:]]


def run_tool(words: list[str]) -> None:
    """Runs a script; in this process, to save the import of torch, until plugins are installed."""
    import logging
    import runpy

    if list(Path().glob("*.dist-info")):  # plugins are loaded once in a process
        subprocess.run([sys.executable, *words], check=True)
        return
    logging.root.handlers.clear()
    sys.argv = words
    sys.path.append(str(Path(words[0]).parent))  # of its private neighbours
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as leave:
        if leave.code:
            raise


# -- links, names and tables -------------------------------------------------------------------


def prose(document: str) -> str:
    """Returns a document without its fenced blocks."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a file."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    bare = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in bare}


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.md", "SECURITY.md"])
def test_links_lead_somewhere(document):
    text = prose(document)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / document).parent / file if file else ROOT / document
        assert target.exists(), f"{document} links to {link}, which does not exist"
        if anchor:
            assert anchor in anchors(target), f"{document} links to {link}: no such heading"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    written = set(re.findall(r"^```python\n# (\S+\.py)$", text, re.MULTILINE))
    for name in re.findall(r"(?<![\w/.:-])((?:configs|tools|tests|plugins)/[\w./-]+\.\w+)", text):
        assert (ROOT / name).exists() or name in written, f"{document} names {name}"


def key_table(section: type) -> str:
    """Renders the keys of a settings dataclass, as docs/configs.md must hold them."""
    meaning = attributes(section)
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(section):
        if field.default is not dataclasses.MISSING:
            default = f"`{field.default!r}`"
        elif field.default_factory is not dataclasses.MISSING:
            made = field.default_factory()
            default = "its defaults" if dataclasses.is_dataclass(made) else f"`{made!r}`"
        else:
            default = "required"
        rows.append(f"| `{field.name}` | {default} | {meaning[field.name]} |")
    return "\n".join(rows)


def attributes(section: type) -> dict[str, str]:
    """Returns the ``Attributes:`` of a docstring, as Markdown."""
    _, _, listed = inspect.getdoc(section).partition("Attributes:\n")
    listed = re.sub(r"\n {8}", " ", listed)
    found = re.findall(r"^ {4}(\w+): (.+)$", listed, re.MULTILINE)
    return {name: text.replace("``", "`").replace("|", "\\|") for name, text in found}


def test_key_tables_equal_the_settings():
    from webssl_toolbox.engine import settings

    text = (ROOT / "docs/configs.md").read_text(encoding="utf-8")
    for section in (settings.Settings, *settings.SECTIONS.values()):
        table = key_table(section)
        assert table in text, f"docs/configs.md must hold:\n\n{table}"


def type_row(name: str, cls: type) -> str:
    """Renders the arguments of a registered class, as the tables of types must hold them."""
    parameters = inspect.signature(cls).parameters.values()
    given = [p.name if p.default is p.empty else f"{p.name}={shown(p.default)}" for p in parameters]
    return f"| `{name}` | `{', '.join(given)}` |" if given else f"| `{name}` | |"


def shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))}{',' * (len(value) == 1)})"
    return f"{value:.3g}" if isinstance(value, float) else repr(value)


@pytest.mark.parametrize("document", ["docs/configs.md", "docs/data.md"])
def test_type_tables_equal_the_signatures(document):
    """Rows are ``| `Name` | `arguments` | what it is |``, below a comment that names a registry."""
    from webssl_toolbox import registry

    tables = re.findall(r"^<!-- types: (\w+) -->\n((?:\|.*\n)+)", prose(document), re.MULTILINE)
    assert tables
    for kind, table in tables:
        _, _, *rows = table.splitlines()
        for row in rows:
            name = row.split("`")[1]
            wanted = type_row(name, getattr(registry, kind).get(name))
            assert row.startswith(wanted), f"{document} must say {wanted}"


@pytest.mark.parametrize("tool", [f"{name}.py" for name in WITH_FLAGS.split()])
def test_flag_table_equals_the_parser(tool):
    usage = subprocess.check_output([sys.executable, ROOT / "tools" / tool, "--help"], text=True)
    wanted = set(re.findall(r"(?<![\w-])(--[a-z-]+)", usage)) - {"--help"}
    text = (ROOT / "docs/configs.md").read_text(encoding="utf-8")
    section = re.search(rf"^### tools/{re.escape(tool)}\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.M)
    assert section, f"docs/configs.md has no section on tools/{tool}"
    rows = set(re.findall(r"^\| `(--[a-z-]+)", section[1], re.MULTILINE))
    assert rows == wanted


def test_counts_of_the_corpus():
    from webssl_plugins.datasets.emoji import SPLITS, Emoji

    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    for split in SPLITS:
        dataset = Emoji(split)
        row = f"| `{split}` | {len(dataset):,} | {len(dataset.classes):,} |"
        assert row in text, f"docs/data.md must say {row}"


if __name__ == "__main__":
    main(sys.argv[1])
