"""Outputs of cells for code hosts: below each cell, as text or as a picture in images/cells.

The site computes its own outputs and ignores these.  A build rewrites them if a cell has changed: each carries a digest
of its cell and of all cells before, which a test compares.  To refresh all outputs of a page, change one digest.
"""

import base64
import hashlib
import io
import re
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

CELL = re.compile(r"^```python cell([^\n]*)\n(.*?)^```\n", re.M | re.S)
TEXT = r"\n```text printed [0-9a-f]+\n.*?^```\n"
TABLE = r"\n<!-- printed [0-9a-f]+ -->\n\n(?:\|[^\n]*\n)+"
PICTURE = r"\n!\[[^\]]*\]\(\.\./images/cells/[^)]*\)\n"
WITH_OUTPUTS = re.compile(f"{CELL.pattern}(?:{TEXT}|{TABLE}|{PICTURE})*", re.M | re.S)
WIDTH = 1200  # of pictures, in pixels: twice a column on a code host


def without_outputs(page: str) -> str:
    """The page without outputs, as the site reads it."""
    return WITH_OUTPUTS.sub(lambda found: CELL.match(found[0])[0], page)  # type: ignore[index]


def digests(page: str) -> list[str]:
    """A digest for each cell of a page, which includes all cells before it."""
    before = hashlib.sha256()
    made = []
    for _, code in CELL.findall(page):
        before.update(code.encode())
        made.append(before.hexdigest()[:8])
    return made


def stale(page: str, pictures: Path) -> bool:
    """Whether an output or picture of a page is missing, or belongs to different cells."""
    for found, digest in zip(WITH_OUTPUTS.finditer(page), digests(page), strict=True):
        outputs = found[0][len(CELL.match(found[0])[0]) :]  # type: ignore[index]
        for name in re.findall(r"images/cells/([^)]*)\)", outputs):
            if not (pictures / name).is_file() or mark(pictures / name) != digest:
                return True
        if any(printed != digest for printed in re.findall(r"^(?:```text|<!--) printed (\w+)", outputs, re.M)):
            return True
    return not re.search(f"{TEXT}|{PICTURE}", page, re.M | re.S)


def mark(picture: Path) -> str | None:
    """The digest in a picture's metadata."""
    with Image.open(picture) as opened:
        return opened.info.get("cells")


def write_outputs(page: Path, notebook: Any, pictures: Path) -> None:
    """Write the outputs of a notebook into its page."""
    text = page.read_text(encoding="utf-8")
    if not CELL.search(text) or not stale(text, pictures):
        return
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and "remove-cell" not in tags(cell)]
    marked = iter(zip(cells, digests(text), range(1, len(cells) + 1), strict=True))

    def filled(found: re.Match[str]) -> str:
        cell, digest, number = next(marked)
        alt = re.sub(r"^(?: fold)?(?:: )?", "", found[1])
        fence = CELL.match(found[0])[0]  # type: ignore[index]
        name = f"{page.stem}-{number}.png"
        return fence + "".join(shown(output, digest, pictures / name, alt) for output in merged(cell.outputs))

    page.write_text(WITH_OUTPUTS.sub(filled, text), encoding="utf-8")


def tags(cell: Any) -> list[str]:
    """The tags of a cell."""
    return list(cell.metadata.get("tags", []))


def merged(outputs: list[Any]) -> list[Any]:
    """Outputs with consecutive prints merged."""
    made: list[Any] = []
    for output in outputs:
        if output["output_type"] == "stream" and made and made[-1]["output_type"] == "stream":
            made[-1] = {"output_type": "stream", "text": made[-1]["text"] + output["text"]}
        else:
            made.append(output)
    return made


def shown(output: Any, digest: str, place: Path, alt: str) -> str:
    """An output as Markdown; pictures are saved to ``place``."""
    data = output.get("data", {})
    if "image/png" in data:
        place.parent.mkdir(exist_ok=True)
        save(Image.open(io.BytesIO(base64.b64decode(data["image/png"]))), digest, place)
        return f"\n![{alt}](../images/cells/{place.name})\n"
    if "text/markdown" in data:
        return f"\n<!-- printed {digest} -->\n\n{data['text/markdown']}\n"
    text = (
        output["text"] if output["output_type"] == "stream" else table(data.get("text/html", "")) or data["text/plain"]
    )
    lines = text.replace("\r\n", "\n").rstrip()  # progress bars end lines with a carriage return
    return f"\n```text printed {digest}\n{lines}\n```\n"


def save(picture: Image.Image, digest: str, place: Path) -> None:
    """Save a picture in 256 colours, with the digest of its cells."""
    picture = picture.convert("RGBA")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    info = PngInfo()
    info.add_text("cells", digest)
    few = picture.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(place, pnginfo=info, optimize=True)


def table(html: str) -> str:
    """A pandas table as aligned text; "" for other HTML."""
    html = re.sub(r"<style.*?</style>", "", html, flags=re.S)
    rows = []
    for row in re.findall(r"<tr>(.*?)</tr>", html, re.S):
        cells = re.findall(r"<t[hd]([^>]*)>(.*?)</t[hd]>", row, re.S)
        wide = [(text.replace("&nbsp;", "").strip(), re.search(r'colspan="(\d+)"', kind)) for kind, text in cells]
        rows.append([part for text, span in wide for part in (text, *[""] * (int(span[1]) - 1 if span else 0))])
    columns = max(map(len, rows), default=0)
    rows = [[""] * (columns - len(row)) + row for row in rows]  # next to a cell that spans several rows
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
