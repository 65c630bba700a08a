"""Arguments that several scripts take."""

from argparse import ArgumentParser


def add_cfg_options(parser: ArgumentParser, example: str = "") -> None:
    """Adds ``--cfg-options``, whose help may end with an example."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override the config" + (f": {example}" if example else ""),
    )
