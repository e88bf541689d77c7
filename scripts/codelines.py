"""Count lines of code: those that hold more than comments and docstrings.

python scripts/codelines.py [FOLDER ...]
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(source: str) -> int:
    """The number of lines with code in a Python file."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED) and ast.get_docstring(node)]
    documentation = {line for node in nodes for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    used = {line for t in tokens if t.type not in SKIPPED for line in range(t.start[0], t.end[0] + 1)}
    return len(used - documentation)


def main() -> None:
    """Print the sum for each folder."""
    for folder in sys.argv[1:] or ["src"]:
        files = [path for suffix in ("py", "pyi") for path in Path(folder).rglob(f"*.{suffix}")]
        print(f"{folder}: {sum(code_lines(path.read_text()) for path in files):,} lines of code in {len(files)} files")


if __name__ == "__main__":
    main()
