"""The reference as plain Markdown, for a code host: signatures, docstrings, options and measured tables.

``python docs/extensions/reference.py`` writes them between marks such as ``<!-- autofunction ncsn.load -->`` and
``<!-- end -->``; a test fails if they are out of date.  On the site, autodoc replaces the entries of Python names, with
links between them and to the source.
"""

import ast
import inspect
import io
import json
import os
import re
import sys
import textwrap
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^<!-- (auto\w+|command|samplers) ?([^;\n]*?)(?:; (.*?))? -->\n.*?^<!-- end -->$", re.M | re.S)
ARGUMENT = re.compile(r"(?:(?<=\.  )|(?<=\n)|^)(?=``[a-z_]\w*``(?:, ``[a-z_]\w*``)*(?: [>≥] [01])?: )")
WIDTH = 88
QUOTES = "'"


def filled(page: str) -> str:
    """A page with its marked blocks filled in.

    Arguments that the page's own text explains, in the same words, are left out of the blocks.
    """
    shared = set(re.findall(r"^- `.*\n", BLOCK.sub("", page), re.M))

    def block(found: re.Match[str]) -> str:
        lines = f"{content(*found.groups())}\n".splitlines(keepends=True)
        text = re.sub(r"\n{3,}", "\n\n", "".join(line for line in lines if line not in shared))
        return f"{found[0].splitlines()[0]}\n\n{text.rstrip()}\n\n<!-- end -->"

    return BLOCK.sub(block, page)


def content(kind: str, name: str, options: str | None) -> str:
    """The content of a block."""
    if kind == "command":
        return command(name, *re.findall(r"as: (.*)", options or ""))
    if kind == "samplers":
        return samplers()
    hidden, shown = (re.findall(rf"{word}: ([^;]*)", options or "") for word in ("exclude-members", "members"))
    excluded = set(hidden[0].split(", ")) if hidden else set()
    only = set(shown[0].split(", ")) if shown and not hidden else None
    return entry(name, excluded, only)


