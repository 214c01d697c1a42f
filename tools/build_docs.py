"""Builds the documentation: Markdown to plain HTML in build/docs, with every relative link and anchor checked.

`--check` only checks. Sources are README.md, ARCHITECTURE.md, CHANGELOG.md and docs/**/*.md. A link must lead to an existing
file of the project (spelt exactly), and its anchor to an existing heading; anchors are made the way code hosts make them, so
that links work there too. Links to other sites are not followed. Any fault is named with file and line, and fails the build.
"""

import argparse
import html
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
STYLE = """
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.55 system-ui, sans-serif; color: #1c1c1c; }
nav { font-size: .9rem; border-bottom: 1px solid #ccc; padding-bottom: .5rem; }
h1, h2, h3 { line-height: 1.25; } a { color: #0645ad; }
code, pre { font-family: ui-monospace, monospace; font-size: .92em; background: #f4f4f4; } code { padding: .1em .25em; }
pre { padding: .75rem; overflow-x: auto; } pre code { padding: 0; }
table { border-collapse: collapse; } th, td { border: 1px solid #ccc; padding: .3rem .6rem; text-align: left; }
td { vertical-align: top; }
"""


@dataclass
class Page:
    """One Markdown file, parsed.

    Args:
        path: relative to the project.
        anchors: the headings' anchors.
        links: line number and target of every link and picture.
    """

    path: Path
    tokens: list[Token]
    title: str = ""
    anchors: set[str] = field(default_factory=set)
    links: list[tuple[int, str]] = field(default_factory=list)


def main() -> int:
    """Check, then build unless told only to check."""
    parser = argparse.ArgumentParser(description="Build the documentation with a strict link check.")
    parser.add_argument("--check", action="store_true", help="check links only")
    parser.add_argument("--root", type=Path, default=ROOT, help="project folder (default: this one)")
    arguments = parser.parse_args()
    root: Path = arguments.root.resolve()
    pages = {page.path: page for page in map(lambda path: read(root, path), sources(root))}  # noqa: C417 - reads best
    faults = [fault for page in pages.values() for fault in faults_of(root, page, pages)]
    if faults:
        print("\n".join(faults), file=sys.stderr)
        print(f"docs: {len(faults)} broken link(s)", file=sys.stderr)
        return 1
    if not arguments.check:
        build(root, pages)
    links = sum(len(page.links) for page in pages.values())
    print(f"docs: {len(pages)} pages, {links} links, all lead somewhere")
    return 0


def sources(root: Path) -> list[Path]:
    """The Markdown files of the documentation, relative to the project."""
    top = [Path(name) for name in TOP_LEVEL if (root / name).exists()]
    return top + sorted(path.relative_to(root) for path in (root / "docs").rglob("*.md"))


def read(root: Path, path: Path) -> Page:
    """Parse one page and collect its anchors and links."""
    text = (root / path).read_text(encoding="utf-8")
    lines = text.splitlines()
    page = Page(path, markdown().parse(text), title=path.stem)
    seen: dict[str, int] = {}
    for position, token in enumerate(page.tokens):
        if token.type == "heading_open":
            inline = page.tokens[position + 1]
            words = "".join(child.content for child in inline.children or ())
            anchor = slug(words, seen)
            token.attrSet("id", anchor)
            page.anchors.add(anchor)
            page.title = words if token.tag == "h1" else page.title
        if token.type == "inline":
            page.links += links_of(token, lines)
    return page


def markdown() -> MarkdownIt:
    """The dialect: CommonMark with tables; raw HTML only as comments would survive, so it is off."""
    return MarkdownIt("commonmark", {"html": True}).enable("table")


def slug(words: str, seen: dict[str, int]) -> str:
    """A heading's anchor: lower case, spaces to hyphens, punctuation dropped, repeats numbered."""
    base = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
    seen[base] = seen.get(base, -1) + 1
    return base if seen[base] == 0 else f"{base}-{seen[base]}"


def links_of(inline: Token, lines: list[str]) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and target of each link in one block of text."""
    first, after = inline.map or [0, len(lines)]
    for child in inline.children or ():
        target = child.attrGet("href") if child.type == "link_open" else child.attrGet("src")
        if isinstance(target, str) and child.type in {"link_open", "image"}:
            written = (number for number in range(first, after) if unquote(target) in unquote(lines[number]))
            defined = (number for number, line in enumerate(lines) if line.startswith("[") and f"]: {target}" in line)
            yield next(written, next(defined, first)) + 1, target


def faults_of(root: Path, page: Page, pages: dict[Path, Page]) -> Iterator[str]:
    """One line for each link of a page that leads nowhere."""
    for line, target in page.links:
        fault = fault_of(root, page, pages, target)
        if fault:
            yield f"{page.path}:{line}: {fault}"


def fault_of(root: Path, page: Page, pages: dict[Path, Page], target: str) -> str | None:
    """What is wrong with one link, or None."""
    if ELSEWHERE.match(target):
        return None
    name, _, anchor = unquote(target).partition("#")
    if name.startswith("/"):
        return f"`{target}` is absolute; write it relative to this file"
    path = Path(os.path.normpath(page.path.parent / name)) if name else page.path
    if path.parts[:1] == ("..",):
        return f"`{target}` leads out of the project"
    if not exists_as_spelt(root, path):
        return f"`{target}` leads to {path}, which does not exist"
    if anchor and path in pages and anchor not in pages[path].anchors:
        return f"`{target}`: {path} has no heading with the anchor #{anchor}"
    if anchor and path not in pages:
        return f"`{target}`: anchors are only checked in documentation pages; link to the file"
    return None


def exists_as_spelt(root: Path, path: Path) -> bool:
    """Whether the path exists with this very spelling (some file systems ignore case, web servers do not)."""
    here = root
    for part in path.parts:
        if not here.is_dir() or here / part not in set(here.iterdir()):
            return False
        here /= part
    return True


def build(root: Path, pages: dict[Path, Page]) -> None:
    """Write all pages and a first page that leads to the documentation's own index."""
    target = root / "build" / "docs"
    shutil.rmtree(target, ignore_errors=True)
    for page in pages.values():
        place = target / page.path.with_suffix(".html")
        place.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (len(page.path.parts) - 1)
        rewrite_links(root, page, pages, place)
        body = markdown().renderer.render(page.tokens, markdown().options, {})
        place.write_text(
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(page.title)}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>\n'
            f'<nav><a href="{up}README.html">Package Command Manager</a> · <a href="{up}docs/index.html">Documentation</a> · '
            f'<a href="{up}docs/glossary.html">Glossary</a></nav>\n{body}</body></html>\n',
            encoding="utf-8",
        )
    (target / "index.html").write_text('<!DOCTYPE html><meta http-equiv="refresh" content="0; url=docs/index.html">\n')
    print(f"docs: built in {target.relative_to(root)}/")


def rewrite_links(root: Path, page: Page, pages: dict[Path, Page], place: Path) -> None:
    """Point links between pages at the HTML, and links to other files of the project at those files."""
    for token in page.tokens:
        for child in token.children or ():
            key = "href" if child.type == "link_open" else "src"
            target = child.attrGet(key)
            if not isinstance(target, str) or ELSEWHERE.match(target) or target.startswith("#"):
                continue
            name, hash_sign, anchor = target.partition("#")
            path = Path(os.path.normpath(page.path.parent / unquote(name)))
            if path in pages:
                child.attrSet(key, re.sub(r"\.md$", ".html", name) + hash_sign + anchor)
            else:
                child.attrSet(key, os.path.relpath(root / path, place.parent))


if __name__ == "__main__":
    sys.exit(main())
