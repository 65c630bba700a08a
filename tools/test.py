"""Evaluates a model: ``python tools/test.py configs/NAME.py work_dirs/NAME``.

The evaluators are the config's. The model, and how it sees images, are the checkpoint's; or those
of a second config, whose model has its own initial weights: any evaluators can measure any model.
Killed and started again, the same command goes on. Under torchrun, ranks share the work.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _shards
from _arguments import add_cfg_options
from _models import open_model
from _results import recipe
from _terminal import fail, log_of_first_rank

from webssl_plugins.hooks._pictures import save
from webssl_plugins.hooks._table import to_markdown, to_rich
from webssl_toolbox import dist
from webssl_toolbox.encoder import Encoder
from webssl_toolbox.evaluation.runner import Evaluation


class Session:
    """Evaluations of one model that outlive their process: what is finished is kept in a folder.

    Args:
        folder: where ``pictures`` are written, and ``parts`` are kept until all is done.
        model: what to measure.
    """

    def __init__(self, folder: Path, model: Encoder) -> None:
        self.folder, self.model, self.parts = folder, model, folder / "parts"
        self.encoded: list[Mapping[str, Any]] = []
        model.store_of = self._store

    def _store(self, cfg: Mapping[str, Any], count: int) -> _shards.Shards:
        self.encoded.append(cfg)
        name = _shards.key(self.model.origin, self.model.batch_size, cfg, count)
        described = " ".join(str(cfg[key]) for key in ("type", "split", "root") if key in cfg)
        return _shards.Shards(self.parts / name, count, described)

    def run(self, evaluators: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Returns what each evaluator finds; what was measured before is read.

        Returns:
            For each its ``metrics``, the ``samples`` of each split: those that have a label, and
            how many ``pictures`` it drew.
        """
        evaluation = Evaluation(evaluators)
        files = {
            name: self.parts / f"{_shards.key(self.model.origin, name, evaluators[name])}.json"
            for name in evaluation.evaluators
        }
        known = {name: json.loads(f.read_text("utf-8")) for name, f in files.items() if f.exists()}
        known, *_ = dist.meet("what is measured", known)  # what the first rank finds
        for name in [name for name in files if name not in known]:
            metrics, drawn = evaluation.run_one(name, self.model)
            splits = getattr(evaluation.evaluators[name], "splits", {})
            samples = {split: self._labelled(cfg) for split, cfg in splits.items()}
            known[name] = {"metrics": metrics, "samples": samples, "pictures": len(drawn)}
            if dist.rank() == 0:
                save(drawn, self.folder / "pictures")
                if None not in metrics.values():  # what is missing may be there later
                    _shards.write(files[name], json.dumps(known[name]))
        self._share_counts(evaluation, known)
        return {name: known[name] for name in files}

    @staticmethod
    def _share_counts(evaluation: Evaluation, known: Mapping[str, Any]) -> None:
        """Counts the samples of a test set for all evaluators, if one of them counted."""
        counts: dict[str, int] = {}
        for fill in (False, True):
            for name, part in known.items():
                for split, cfg in getattr(evaluation.evaluators[name], "splits", {}).items():
                    most = max(counts.get(str(cfg), 0), part["samples"].get(split, 0))
                    counts[str(cfg)] = most
                    if fill and most:
                        part["samples"][split] = most

    def _labelled(self, split: Mapping[str, Any]) -> int:
        cfg = split.get("dataset", split)  # in a suite a data set is one of several settings
        if cfg not in self.encoded:
            return 0
        return int((self.model.encode_dataset(cfg).labels >= 0).sum())

    def finish(self) -> None:
        """Removes what only a killed run needs."""
        shutil.rmtree(self.parts, ignore_errors=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluates a model.")
    parser.add_argument("config", help="the config whose evaluators are run")
    parser.add_argument(
        "model", help="a work dir, one step_... folder of its checkpoints, or a config"
    )
    add_cfg_options(parser, "evaluation.evaluators.knn=None")
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/test_<config>_<model>")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics there")
    parser.add_argument("--device", help="cuda or cpu (default: a GPU where there is one)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    log_of_first_rank()
    try:
        evaluate(args)
    except (ValueError, OSError) as error:
        fail(error)
    finally:
        dist.shutdown()


def evaluate(args: argparse.Namespace) -> None:
    from rich.console import Console

    from webssl_toolbox.engine.config import load_config
    from webssl_toolbox.engine.runner import find_device
    from webssl_toolbox.engine.settings import sections_of

    if Path(args.config).is_dir():
        raise ValueError(f"{args.config} is a folder: the config comes first, then the model")
    said = sections_of(load_config(args.config, args.cfg_options))
    evaluators = said["evaluation"].evaluators if "evaluation" in said else {}
    device = find_device(args.device)
    dist.init(device)
    folder = args.work_dir or work_dir(args)
    wanted = _shards.key({name: cfg for name, cfg in evaluators.items() if cfg is not None})
    claim(folder, args.model, wanted)
    session = Session(folder, open_model(args.model, device))
    found = session.run(evaluators)
    metrics = {name: value for part in found.values() for name, value in part["metrics"].items()}
    if dist.rank() > 0:
        return
    drawn = sum(part["pictures"] for part in found.values())
    if not metrics and not drawn:
        raise ValueError(f"{args.config} has no evaluation.evaluators that fit the model")
    config, step = (session.model.origin[name] for name in ("config", "step"))
    results = {
        "config": args.config,
        "model": args.model,
        "evaluators": wanted,
        "recipe": recipe(config, step),
        "seed": config.get("seed", 0),
        "metrics": metrics,
        "samples": {name: part["samples"] for name, part in found.items() if part["samples"]},
    }
    _shards.write(folder / "results.json", json.dumps(results, indent=2) + "\n")
    _shards.write(folder / "results.md", to_markdown(metrics, {}))
    if args.json:
        args.json.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    session.finish()
    if metrics:
        Console(width=100).print(to_rich(metrics, {}))
    if drawn:
        print(f"{drawn} pictures in {folder / 'pictures'}")


def work_dir(args: argparse.Namespace) -> Path:
    """Returns a folder named after the config and the model, of whose steps each has its own."""
    config, model = (str(name).rpartition("::")[2] for name in (args.config, args.model))
    parts = [part for part in Path(model).resolve().parts if part != "checkpoints"]
    kept = parts[-2:] if parts[-1].startswith("step_") else parts[-1:]
    if kept[-1].endswith(".py"):  # a work dir is mostly named after its config
        kept = [kept[-1].removesuffix(".py"), "initial"]
    return Path("work_dirs", "_".join(["test", Path(config).stem, *kept]))


def claim(folder: Path, model: str, evaluators: str) -> None:
    """Refuses a folder with results that this command would replace by others.

    Args:
        folder: may hold the results of an earlier command.
        model: as on the command line.
        evaluators: a digest of their configs.

    Raises:
        ValueError: they are of another model, or of other evaluators; on all ranks.
    """
    file, error = folder / "results.json", None
    if file.exists():
        try:
            said = json.loads(file.read_text("utf-8"))
            ours = (resolved(said["model"]), said["evaluators"]) == (resolved(model), evaluators)
        except (ValueError, LookupError, TypeError):  # of an earlier version, or of other software
            ours = False
        if not ours:
            error = ValueError(
                f"{folder} holds results, but not of this model and these evaluators; choose "
                "another --work-dir, or delete it"
            )
    dist.meet(str(file), error=error)


def resolved(model: str) -> str:
    """Returns the same name for all ways to write a path; a config of a package is none."""
    return model if "::" in model else str(Path(model).resolve())


if __name__ == "__main__":
    main()
