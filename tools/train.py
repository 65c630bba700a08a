"""Trains a config: ``python tools/train.py configs/declip_r50.py``."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from pathlib import Path

from _arguments import add_cfg_options
from _terminal import fail, log


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="a Python config, such as configs/declip_r50_laptop.py")
    parser.add_argument("--work-dir", help="where to write (default: work_dirs/<config name>)")
    parser.add_argument("--resume", action="store_true", help="continue the run in the work dir")
    add_cfg_options(parser, "train_cfg.max_iters=100 model.objectives.mlm=None")
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm"],
        default="none",
        help="who started the ranks: slurm reads its variables, torchrun needs no word",
    )
    parser.add_argument("--device", help="cuda or cpu (default: a GPU where there is one)")
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    log(logging.WARNING)
    rank = launch(args.launcher)
    logging.getLogger("webssl_toolbox").setLevel(logging.INFO if rank == 0 else logging.ERROR)

    import torch

    from webssl_toolbox import dist
    from webssl_toolbox.engine.config import find_config, load_config
    from webssl_toolbox.engine.finite import NonFinite
    from webssl_toolbox.engine.runner import Runner

    try:
        config = find_config(args.config)
        cfg = load_config(config, args.cfg_options)
        work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{config.stem}"
        resume = args.resume or started_again()
        runner = Runner(cfg, Path(work_dir), resume=resume, device=args.device)
        smaller = config.with_name(f"{config.stem}_laptop.py")
        if runner.device.type == "cpu" and smaller.exists():
            runner.logger.warning("%s is slow on a CPU: %s is made for one", config, smaller)
        runner.train()
    except (ValueError, OSError, NonFinite, torch.OutOfMemoryError) as error:
        if os.environ.get("WEBSSL_TRACEBACK"):
            raise
        fail(f"{explain(error)}\n(WEBSSL_TRACEBACK=1 shows where)")
    except KeyboardInterrupt:  # before training, which hears signals itself
        sys.exit(130)
    finally:
        dist.shutdown()


def explain(error: Exception) -> str:
    """Returns an error as a sentence; those of the system and of torch do not say what to do."""
    if isinstance(error, OSError) and error.errno:
        place = error.filename or "the work dir"
        return f"{place}: {error.strerror}; check the path, its permissions and the space left"
    if type(error).__name__ == "OutOfMemoryError":
        reason = str(error).partition(". ")[0]
        return f"{reason}; raise model.chunks, or lower train_dataloader.batch_size"
    return str(error)


def started_again() -> bool:
    """Tells whether torchrun, after a failure, or SLURM, after a requeue, repeats this command."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(int(os.environ.get(count, "0")) > 0 for count in counts)


def launch(launcher: str) -> int:
    """Brings what SLURM sets in the environment into torch's names; returns the rank."""
    if launcher == "slurm":
        if "SLURM_PROCID" not in os.environ:
            sys.exit("error: --launcher slurm outside of SLURM; start with tools/slurm_train.sh")
        os.environ["RANK"] = os.environ["SLURM_PROCID"]
        os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
        os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]
        if "MASTER_ADDR" not in os.environ:
            nodes = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
            hosts = subprocess.check_output(nodes, text=True)
            os.environ["MASTER_ADDR"] = hosts.splitlines()[0]
        # A port of its own for each job, as two jobs may share a node.
        port = 20000 + int(os.environ.get("SLURM_JOB_ID", "9500")) % 20000
        os.environ.setdefault("MASTER_PORT", str(port))
    return int(os.environ.get("RANK", "0"))


if __name__ == "__main__":
    main()
