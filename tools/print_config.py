"""Checks a config and prints it with all that it inherits, or its parameter groups.

``python tools/print_config.py configs/declip_r50.py --cfg-options train_cfg.max_iters=100``
"""

from __future__ import annotations

import argparse
from keyword import iskeyword
from typing import Any

from _arguments import add_cfg_options
from _terminal import fail


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Checks a config and prints it, resolved.")
    parser.add_argument("config", help="a Python config, such as configs/declip_r50_laptop.py")
    add_cfg_options(parser)
    parser.add_argument(
        "--param-groups",
        action="store_true",
        help="run a step without numbers, and print the parameter groups of each optimizer",
    )
    return parser.parse_args()


def main() -> None:
    args = parse()
    from webssl_toolbox.engine.config import load_config
    from webssl_toolbox.engine.settings import settings_from

    try:
        cfg = load_config(args.config, args.cfg_options)
        settings = settings_from(cfg)
        if args.param_groups:
            print_groups(settings)
            return
    except (ValueError, OSError) as error:
        fail(error)
    for key, value in cfg.items():
        if not key.startswith("_"):
            print(f"{key} = {render(value)}")


def print_groups(settings: Any) -> None:
    """Prints the parameter groups of each optimizer: what is in them, their rates and decay.

    A group is named by the outermost modules in it; of those that hold matrices (decayed) and
    others (not), by the same name in two rows.
    """
    from rich.console import Console
    from rich.table import Table

    from webssl_toolbox.engine.dry_run import dry_run
    from webssl_toolbox.engine.groups import outermost
    from webssl_toolbox.engine.parts import split

    console = Console(width=120, highlight=False)
    parts = split(settings.optim_wrapper, dry_run(settings.model))
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for part in parts:
        for name, parameter in part.parameters.items():
            kinds[parameter.ndim >= 2].append(name)
    for part in parts:
        lr, decay = (show(part.cfg.get(key, "torch's")) for key in ("lr", "weight_decay"))
        of = f" of {part.of}" if part.of else ""
        console.print(f"{part.where}{of}: {part.cfg['type']}, lr {lr}, weight decay {decay}")
        table = Table("group")
        for column in ("tensors", "parameters", "lr x", "weight decay x", "frozen steps"):
            table.add_column(column, justify="right")
        for share, group in part.groups.items():
            modules = dict.fromkeys(
                module
                for kind in kinds.values()
                for module in outermost([name for name in kind if name in group], kind)
            )
            count = sum(parameter.numel() for parameter in group.values())
            multipliers = (f"{value:.4g}" for value in (share.lr_mult, share.decay_mult))
            row = (", ".join(modules), f"{len(group)}", f"{count:,}", *multipliers)
            table.add_row(*row, f"{share.freeze:,}")
        console.print(table)


def show(schedule: Any) -> str:
    """Writes a number or a schedule on one line."""
    if not isinstance(schedule, dict):
        return str(schedule)
    values = (f"{key}={value}" for key, value in schedule.items() if key != "type")
    return f"{schedule['type']} {' '.join(values)}"


def render(value: Any, indent: int = 0) -> str:
    """Formats plain data as a config would write it."""
    if isinstance(value, dict):
        named = all(key.isidentifier() and not iskeyword(key) for key in value)
        start, end = ("dict(", ")") if named else ("{", "}")
        parts = [
            (f"{key}=" if named else f"{key!r}: ") + render(entry, indent + 4)
            for key, entry in value.items()
        ]
    elif isinstance(value, list | tuple):
        start, end = ("[", "]") if isinstance(value, list) else ("(", ")")
        parts = [render(entry, indent + 4) for entry in value]
    else:
        return repr(value)
    line = ", ".join(parts) + ("," if isinstance(value, tuple) and len(value) == 1 else "")
    if "\n" not in line and indent + len(line) <= 80:
        return f"{start}{line}{end}"
    rows = "".join(f"\n{' ' * (indent + 4)}{part}," for part in parts)
    return f"{start}{rows}\n{' ' * indent}{end}"


if __name__ == "__main__":
    main()
