"""The pictures of the prior: which licences let one in."""

from importlib import import_module
from pathlib import Path
from typing import Any

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