def entry(name: str, excluded: set[str], only: set[str] | None) -> str:
    """The signature and the docstring of a public name, and of the methods of a class.

    Brackets after a name hide the signature, as in autodoc: of results, which users don't make themselves.
    """
    bare = name.removesuffix("()")
    room, _, short = bare.rpartition(".")
    thing = getattr(__import__(room, fromlist=[short]), short)
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))).body
    if isinstance(node, ast.FunctionDef):
        return heading(3, name, signature(name, node), ast.get_docstring(node))
    assert isinstance(node, ast.ClassDef)
    shown = class_signature(name, thing, node) if name == bare else ""
    parts = [heading(3, bare, shown, ast.get_docstring(node))]
    for line, doc in zip(node.body, node.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
            parts.append(f"- `{ast.unparse(line)}`: {prose(str(doc.value.value))}")
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and (text := ast.get_docstring(method)):
            listed = method.name not in excluded if only is None else method.name in only
            if listed and (method.name == "__call__" or not method.name.startswith("_")):
                full = f"{short}.{method.name}"
                parts.append(heading(4, full, signature(full, method), text))
    return "\n\n".join(parts)


def heading(depth: int, name: str, signature: str, docstring: str | None) -> str:
    """A name as a heading, with its signature and its docstring below."""
    quoted = signature.replace("'", '"')
    block = f"```python signature\n{quoted}\n```\n\n" if quoted else ""
    return f"{'#' * depth} {name}\n\n{block}{prose(docstring or '')}".rstrip()


def signature(name: str, node: ast.FunctionDef, *, returns: bool = True) -> str:
    """A function's signature as in the source, with one argument per line if it is long."""
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    result = f" -> {ast.unparse(node.returns).strip(QUOTES)}" if returns and node.returns else ""
    if decorators & {"property", "cached_property"}:
        return f"{name}{result}".replace(" ->", ":")
    spec = node.args
    spec.posonlyargs = [arg for arg in spec.posonlyargs if arg.arg not in ("self", "cls")]
    spec.args = [arg for arg in spec.args if arg.arg not in ("self", "cls")]
    return call(name, split_arguments(ast.unparse(spec)), result)


def class_signature(name: str, thing: type, node: ast.ClassDef) -> str:
    """The signature of a class: that of ``__init__``, or its dataclass fields, including those of its bases."""
    made = [line for line in node.body if isinstance(line, ast.FunctionDef) and line.name == "__init__"]
    if made:
        return signature(name, made[0], returns=False)
    if not hasattr(thing, "__dataclass_fields__") and not hasattr(thing, "_fields"):
        return f"class {name}"
    fields = {}
    for base in reversed(thing.__mro__):
        if base.__module__.startswith("ncsn"):
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(body, ast.ClassDef)
            lines = [line for line in body.body if isinstance(line, ast.AnnAssign)]
            fields |= {ast.unparse(line.target): ast.unparse(line) for line in lines}
    keywords = any("kw_only=True" in ast.unparse(decorator) for decorator in node.decorator_list)
    plain = [re.sub(r"field\(default_factory=(\w+)\)", r"\1()", text) for text in fields.values()]
    return call(name, ["*", *plain] if keywords else plain, "")


def split_arguments(text: str) -> list[str]:
    """Split arguments at commas outside of brackets and strings."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        quote = "" if sign == quote else sign if sign in "'\"" and not quote else quote
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    parts = [part.strip() for part in parts if part.strip()]
    return [re.sub(r"(: .*?[^\s=!<>])=(?=[^\s=])", r"\1 = ", part) for part in parts]


def call(name: str, arguments: list[str], result: str) -> str:
    """A call on one line, or with one argument per line."""
    line = f"{name}({', '.join(arguments)}){result}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){result}"


def prose(docstring: str) -> str:
    """A docstring as Markdown: arguments become a list, examples and formulas blocks."""
    made = []
    for text in inspect.cleandoc(docstring).split("\n\n"):
        if text.lstrip().startswith(">>> "):
            made.append(f"```pycon\n{re.sub(r'  # doctest: .*', '', text)}\n```")
        elif text.startswith(".. math::"):
            made.append(f"$$\n{textwrap.dedent(text.removeprefix('.. math::')).strip()}\n$$")
        else:
            before, *raised = re.split(r"(?:(?<=\s)|^)(?=Raises |Returns )", text.removeprefix("Args:"), maxsplit=2)
            first, *arguments = ARGUMENT.split(before)
            items = "\n".join("- " + " ".join(item.split()) for item in arguments)
            made += [part.strip() for part in (first, items, *raised)]
    return "\n\n".join(marked(part) for part in made if part)


def marked(text: str) -> str:
    """Roles and double backticks of reStructuredText as Markdown."""
    if text.startswith(("```", "$$")):
        return text
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    text = re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    parts = re.split(r"(`[^`]+`|\$[^$]+\$)", text)
    return "".join(part if i % 2 else re.sub(r"([*|<])", r"\\\1", part) for i, part in enumerate(parts))


def command(name: str, other: str | None = None) -> str:
    """A command's usage, what it does, and its options, with their defaults; of those of another, only the names."""
    text = help_of(name)
    usage, about = re.split(r"\n\n", text.split("╭")[0].strip(), maxsplit=1)
    lines = [f"```text\n{usage.removeprefix('usage: ')}\n```\n\n{about}\n"]
    known = options(help_of(other)) if other else []
    found = options(text)
    if same := ", ".join(f"`{pair[0].split()[0].rstrip(',')}`" for pair in found if pair in known):
        lines[0] += f"\n{same}: as for [`{other}`](#{str(other).replace(' ', '-')})\n"
    for option, said in (pair for pair in found if pair not in known):
        default = re.search(r" ?\(default: (.*?)\)", said)
        said = re.sub(r" ?\((?:default: .*?|required)\)", "", said)
        if not said:
            raise ValueError(f"{name} {option} has no description; is its docstring well-formed?")
        shown = f" (default `{default[1]}`)" if default and default[1] not in ("", "False", "True") else ""
        lines.append(f"- `{option}`{shown}: {marked(said)}")
    return "\n".join(lines)


def help_of(name: str) -> str:
    """The ``--help`` text of a command."""
    sys.path.append(str(ROOT))
    from ncsn.cli import console
    from ncsn.cli.commands import COMMANDS
    from training_toy import Toy

    settings: Any = Toy if name.endswith("training_toy.py") else COMMANDS[name.removeprefix("ncsn ")]
    os.environ["COLUMNS"] = "100"
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with suppress(SystemExit), redirect_stdout(said):
        console.parse(settings, ["--help"], name)
    said.seek(0)
    return said.read()


def options(text: str) -> list[tuple[str, str]]:
    """The options of a help text, with their values and descriptions."""
    found: list[tuple[str, str]] = []
    for line in re.findall(r"^│ (.*) │$", text, re.M):
        if line.startswith(" "):
            name, said = found.pop()
            found.append((name, f"{said} {line.strip()}"))
        else:
            name, *rest = re.split(r" {2,}", line.strip(), maxsplit=1)
            found.append((name, "".join(rest)))
    return [(name, said.strip()) for name, said in found if "--help" not in name]


def samplers() -> str:
    """Cost and quality of each sampler with its default levels and guidance, from benchmarks/samplers.json."""
    floor, *measured = json.loads((ROOT / "benchmarks" / "samplers.json").read_text(encoding="utf-8"))
    lines = ["| `--sampler` | levels | evaluations | Fréchet distance | times the floor |", "|---|--:|--:|--:|--:|"]
    real = floor["frechet_distance"]
    for row in measured:
        if [row["levels"], row["guidance"]] == floor["default"][row["sampler"]]:
            distance = row["frechet_distance"]
            numbers = f"{row['levels']} | {row['nfe']} | {distance:.2f} | {distance / real:.1f}"
            lines.append(f"| `{row['sampler']}` | {numbers} |")
    return "\n".join([*lines, f"| real images (the floor) | | | {real:.2f} | 1 |"])


def directive(found: re.Match[str]) -> str:
    """A marked block for the site."""
    kind, name, settings = found.groups()
    if not kind.startswith("auto"):
        return found[0]
    lines = [f".. {kind}:: {name}", *(f"   :{option}" for option in (settings or "").split("; ") if option)]
    return "```{eval-rst}\n" + "\n".join(lines) + "\n```"


def read(app: Any, docname: str, source: list[str]) -> None:
    """Sphinx hook: change the text of a page in place."""
    source[0] = BLOCK.sub(directive, source[0])


def setup(app: Any) -> dict[str, Any]:
    """Connect the hook."""
    app.connect("source-read", read, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def main() -> None:
    """Fill the pages."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (current := filled(text)) != text:
            page.write_text(current, encoding="utf-8")


if __name__ == "__main__":
    main()
