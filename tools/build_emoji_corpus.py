"""Rebuilds the embedded corpus `emoji` from the npm packages that publish it.

    python tools/build_emoji_corpus.py                # download, write plugins/datasets/emoji_data
    python tools/build_emoji_corpus.py --check        # compare with what is shipped; 1 if different
    python tools/build_emoji_corpus.py --from node_modules

The corpus holds drawings of the emojibase concepts without skin tones, by independent design teams
under permissive licences, and captions in every language of emojibase. A concept is named by its
code points without the variation selector, `1f469-200d-1f52c`: sets disagree on the selector.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import resvg_py

from webssl_toolbox.data.rng import stable_hash

OUTPUT = Path(__file__).parents[1] / "plugins/datasets/emoji_data"
LICENCES = {"Apache-2.0", "MIT", "CC-BY-4.0"}
CAPTIONS = ("emojibase-data", "17.0.0")
CHANGES = "a selection, each drawing wrapped into a square SVG document"  # CC-BY asks to tell
NUM_UNSEEN = 200
NEAR_DUPLICATE_RMSE = 0.08
NEAR_DUPLICATE_SIZE = 64

Drawings = dict[str, str]  # concept -> SVG document


class Designer(NamedTuple):
    package: str
    version: str
    train: bool


DESIGNERS = {
    "noto": Designer("@iconify-json/noto", "1.2.9", True),
    "twemoji": Designer("@iconify-json/twemoji", "1.2.5", True),
    "emojione": Designer("@iconify-json/emojione", "1.2.3", True),
    "noto-v1": Designer("@iconify-json/noto-v1", "1.2.5", False),
    "fluent-flat": Designer("@iconify-json/fluent-emoji-flat", "1.2.6", False),
    "fluent-high-contrast": Designer("@iconify-json/fluent-emoji-high-contrast", "1.2.6", False),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--from", dest="source", type=Path, help="folder as npm lays it out")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = build(args.source or download(Path(folder)))
    return check(files) if args.check else write(files)


def download(folder: Path) -> Path:
    """Fetches and unpacks the pinned packages as ``folder/<package>``."""
    for package, version in [CAPTIONS, *(d[:2] for d in DESIGNERS.values())]:
        pack = ["npm", "pack", "--silent", f"{package}@{version}", f"--pack-destination={folder}"]
        tarball = subprocess.run(pack, check=True, capture_output=True, text=True).stdout.strip()
        with tarfile.open(folder / tarball) as archive:
            archive.extractall(folder / "unpacked", filter="data")
        (folder / package).parent.mkdir(exist_ok=True)
        (folder / "unpacked/package").rename(folder / package)
    return folder


def build(source: Path) -> dict[str, bytes]:
    """Returns the content of every shipped file, uncompressed, by file name."""
    emojibase, captions_source = open_package(source, *CAPTIONS)
    base = {concept_key(e["hexcode"]): e for e in read_json(emojibase / "en/data.json")}
    languages = sorted(path.parent.name for path in emojibase.glob("*/data.json"))
    captions = {x: read_captions(emojibase / x / "data.json", base.keys()) for x in languages}

    packages = {
        name: open_package(source, designer.package, designer.version)
        for name, designer in DESIGNERS.items()
    }
    names = icon_names([folder for folder, _ in packages.values()], base.keys())
    drawings = {name: match(folder, names) for name, (folder, _) in packages.items()}
    unseen = choose_unseen(base, drawings)
    copies = near_duplicates(drawings["noto-v1"], drawings)
    concepts = {
        key: {
            **group_names(entry, read_json(emojibase / "meta/groups.json")),
            "designers": [name for name in drawings if key in drawings[name]],
            "unseen": key in unseen,
            "near_duplicates": ["noto-v1"] if key in copies else [],
        }
        for key, entry in base.items()
    }
    sources = {"captions": captions_source | {"languages": languages}} | {
        name: info | {"drawings": len(drawings[name]), "changes": CHANGES}
        for name, (_, info) in packages.items()
    }
    return {
        "sources.json": encode(sources, indent=1),
        "concepts.json.gz": encode(concepts),
        **{f"captions-{name}.json.gz": encode(found) for name, found in captions.items()},
        **{f"drawings-{name}.json.gz": encode(found) for name, found in drawings.items()},
    }


def open_package(source: Path, package: str, version: str) -> tuple[Path, dict[str, str]]:
    """Returns the folder of a package and where it comes from.

    Raises:
        FileNotFoundError: the package is not in ``source``.
        ValueError: another version, or a licence that does not permit shipping.
    """
    folder = source / package
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: run `npm install {package}@{version}` beside it")
    about = read_json(folder / "package.json")
    if about["version"] != version:
        raise ValueError(f"{folder} is version {about['version']}, the corpus pins {version}")
    info = read_json(folder / "info.json") if (folder / "info.json").exists() else {}
    page = f"https://www.npmjs.com/package/{package}"
    author = info.get("author") or {"name": about["author"], "url": page}
    licence = info["license"]["spdx"] if info else about["license"]
    if licence not in LICENCES:
        raise ValueError(f"{package}: licence {licence} is not one of {sorted(LICENCES)}")
    facts = {"package": package, "version": version, "licence": licence}
    return folder, facts | {"author": author["name"], "url": author["url"]}


def concept_key(hexcode: str) -> str:
    return "-".join(point for point in hexcode.lower().split("-") if point != "fe0f")


def read_captions(path: Path, concepts: Iterable[str]) -> dict[str, list[str]]:
    """Returns concept -> its label, then its tags."""
    found = {
        concept_key(entry["hexcode"]): [entry["label"], *entry.get("tags", [])]
        for entry in read_json(path)
    }
    return {key: found[key] for key in concepts}


def group_names(entry: dict[str, Any], names: dict[str, Any]) -> dict[str, str | None]:
    return {
        kind: names[f"{kind}s"][str(entry[kind])] if kind in entry else None
        for kind in ("group", "subgroup")
    }


def icon_names(folders: list[Path], concepts: Iterable[str]) -> dict[str, list[str]]:
    """Returns the names by which the sets that list code points know each concept."""
    names: dict[str, list[str]] = {key: [] for key in concepts}
    for folder in folders:
        for code, name in read_json(folder / "chars.json").items():
            known = names.get(concept_key(code))
            if known is not None and name not in known:
                known.append(name)
    return names


def match(folder: Path, names: dict[str, list[str]]) -> Drawings:
    """Finds the drawing of each concept in one icon set, by code point or else by name.

    By name an alias counts only if it shows no other concept: sets without code points file the
    insect `cricket` under the bat and ball of `cricket-game`.
    """
    icons = read_json(folder / "icons.json")
    drawn, aliases = icons["icons"], icons.get("aliases", {})
    codes = {concept_key(c): n for c, n in read_json(folder / "chars.json").items()}
    found = {key: codes[key] for key in names if key in codes}
    if not codes:
        found = first_name(names, drawn)
        shown = set(found.values())
        named = first_name(names, {n for n in aliases if aliases[n]["parent"] not in shown})
        found = named | found
    return {key: svg_document(icons, name) for key, name in found.items()}


def first_name(names: dict[str, list[str]], held: Collection[str]) -> dict[str, str]:
    hits = {key: [name for name in known if name in held] for key, known in names.items()}
    return {key: known[0] for key, known in hits.items() if known}


def svg_document(icons: dict[str, Any], name: str) -> str:
    """Returns a square SVG of one icon; the odd one with a size of its own is fitted into it."""
    alias = icons.get("aliases", {}).get(name, {})
    icon = icons["icons"][alias.get("parent", name)] | alias
    side, body = icons["width"], icon["body"]
    unknown = icon.keys() - {"body", "parent", "hidden", "width", "height"}
    if unknown or icons["height"] != side:
        raise ValueError(f"{icons['prefix']}:{name} needs {sorted(unknown)} or is not square")
    box = f"0 0 {icon.get('width', side)} {icon.get('height', side)}"
    if box != f"0 0 {side} {side}":
        body = f'<svg width="{side}" height="{side}" viewBox="{box}">{body}</svg>'
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="0 0 {side} {side}">{body}</svg>'


def choose_unseen(base: dict[str, dict[str, Any]], drawings: dict[str, Drawings]) -> set[str]:
    """Chooses the concepts that no training split holds, in proportion to the subgroups.

    Whether a designer that tests them drew them plays no part, so that they are a fair sample. A
    hash decides, so the choice depends on no seed and no order.
    """
    eligible = {k for n, designer in DESIGNERS.items() if designer.train for k in drawings[n]}
    subgroups = defaultdict(list)
    for key in eligible:
        subgroups[base[key].get("subgroup")].append(key)
    unseen = set()
    for keys in subgroups.values():
        keys.sort(key=lambda key: stable_hash(f"unseen/{key}"))
        unseen.update(keys[: round(NUM_UNSEEN * len(keys) / len(eligible))])
    return unseen


def near_duplicates(tested: Drawings, drawings: dict[str, Drawings]) -> set[str]:
    """Returns the concepts that ``tested`` draws nearly as a designer of the training set does."""
    found = set()
    for key, svg in tested.items():
        image = on_white(svg)
        for name, designer in DESIGNERS.items():
            if designer.train and key in drawings[name]:
                rmse = np.sqrt(np.mean((image - on_white(drawings[name][key])) ** 2))
                if rmse < NEAR_DUPLICATE_RMSE:
                    found.add(key)
    return found


def on_white(svg: str) -> np.ndarray:
    side = NEAR_DUPLICATE_SIZE
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, background="#ffffff")
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(np.float32) / 255


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def encode(content: Any, indent: int | None = None) -> bytes:
    separators = None if indent else (",", ":")
    text = json.dumps(
        content, ensure_ascii=False, sort_keys=True, indent=indent, separators=separators
    )
    return f"{text}\n".encode()


def write(files: dict[str, bytes]) -> int:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        packed = gzip.compress(content, 9, mtime=0) if name.endswith(".gz") else content
        (OUTPUT / name).write_bytes(packed)
        print(f"{len(packed):>9,} {OUTPUT / name}")
    return 0


def check(files: dict[str, bytes]) -> int:
    shipped = {
        path.name: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in OUTPUT.iterdir()
    }
    different = [n for n in sorted(files.keys() | shipped) if files.get(n) != shipped.get(n)]
    print(f"different: {', '.join(different)}" if different else "the shipped corpus is current")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
