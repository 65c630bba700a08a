"""Folders and lists of images: real small files, good and broken."""

import json
import pickle
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from webssl_plugins.datasets._common import PackedStrings
from webssl_plugins.datasets.folder import ImageFolder
from webssl_plugins.datasets.image_text import ImageTextList
from webssl_toolbox.data import image as image_reading
from webssl_toolbox.data.image import read_image
from webssl_toolbox.data.sample import UnreadableSample

RNG = np.random.default_rng(0)


def picture(height=24, width=40):
    """A smooth image without symmetry, so that JPEG keeps it and a wrong rotation shows."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([255 * x / width, 255 * y / height, 128 + 60 * np.sin(x / 5)], axis=-1)
    return rgb.astype(np.uint8)


def saved(path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture()) if image is None else image
    image.save(path, **options)
    return path


def differ(a, b):
    assert a.shape == b.shape
    assert a.dtype == np.uint8
    return np.abs(a.astype(int) - b.astype(int)).mean()


# ---- reading images ----


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.bmp", "x.gif"])
def test_formats(tmp_path, name):
    path = saved(tmp_path / name, **({"quality": 95} if name == "x.jpg" else {}))
    image = read_image(path)
    assert differ(image, picture()) < 8
    assert image.flags.c_contiguous
    assert np.array_equal(image, read_image(path.read_bytes()))


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.bmp"])
def test_gray_becomes_rgb(tmp_path, name):
    gray = Image.fromarray(picture()).convert("L")
    image = read_image(saved(tmp_path / name, gray))
    assert differ(image, np.asarray(gray.convert("RGB"))) < 3


def test_cmyk_jpeg_has_the_right_colours(tmp_path):
    cmyk = Image.fromarray(picture()).convert("CMYK")
    assert differ(read_image(saved(tmp_path / "x.jpg", cmyk, quality=95)), picture()) < 4


@pytest.mark.parametrize("name", ["x.png", "x.webp"])
def test_alpha_is_kept(tmp_path, name):
    rgba = np.dstack([picture(), np.linspace(1, 255, 24 * 40).reshape(24, 40).astype(np.uint8)])
    image = read_image(saved(tmp_path / name, Image.fromarray(rgba), lossless=True))
    assert differ(image, rgba) == 0


@pytest.mark.parametrize("alpha", [False, True])
def test_palette_png(tmp_path, alpha):
    palette = Image.fromarray(picture()).quantize(8)
    options = {"transparency": bytes([0, 128, *[255] * 6])} if alpha else {}
    path = saved(tmp_path / "x.png", palette, **options)
    expected = np.asarray(Image.open(path).convert("RGBA" if alpha else "RGB"))
    assert expected[..., -1].min() < 255
    assert differ(read_image(path), expected) == 0


@pytest.mark.parametrize("gray", [False, True])
def test_16_bit_png_becomes_8_bit(tmp_path, gray):
    wide = picture()[..., 0].astype(np.uint16) * 257 if gray else picture().astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "x.png"), wide if gray else wide[..., ::-1])
    expected = np.repeat(picture()[..., :1], 3, axis=2) if gray else picture()
    assert differ(read_image(tmp_path / "x.png"), expected) == 0
    without_end = (tmp_path / "x.png").read_bytes()[:-12]  # OpenCV refuses it, Pillow reads it
    assert differ(read_image(without_end), expected) == 0


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / name, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    image = read_image(path)
    assert differ(image, upright) < 2
    assert image.flags.c_contiguous


def test_phone_jpeg_with_a_second_picture(tmp_path):
    second = Image.fromarray(picture()[::-1])
    path = saved(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[second])
    assert differ(read_image(path), picture()) < 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_lose_the_picture(tmp_path):
    path = saved(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    assert read_image(path).shape == (24, 40, 3)


def encoded(format, **options):
    stream = BytesIO()
    Image.fromarray(picture()).save(stream, format, **options)
    return stream.getvalue()


BROKEN = {
    "empty.jpg": b"",
    "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
    "half.jpg": encoded("JPEG")[:-200],
    "half.png": encoded("PNG")[:-200],
    "half.webp": encoded("WEBP")[:-100],
    "half.bmp": encoded("BMP")[:-200],
    "start.jpg": encoded("JPEG")[:30],
    "flipped.png": bytes(b ^ (i % 97 == 60) * 255 for i, b in enumerate(encoded("PNG"))),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    with pytest.raises(UnreadableSample, match=name):
        read_image(path)
    with pytest.raises(UnreadableSample, match=r"shard\.tar/7"):
        read_image(BROKEN[name], name="shard.tar/7")


def test_missing_file_is_unreadable(tmp_path):
    with pytest.raises(UnreadableSample, match=r"gone\.jpg.*No such file"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP"])
def test_a_bomb_is_refused_from_its_header(format, monkeypatch):
    monkeypatch.setattr(image_reading, "MAX_PIXELS", 24 * 40 - 1)
    monkeypatch.setattr(image_reading, "_decode", None)
    with pytest.raises(UnreadableSample, match="40 x 24 pixels"):
        read_image(encoded(format))


def test_a_bomb_of_gigapixels():
    data = bytearray(encoded("PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(UnreadableSample, match="3600000000"):
        read_image(bytes(data))


# ---- folders ----


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for name in ("dog/b.JPG", "dog/deep/a.png", "cat/z.webp", "cat/a.jpeg", ".trash/x.jpg"):
        saved(root / name, format={"G": "JPEG"}.get(name[-1]))
    (root / "dog" / "notes.txt").write_text("no image")
    (root / "dog" / "._b.jpg").write_bytes(b"AppleDouble")
    (root / "empty").mkdir()
    return root


def keys(dataset):
    return [dataset.load(index, RNG).key for index in range(len(dataset))]


def test_folder_lists_nested_images(folder):
    saved(folder / "top.bmp")
    dataset = ImageFolder(str(folder))
    assert keys(dataset) == ["top.bmp", "cat/a.jpeg", "cat/z.webp", "dog/b.JPG", "dog/deep/a.png"]
    assert dataset.classes == ()
    assert dataset.synonyms == {}
    sample = dataset.load(1, RNG)
    assert (sample.label, sample.captions) == (-1, ())
    assert differ(sample.image, picture()) < 8


def test_folder_labels(folder):
    dataset = ImageFolder(str(folder), labels="folders")
    assert dataset.classes == ("cat", "dog", "empty")
    assert [dataset.load(index, RNG).label for index in range(4)] == [0, 0, 1, 1]
    assert keys(pickle.loads(pickle.dumps(dataset))) == keys(dataset)


def test_folder_errors(tmp_path, folder):
    with pytest.raises(ValueError, match="labels='folder'"):
        ImageFolder(str(folder), labels="folder")
    missing = ImageFolder(str(tmp_path / "nowhere"), labels="folders")  # not an error yet
    for use in (len, lambda dataset: dataset.classes):
        with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder.*\.jpg"):
            use(missing)
    with pytest.raises(FileNotFoundError, match=r"empty: no image found.*\.webp"):
        len(ImageFolder(str(folder / "empty")))
    saved(folder / "stray.png")
    with pytest.raises(ValueError, match=r"stray\.png: lies in no class folder"):
        len(ImageFolder(str(folder), labels="folders"))


def test_packed_strings():
    strings = ["", "a", "\u65e5\u672c \U0001f600", "bytes \udcff", ""]
    packed = PackedStrings(iter(strings))
    assert [packed[index] for index in range(len(packed))] == strings


# ---- lists ----


@pytest.fixture
def root(tmp_path):
    for name in ("a.jpg", "sub/b.png", "c d.jpg"):
        saved(tmp_path / "images" / name)
    return tmp_path / "images"


def written(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding, newline="")
    return str(path)


def pairs(dataset):
    return [
        (sample.key, sample.captions)
        for sample in (dataset.load(index, RNG) for index in range(len(dataset)))
    ]


def test_csv_with_quotes(tmp_path, root):
    text = (
        'id,caption,image\r\n1,"a dog, a ""good"" one",a.jpg\r\n\r\n'
        '2,"two\nlines",sub/b.png\r\n3,caf\u00e9,c d.jpg\r\n'
    )
    dataset = ImageTextList(written(tmp_path / "list.csv", text, "utf-8-sig"), str(root))
    assert pairs(dataset) == [
        ("a.jpg", ('a dog, a "good" one',)),
        ("sub/b.png", ("two\nlines",)),
        ("c d.jpg", ("caf\u00e9",)),
    ]
    assert dataset.load(0, RNG).label == -1
    assert dataset.classes == ()
    assert differ(dataset.load(1, RNG).image, picture()) == 0


def test_tsv(tmp_path, root):
    file = written(tmp_path / "list.tsv", f"title\tfilepath\na dog, a cat\t{root / 'a.jpg'}\n")
    dataset = ImageTextList(file, image="filepath", caption="title")
    assert pairs(dataset) == [(str(root / "a.jpg"), ("a dog, a cat",))]
    (tmp_path / "list.txt").write_bytes((tmp_path / "list.tsv").read_bytes())
    same = ImageTextList(
        str(tmp_path / "list.txt"), image="filepath", caption="title", format="tsv"
    )
    assert pairs(same) == pairs(dataset)


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_json_lines_as_declip_writes_them(tmp_path, root, end, monkeypatch):
    monkeypatch.setattr("webssl_plugins.datasets.image_text._CHUNK", 7)  # lines span chunks
    rows = [
        {"filename": "a.jpg", "caption": "a dog", "label": 2, "tag": "x"},
        {"filename": "sub/b.png", "caption": ["best", " ", None, "second \u65e5\u672c"]},
        {"filename": "c d.jpg", "caption": "line\nbreak", "label": None},
    ]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + end
    dataset = ImageTextList(written(tmp_path / "yfcc.json", text), str(root), image="filename")
    assert pairs(dataset) == [
        ("a.jpg", ("a dog",)),
        ("sub/b.png", ("best", "second \u65e5\u672c")),
        ("c d.jpg", ("line\nbreak",)),
    ]
    assert pairs(pickle.loads(pickle.dumps(dataset))) == pairs(dataset)
    dataset = ImageTextList(dataset.file, str(root), image="filename", label="label")
    assert [dataset.load(index, RNG).label for index in range(3)] == [2, -1, -1]
    assert dataset.classes == ("0", "1", "2")


def test_label_names_are_numbered_in_sorted_order(tmp_path, root):
    text = "image,caption,kind\na.jpg,x,dog\na.jpg,y,\na.jpg,z,cat\n"
    dataset = ImageTextList(written(tmp_path / "l.csv", text), str(root), label="kind")
    assert dataset.classes == ("cat", "dog")
    assert [dataset.load(index, RNG).label for index in range(3)] == [1, -1, 0]
    file = written(tmp_path / "ids.csv", "image,caption,kind\na.jpg,x,88000000\n")
    with pytest.raises(ValueError, match="88000000"):
        len(ImageTextList(file, str(root), label="kind"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "image,captions\na.jpg,x\n"),
        ("l.tsv", "image\tcaptions\na.jpg\tx\n"),
        ("l.jsonl", '{"image": "a.jpg", "captions": "x"}\n'),
    ],
)
def test_wrong_column_names_the_nearest(tmp_path, root, name, text):
    dataset = ImageTextList(written(tmp_path / name, text), str(root))
    with pytest.raises(
        ValueError, match="no column 'caption'; it has 'image', 'captions'; did you mean 'captions'"
    ):
        len(dataset)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.json", '[{"image": "a.jpg", "caption": "x"}]', "one object a line"),
        ("l.json", '{\n  "image": "a.jpg"\n}', "one object a line"),
        ("l.csv", "image,caption\na.jpg,x\na.jpg,x,y\n", "line 3: 3 columns, the header has 2"),
        ("l.csv", 'image,caption\na.jpg,"x\n', "line 2.*check the quotes"),
        ("l.csv", "image,caption\n", "holds no rows"),
        ("l.csv", "", "no column 'image'"),
        ("l.jsonl", "", "holds no rows"),
    ],
)
def test_malformed_lists(tmp_path, root, name, text, message):
    dataset = ImageTextList(written(tmp_path / name, text), str(root))
    with pytest.raises(ValueError, match=message):
        len(dataset)


def test_latin1_is_refused(tmp_path, root):
    file = written(tmp_path / "l.csv", "image,caption\na.jpg,caf\u00e9\n", "latin-1")
    with pytest.raises(ValueError, match="is UTF-8"):
        len(ImageTextList(file, str(root)))


def test_list_errors(tmp_path, root):
    with pytest.raises(ValueError, match=r"list\.parquet; give format='csv'"):
        ImageTextList("list.parquet")
    with pytest.raises(ValueError, match="format 'xml'"):
        ImageTextList("list.csv", format="xml")
    dataset = ImageTextList(str(tmp_path / "gone.csv"))  # not an error yet
    with pytest.raises(FileNotFoundError, match=r"gone\.csv: no such file"):
        len(dataset)
    file = written(tmp_path / "l.csv", "image,caption\na.jpg,x\n")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        len(ImageTextList(file, str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"image": "gone.jpg", "caption": "x"}', r"gone\.jpg"),
        ('{"image": "a.jpg", "caption": " "}', "row 1 has no text"),
        ('{"image": "a.jpg", "caption": []}', "row 1 has no text"),
        ('{"image": "a.jpg", "caption": 5}', "row 1 has no text"),
        ('{"caption": "x"}', "row 1 has no 'image'"),
        ('{"image": "a.jpg", "cap', "row 1 is not JSON"),
        ('["a.jpg", "x"]', "row 1 is not a JSON object"),
    ],
)
def test_one_bad_row_is_one_unreadable_sample(tmp_path, root, row, message):
    good = '{"image": "a.jpg", "caption": "x"}'
    dataset = ImageTextList(written(tmp_path / "l.jsonl", f"{good}\n{row}\n{good}\n"), str(root))
    assert len(dataset) == 3
    with pytest.raises(UnreadableSample, match=message):
        dataset.load(1, RNG)
    assert dataset.load(2, RNG).captions == ("x",)
    labelled = ImageTextList(dataset.file, str(root), label="image")
    assert labelled.load(2, RNG).label == labelled.classes.index("a.jpg")
