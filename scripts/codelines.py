"""Lines of code, without comments, docstrings and blank lines: ``python scripts/codelines.py [FILE or FOLDER ...]``."""

import ast
import io
import sys
import tokenize
from pathlib import Path

SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def lines_of(source: str) -> int:
    """How many lines of a file hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines |= {*range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            lines -= {*range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)}
    return len(lines)


if __name__ == "__main__":
    paths = [path for place in sys.argv[1:] or ["src"] for path in (Path(place), *Path(place).rglob("*"))]
    counts = [lines_of(path.read_text(encoding="utf-8")) for path in paths if path.suffix in (".py", ".pyi")]
    print(f"{sum(counts):,} lines of code in {len(counts)} files")
