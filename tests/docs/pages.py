"""The pages, taken apart: code blocks, links, names in code spans, headings."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ROOMS = sorted((ROOT / "docs" / "rooms").glob("*.md"))

_FENCE = re.compile(r"^```(\S*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[((?:[^\]`]|`[^`]*`)*)\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block. `prints` is what the text block right behind it says a program prints."""

    page: Path
    line: int
    language: str
    info: str
    code: str
    prints: str | None

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Link:
    page: Path
    text: str
    target: str

    @property
    def file(self) -> Path:
        path = self.target.partition("#")[0]
        return (self.page.parent / path).resolve() if path else self.page

    @property
    def name(self) -> str:
        """The name that the link's text puts into code, `Orders.place`; empty when the text is prose or a file."""
        match = re.fullmatch(r"`([A-Za-z_]\w*(?:\.(?!py`)\w+)*)(?:\(\))?`", self.text)
        return match[1] if match else ""


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(text))
    for i, match in enumerate(found):
        follower = found[i + 1] if i + 1 < len(found) else None
        prints = None
        if follower and follower[1] == "text" and text[match.end() : follower.start()].strip() == "It prints:":
            prints = follower[3]
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match[1], match[2].strip(), match[3], prints)


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[Link]:
    for match in _LINK.finditer(prose(page)):
        yield Link(page, match[1], match[2])


def spans(page: Path) -> list[str]:
    """What stands in `code` within the prose."""
    return _SPAN.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """Headings as GitHub turns them into anchors."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@functools.cache
def defined_in(file: Path) -> frozenset[str]:
    """The classes, functions and module-level names of a file, members as `Class.member`."""
    names: set[str] = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                names.add(prefix + node.name)
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(prefix + node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(prefix + node.target.id)
            elif isinstance(node, ast.Assign):
                names.update(prefix + target.id for target in node.targets if isinstance(target, ast.Name))

    visit(ast.parse(file.read_text(encoding="utf-8")).body, "")
    return frozenset(names)


@functools.cache
def words_of_the_sources() -> frozenset[str]:
    """Every word that the sources know, in code or in text."""
    words: set[str] = set()
    for file in [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.toml"), *(ROOT / "src").rglob("*.sql")]:
        words.update(re.findall(r"\w+", file.read_text(encoding="utf-8")))
    return frozenset(words)


def missing_names(page: Path) -> list[str]:
    """Links to Python files whose text names something that is not in that file (any more)."""
    return [
        f"{link.name} is not defined in {link.target}"
        for link in links(page)
        if link.name and link.file.suffix == ".py" and link.file.exists() and link.name not in defined_in(link.file)
    ]


def broken_links(page: Path) -> list[str]:
    """Relative links that lead nowhere."""
    broken: list[str] = []
    for link in links(page):
        if re.match(r"[a-z]+:", link.target):
            continue
        anchor = link.target.partition("#")[2]
        if not link.file.exists():
            broken.append(f"{link.target}: no such file")
        elif anchor and anchor not in anchors(link.file):
            broken.append(f"{link.target}: no such heading")
    return broken


def unknown_words(page: Path) -> list[str]:
    """Names in code that look like ours (snake_case, CamelCase) and that the sources do not know."""
    found: set[str] = set()
    for span in spans(page):
        for word in re.findall(r"\b(?:[a-z]+(?:_[a-z0-9]+)+|(?:[A-Z][a-z0-9]+){2,})\b", span):
            if word not in words_of_the_sources():
                found.add(f"{word} (in `{span}`)")
    return sorted(found)
