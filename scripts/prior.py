"""Make the pictures that the prior, the run in the package that trainings on few pictures start from, is trained on.

    python scripts/prior.py packages pictures.npy          # apt-get download needs Debian 13; three minutes
    ncsn train pictures.npy --flip --guidance 1 --channels 32 64 --steps 9000 --samples 16 --out runs/prior
    python scripts/ship_model.py runs/prior prior

They are clip art and photographs from Debian's packages, 32 x 32, in the public domain or under CC0 or CC BY.  What has
a licence with further conditions, such as CC BY-SA or the GPL, is left out, file by file.  The credits that the script
prints are in the NOTICE next to the weights.
"""

import io
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

FREE = re.compile(r"public-domain|CC0-1\.0|CC-BY-[\d.]+")
# Where a package's pictures are, and the folder that its copyright file means by them.
PHOTOGRAPHS = {
    "budgie-backgrounds": ("backgrounds/budgie/*.jpg", ""),
    "lomiri-wallpapers-16.04": ("backgrounds/*.jpg", "16.04/"),
    "plasma-workspace-data": ("plasma/avatars/photos/*.png", "kcms/users/avatars/photos/"),
    "gcompris-qt-data": ("gcompris-qt/rcc/*.rcc", ""),
}
# Flags, icons and faces, because such pictures test the prior; trademarks; and 1,400 stars that look the same.
LEFT_OUT = ("signs_and_symbols", "icons", "smilies", "logos", "stars", "duplicates")
SIDE, CROPS, MIN_CONTRAST, MAX_PIXELS = 32, 100, 6.0, 2**22


def unpack(package: str, folder: Path) -> Path:
    """Download a package and unpack it; returns its usr/share."""
    subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True)
    archive = next(folder.glob(f"{package}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", archive, folder / package], check=True)
    return folder / package / "usr" / "share"


def qt_resources(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the files in a Qt resource file (.rcc)."""
    version, tree, data, names = struct.unpack_from(">4I", content, 4)
    size = 22 if version >= 2 else 14

    def walk(node: int, folder: str) -> Iterator[tuple[str, bytes]]:
        label, flags, first, second = struct.unpack_from(">IHII", content, tree + node * size)
        (length,) = struct.unpack_from(">H", content, names + label)
        name = folder + content[names + label + 6 :][: 2 * length].decode("utf-16-be") if node else ""
        if flags & 2:  # a folder: its number of children, and the first of them
            for child in range(second, second + first):
                yield from walk(child, name + "/" if node else "")
            return
        (length,) = struct.unpack_from(">I", content, data + second)
        found = content[data + second + 4 :][:length]
        yield name, zlib.decompress(found[4:]) if flags & 1 else found

    return walk(0, "")


def licences(copyright_file: Path) -> list[tuple[list[str], str, str]]:
    """The patterns of files, without endings, the authors and the licence of each paragraph (DEP-5)."""
    found = []
    for paragraph in re.split(r"\n\s*\n", copyright_file.read_text()):
        fields = dict(re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", paragraph, re.MULTILINE))
        if "Files" in fields and "debian/*" not in fields["Files"]:
            # A space in a name is written \ or ?.
            patterns = re.sub(r"\\ ", "?", fields["Files"]).split()
            authors, licence = " ".join(fields["Copyright"].split()), fields["License"].split("\n")[0].strip()
            found.append(([str(PurePath(pattern).with_suffix("")) for pattern in patterns], authors, licence))
    return found


def photographs(package: str, share: Path) -> Iterator[tuple[Image.Image, str]]:
    """The pictures of a package with a free licence, and a line that says whose they are."""
    pattern, source = PHOTOGRAPHS[package]
    paragraphs = licences(share / "doc" / package / "copyright")
    for path in sorted(share.glob(pattern)):
        files = qt_resources(path.read_bytes()) if path.suffix == ".rcc" else [(source + path.name, path.read_bytes())]
        for name, content in files:
            if not name.endswith((".jpg", ".png", ".webp")):
                continue
            stem = str(PurePath(name.removeprefix("gcompris/")).with_suffix(""))
            fitting = [found for found in paragraphs if any(fnmatch(stem, pattern) for pattern in found[0])]
            if fitting and FREE.fullmatch(fitting[-1][2]):  # the last paragraph that fits holds
                picture = Image.open(io.BytesIO(content)).convert("RGBA")
                if min(picture.size) >= 100:
                    white = Image.new("RGBA", picture.size, "white")
                    credit = f"{package}: {stem}, {fitting[-1][1]}, {fitting[-1][2]}"
                    yield Image.alpha_composite(white, picture).convert("RGB"), credit


def shrink(picture: Image.Image, box: tuple[float, float, float, float] | None = None) -> Image.Image:
    """A box of a picture at 32 x 32, averaged over areas."""
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX if picture.width > 64 else Image.Resampling.BICUBIC, box)


def crops(picture: Image.Image, number: int, least: float, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Random squares whose sides are log-uniform between ``least`` and all of the shorter side."""
    for _ in range(number):
        side = min(picture.size) * least ** rng.random()
        x, y = (rng.random() * (length - side) for length in picture.size)
        yield shrink(picture, (x, y, x + side, y + side))


def clip_art(path: Path, rng: np.random.Generator) -> Iterator[Image.Image]:
    """A drawing on white and on two random colours, and a crop of each."""
    picture = Image.open(path)
    if picture.width * picture.height > MAX_PIXELS:
        return
    drawing = picture.convert("RGBA")
    drawing.thumbnail((256, 256), Image.Resampling.BOX)
    side = max(drawing.size)
    for colour in ((255, 255, 255), *map(tuple, rng.integers(0, 256, (2, 3)).tolist())):
        canvas = Image.new("RGBA", (side, side), colour)
        canvas.alpha_composite(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
        yield shrink(canvas.convert("RGB"))
        yield from crops(canvas.convert("RGB"), 1, 0.4, rng)


def expose(photograph: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A photograph with another exposure and white balance, because there are many crops of few of them."""
    gamma = np.exp(0.3 * rng.standard_normal() + 0.1 * rng.standard_normal(3))
    return np.rint(255 * (np.asarray(photograph) / 255) ** gamma).astype(np.uint8)


def make_pictures(folder: Path, out: Path) -> None:
    """Write the pictures, in random order, and print whose they are."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.MAX_IMAGE_PIXELS = None  # wallpapers are large, and known
    rng, found, credits = np.random.default_rng(0), [], []
    for package in PHOTOGRAPHS:
        for picture, credit in photographs(package, unpack(package, folder)):
            least = max(0.08, 64 / min(picture.size))
            number = round(CROPS * max(1.0, min(picture.size) / 256))  # large photographs hold more
            found += [expose(crop, rng) for crop in crops(picture, number, least, rng)]
            credits.append(credit)
    drawings = sorted((unpack("openclipart-png", folder) / "openclipart" / "png").rglob("*.png"))
    drawings = [path for path in drawings if not set(LEFT_OUT) & set(path.parts)]
    for path in tqdm(drawings, unit="drawing", mininterval=10):
        found += [np.asarray(picture) for picture in clip_art(path, rng)]
    pictures = np.stack(found)[rng.permutation(len(found))]
    pictures = pictures[pictures.std((1, 2)).max(1) > MIN_CONTRAST]
    np.save(out, pictures)
    print(*credits, f"openclipart-png: {len(drawings)} drawings, public-domain", f"{len(pictures)} pictures", sep="\n")


if __name__ == "__main__":
    make_pictures(Path(sys.argv[1]), Path(sys.argv[2]))
