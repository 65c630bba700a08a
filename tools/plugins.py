"""Lists the installed plugins: ``python tools/plugins.py``.

Only metadata are read, so nothing of a plugin runs. ``--load`` imports them, as training would.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from importlib.metadata import EntryPoint
from importlib.util import find_spec

from _terminal import fail, plain


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Lists the installed plugins, from metadata.")
    parser.add_argument(
        "--load",
        action="store_true",
        help="import them: which are loaded, which are broken and why, and the names they bring",
    )
    return parser.parse_args()


def main() -> None:
    args = parse()
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from webssl_toolbox import plugins

    clash = None
    if args.load:
        try:
            with warnings.catch_warnings(action="ignore"):  # the table says what is broken
                plugins.load()
        except plugins.DuplicateName as error:
            clash = error
    states = Table("plugin", "distribution", "module", "state")
    names = Table("plugin", "brings", "names")
    found = {entry: state(entry, args.load) for entry in plugins.installed()}
    for entry, text in found.items():
        row = (entry.name, plugins.distribution(entry), entry.value, text)
        states.add_row(*map(escape, map(plain, row)))
        for kind, values in brings(entry).items():
            row = (entry.name, kind, ", ".join(values))
            names.add_row(*map(escape, map(plain, row)))
    Console().print(states, names)
    if clash:
        fail(clash)
    sys.exit(any(text.startswith("broken") for text in found.values()))


def state(entry: EntryPoint, loaded: bool) -> str:
    """Says what is known of a plugin: unless it was ``loaded``, whether its package is there."""
    from webssl_toolbox import plugins

    package = entry.module.partition(".")[0]
    if not plugins.is_admitted(entry):
        return "left out by WEBSSL_PLUGINS"
    if fault := plugins.fault(entry.name):
        return f"broken: {fault.removeprefix(f'{plugins.distribution(entry)}: ')}"
    if find_spec(package) is None:
        return f"broken: there is no package {package}"
    if loaded:
        return "not loaded" if plugins.brought(entry.name) is None else "loaded"
    return "installed"


def brings(entry: EntryPoint) -> dict[str, list[str]]:
    """Returns the names that a plugin registered, if it is loaded, and those of its configs."""
    from webssl_toolbox import plugins

    names = dict(plugins.brought(entry.name) or {})
    plugin = plugins.GROUP if plugins.is_builtin(entry) else entry.name
    try:
        folder = plugins.config_folder(plugin)
    except FileNotFoundError:
        return names
    files = (file.relative_to(folder) for file in sorted(folder.rglob("*.py")))
    configs = [file.as_posix() for file in files if "_base_" not in file.parts]
    return names | {f"configs {plugin}::": configs}


if __name__ == "__main__":
    main()
