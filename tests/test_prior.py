"""The pictures of the prior: which licences let one in, and the resource files that hold some of them."""

import io
import struct
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

prior: Any = import_module("scripts.prior")

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2020 Somebody
License: {everything}

Files: photos/cat.jpg
       photos/d?g.png
Copyright: 2021 Ann
           2022 Bob
License: {some}
 The text of the licence.

Files: debian/*
Copyright: 2023 A packager
License: CC0-1.0
"""


@pytest.mark.parametrize(
    ("everything", "some", "taken"),
    [
        ("GPL-2+", "CC-BY-4.0", {"cat", "dog"}),
        ("CC0-1.0", "CC-BY-SA-4.0", {"bird"}),
        ("GPL-2+", "CC-BY-NC-2.0", set()),
        ("public-domain", "CC-BY-3.0 and GPL-2", {"bird"}),
    ],
)
def test_the_last_paragraph_that_fits_a_file_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, everything: str, some: str, taken: set[str]
) -> None:
    monkeypatch.setitem(prior.PHOTOGRAPHS, "package", ("pictures/*", "photos/"))
    (tmp_path / "doc" / "package").mkdir(parents=True)
    (tmp_path / "doc" / "package" / "copyright").write_text(COPYRIGHT.format(everything=everything, some=some))
    (tmp_path / "pictures").mkdir()
    for name in ("cat.jpg", "dog.png", "bird.png"):
        Image.new("RGB", (120, 100), "green").save(tmp_path / "pictures" / name)
    credits = [credit for _, credit in prior.photographs("package", tmp_path)]
    assert {credit.split(", ")[0] for credit in credits} == {f"package: photos/{name}" for name in taken}
    assert all("2021 Ann 2022 Bob" in credit for credit in credits if "cat" in credit)


def test_a_resource_file_is_read() -> None:
    content = b"contents of the file"
    names = [name.encode("utf-16-be") for name in ("folder", "a.webp")]
    labels = [struct.pack(">HI", len(name) // 2, 0) + name for name in names]
    tree = struct.pack(">IHII", 0, 2, 1, 1) + bytes(8)
    tree += struct.pack(">IHII", 0, 2, 1, 2) + bytes(8)
    tree += struct.pack(">IHII", len(labels[0]), 0, 0, 0) + bytes(8)
    parts = [tree, struct.pack(">I", len(content)) + content, b"".join(labels)]
    starts = [20, 20 + len(tree), 20 + len(tree) + len(parts[1])]
    packed = b"qres" + struct.pack(">IIII", 2, *starts) + b"".join(parts)
    assert list(prior.qt_resources(packed)) == [("folder/a.webp", content)]


def test_crops_stay_inside_and_drawings_are_shown_on_white(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = Image.new("RGB", (300, 200), (10, 20, 30))
    cut = [np.asarray(crop) for crop in prior.crops(picture, 20, 0.3, rng)]
    assert all(np.array_equal(np.unique(crop.reshape(-1, 3), axis=0), [[10, 20, 30]]) for crop in cut)
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 80), (0, 0, 0, 0)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    drawn = [np.asarray(drawing) for drawing in prior.clip_art(tmp_path / "a.png", rng)]
    assert [drawing.shape for drawing in drawn] == [(32, 32, 3)] * 6
    assert (drawn[0] == 255).all()
    assert not (drawn[2] == 255).all()
