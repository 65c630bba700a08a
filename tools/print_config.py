"""Checks a config and prints it with all that it inherits.

``python tools/print_config.py configs/declip_r50.py --cfg-options train_cfg.max_iters=100``
"""

from __future__ import annotations

import argparse
import sys


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Checks a config and prints it, resolved.")
    parser.add_argument("config", help="a Python config, such as configs/declip_r50_laptop.py")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override the config"
    )
    return parser.parse_args()


def main() -> None:
    args = parse()
    from mmengine.config import Config
    from webssl_toolbox.engine.config import load_config
    from webssl_toolbox.engine.settings import settings_from

    try:
        cfg = load_config(args.config, args.cfg_options)
        settings_from(cfg)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    shown = {key: value for key, value in cfg.items() if not key.startswith("_")}
    print(Config(shown).pretty_text.rstrip())


if __name__ == "__main__":
    main()
