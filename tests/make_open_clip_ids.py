"""Writes ``tests/data/open_clip_ids.json.gz``: assorted strings, and their ids by open_clip.

``pip install --no-deps open_clip_torch regex``, then ``python -m tests.make_open_clip_ids``. Only
open_clip's file ``tokenizer.py`` is loaded, so its other dependencies need not be there. Only code
points of Unicode 14, which Python 3.11 knows, are drawn: `regex` and `tokenizers` follow different
later versions of the standard.
"""

from __future__ import annotations

import gzip
import json
import random
import unicodedata
from collections.abc import Iterator
from importlib import util
from importlib.metadata import version
from pathlib import Path
from typing import Any

from webssl_plugins.datasets._emoji_render import read_data

FILE = Path(__file__).parent / "data" / "open_clip_ids.json.gz"
LANGUAGES = "bn da de en es et fi fr hi hu it ja ko lt ms nb nl pl pt ru sv th uk vi zh zh-hant"
WEB = [
    "https://example.org/{a}/{b}?q={c}%20d&x=1#{a}",
    "<p>{a} &amp; {b}</p> &lt;{c}&gt; &nbsp;&#8212; &amp;amp; &#x27;s",
    "@{a} #{b} RT: {c}!!! :-) <3 ;)",
    '{{"{a}": [{c}, 1.5e-3], "{b}": null}}',
    "{a}_{b}.JPG IMG_2041 {c} (1920x1080) \u00a9 2019",
    "{a}'s they'LL {b}'re I'd \u2019tis \u201c{c}\u201d \u2014 {b}\u2026",
    "\u00e2\u20ac\u0153{a}\u00e2\u20ac\u009d caf\u00c3\u00a9 {b}\t{c}\r\n\x00\x1b[0m\u200b\ufeff",
]
# Blocks from which whole strings are drawn, so that words of one script form.
SCRIPTS = [
    (0x20, 0x7F), (0x0, 0x20), (0xA0, 0x250), (0x250, 0x370), (0x370, 0x530), (0x590, 0x700),
    (0x900, 0xE00), (0xE00, 0x1100), (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2E00),
    (0x3000, 0x3200), (0x4E00, 0x5200), (0xAC00, 0xB000), (0xE000, 0xE080), (0xF900, 0x10000),
    (0x10000, 0x10400), (0x1D400, 0x1D800), (0x1F000, 0x1FA00), (0x20000, 0x20200),
    (0xE0000, 0xE0200),
]  # fmt: skip


def captions(draw: random.Random) -> Iterator[str]:
    """Emoji captions of each language; some of them many in one string, for truncation."""
    for language in LANGUAGES.split():
        words = [word for entry in read_data(f"captions-{language}").values() for word in entry]
        yield from draw.sample(words, 12)
        for count in (3, 9, 27, 81):
            yield "  ".join(draw.sample(words, count)).title()


def web(draw: random.Random) -> Iterator[str]:
    """Addresses, markup, mojibake and control characters around English words."""
    words = [entry[0] for entry in read_data("captions-en").values()]
    for pattern in WEB * 20:
        a, b, c = draw.sample(words, 3)
        yield pattern.format(a=a, b=b.upper(), c=c)


def characters(draw: random.Random) -> Iterator[str]:
    """Characters of one script, or of all."""
    known = [
        [chr(c) for c in range(*block) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
        for block in SCRIPTS
    ]
    everything = [char for block in known for char in block]
    while True:
        for letters in [*known, everything, everything]:
            mixed = letters + [" "] * (len(letters) // 6)
            yield "".join(draw.choices(mixed, k=int(2 ** draw.uniform(0, 8))))


def main() -> None:
    """Draws 1,000 different strings and writes them with their ids."""
    draw = random.Random(0)
    texts = dict.fromkeys(["", " ", *captions(draw), *web(draw)])
    for text in characters(draw):
        if len(texts) == 1000:
            break
        texts[text] = None
    found: Any = util.find_spec("open_clip")
    file = Path(found.submodule_search_locations[0]) / "tokenizer.py"
    spec: Any = util.spec_from_file_location("open_clip_tokenizer", file)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = module.SimpleTokenizer()
    rows = tokenizer(list(texts)).tolist()  # padded to 77 with 0, which is also the id of "!"
    ids = [row[: row.index(tokenizer.eot_token_id) + 1] for row in rows]
    content = {
        "source": f"open_clip_torch {version('open_clip_torch')}, SimpleTokenizer",
        "licence": "MIT",
        "texts": list(texts),
        "ids": ids,
    }
    FILE.write_bytes(gzip.compress(json.dumps(content).encode(), mtime=0))


if __name__ == "__main__":
    main()
