"""Writes a plugin package that installs, trains and passes its tests: tools/new_plugin.py NAME."""

from __future__ import annotations

import argparse
import re
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

from _terminal import fail

TEMPLATE = Path(__file__).parent / "templates" / "webssl-acme"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Writes webssl-NAME/: a plugin with an objective, a config and its tests."
    )
    parser.add_argument("name", metavar="NAME", help="letters, digits and _, such as my_signal")
    return parser.parse_args()


def main() -> None:
    name = parse().name
    try:
        folder = scaffold(name)
    except (ValueError, OSError) as error:
        fail(error)
    print(f"wrote {folder}/. Next:")
    print(f"  pip install -c constraints.txt -e {folder}")
    print(f"  python -m pytest {folder}")
    print(f"  python tools/train.py {name}::{name}.py")


def scaffold(name: str) -> Path:
    """Copies the template, with ``name`` for its own; returns the folder.

    Raises:
        ValueError: no package can have that name, or something has it already.
        FileExistsError: the folder exists.
    """
    folder = Path(f"webssl-{name}")  # no module name: it must not hide the package in it
    if folder.exists():
        raise FileExistsError(f"{folder} exists already: take another name, or remove it")
    title = "".join(word.capitalize() for word in name.split("_"))
    check_name(name, title)
    for source in sorted(TEMPLATE.rglob("*")):
        if source.suffix in (".py", ".toml"):
            target = folder / str(source.relative_to(TEMPLATE)).replace("acme", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8")
            target.write_text(text.replace("acme", name).replace("Acme", title), encoding="utf-8")
    return folder


def check_name(name: str, title: str) -> None:
    """Refuses what is no name, or that of a plugin, a package or an objective."""
    from webssl_toolbox import plugins
    from webssl_toolbox.registry import OBJECTIVES

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or iskeyword(name):
        raise ValueError(f"{name!r} cannot be a plugin's name: take lower-case letters, digits, _")
    plugins.load()
    names = {plugins.GROUP, *(entry.name for entry in plugins.installed())}
    objectives = {objective.lower() for objective in OBJECTIVES.module_dict}
    words = re.findall(r"\w+", (TEMPLATE / "webssl_acme/__init__.py").read_text(encoding="utf-8"))
    if name in names or title.lower() in objectives or find_spec(f"webssl_{name}"):
        raise ValueError(f"{name!r} is the name of something installed: take another one")
    if title != "Acme" and title in words:  # such as Objective, which the module imports
        raise ValueError(f"the class {title} would hide another of that name: take another one")


if __name__ == "__main__":
    main()
