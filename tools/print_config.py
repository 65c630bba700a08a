"""Checks a config and prints it with all that it inherits.

``python tools/print_config.py configs/declip_r50.py --cfg-options train_cfg.max_iters=100``
"""

from __future__ import annotations

import argparse
import sys
from keyword import iskeyword
from typing import Any


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Checks a config and prints it, resolved.")
    parser.add_argument("config", help="a Python config, such as configs/declip_r50_laptop.py")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override the config",
    )
    return parser.parse_args()


def main() -> None:
    args = parse()
    from webssl_toolbox.engine.config import load_config
    from webssl_toolbox.engine.settings import settings_from

    try:
        cfg = load_config(args.config, args.cfg_options)
        settings_from(cfg)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for key, value in cfg.items():
        if not key.startswith("_"):
            print(f"{key} = {render(value)}")


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
