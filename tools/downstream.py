"""Trains a config of mmpretrain or mmsegmentation with its own Runner, or tests what it trained.

``python tools/downstream.py CONFIG``; then ``python tools/downstream.py CONFIG --test FILE.pth``.
Those libraries' own scripts do as well; this one reads no checkpoint that could run code.
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path

from _mmengine_checkpoints import read_safely
from _terminal import fail, log
from mmengine.config import Config, DictAction


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="a config of mmpretrain or mmsegmentation")
    parser.add_argument("--work-dir", help="where to write (default: work_dirs/<config name>)")
    parser.add_argument("--resume", action="store_true", help="continue the run in the work dir")
    parser.add_argument("--test", metavar="CHECKPOINT", help="test these weights, train nothing")
    parser.add_argument("--tta", action="store_true", help="test by the tta_pipeline of the config")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="override the config: model.backbone.init_cfg.checkpoint=work_dirs/dino",
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="who started the ranks",
    )
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    log(logging.WARNING)
    warnings.simplefilter("ignore")  # the libraries deprecate things at one another
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))

    import torch
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from webssl_toolbox import dist
    from webssl_toolbox.compat import import_torchvision

    import_torchvision()
    read_safely()
    try:
        cfg = Config.fromfile(args.config)
        cfg.merge_from_dict(args.cfg_options)
        cfg.launcher = args.launcher
        default = f"work_dirs/{Path(args.config).stem}"
        cfg.work_dir = args.work_dir or cfg.get("work_dir") or default
        if args.resume:
            cfg.resume, cfg.load_from = True, None
        if args.test:
            cfg.resume, cfg.load_from = False, args.test
        if args.tta:
            cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
            cfg.model = cfg.tta_model | dict(module=cfg.model)
        if args.launcher == "pytorch" and not torch.cuda.is_available():
            # mmengine wants a GPU for each rank, and tells its wrapper which.
            dist.init(torch.device("cpu"))
            wrapper = dict(type="MMDistributedDataParallel", device_ids=None)
            cfg.model_wrapper_cfg = wrapper | dict(broadcast_buffers=False)
        runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
        runner.test() if args.test else runner.train()
    except (ValueError, OSError, ImportError, KeyError, TypeError, AttributeError) as error:
        if os.environ.get("WEBSSL_TRACEBACK"):
            raise
        if isinstance(error, ImportError):
            extras = "pip install 'webssl-toolbox[mmsegmentation]', or [mmpretrain]"
            reason = str(error).partition("\n")[0]
            fail(f"{reason}: is the library of {args.config} not installed? {extras}")
        said = str(error) if isinstance(error, ValueError | OSError) else repr(error)
        fail(f"{said}\n(WEBSSL_TRACEBACK=1 shows where)")
    finally:
        dist.shutdown()


if __name__ == "__main__":
    main()
