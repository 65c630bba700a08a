"""Evaluates a trained model: ``python tools/test.py configs/NAME.py work_dirs/NAME``.

The evaluators are the config's, the model and how it sees images are the checkpoint's: any config's
evaluators can measure any model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from _arguments import add_cfg_options
from _terminal import fail, log


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluates a trained model.")
    parser.add_argument("config", help="the config whose evaluators are run")
    parser.add_argument("checkpoint", help="a work dir, or one step_... folder of its checkpoints")
    add_cfg_options(parser, "evaluation.evaluators.knn=None")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics there")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write pictures there")
    parser.add_argument("--device", help="cuda or cpu (default: a GPU where there is one)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    log()

    from rich.console import Console

    from webssl_toolbox import load
    from webssl_toolbox.engine.config import load_config
    from webssl_toolbox.engine.runner import find_device
    from webssl_toolbox.engine.settings import settings_from
    from webssl_toolbox.evaluation import pictures
    from webssl_toolbox.evaluation.runner import Evaluation
    from webssl_toolbox.evaluation.table import to_rich

    try:
        settings = settings_from(load_config(args.config, args.cfg_options))
        evaluation = Evaluation(settings.evaluation.evaluators)
        metrics, drawn = evaluation.run(load(args.checkpoint, find_device(args.device)))
        if not metrics and not drawn:
            raise ValueError(f"{args.config} has no evaluation.evaluators that fit the checkpoint")
        if metrics:
            Console(width=100).print(to_rich(metrics, {}))
        if args.json:
            args.json.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        if args.pictures:
            pictures.save(drawn, args.pictures)
            print(f"{len(drawn)} pictures written to {args.pictures}")
        elif drawn:
            print(f"{len(drawn)} pictures drawn; --pictures FOLDER writes them")
    except (ValueError, OSError) as error:
        fail(error)


if __name__ == "__main__":
    main()
