"""Makes the documentation a site: `make.py FOLDER` leaves it in FOLDER/html.

Pages stay what they are on GitHub. They are gathered from the whole repository, in the order of docs/README.md, with everything
that they link to; the rest is Sphinx. A warning is a failure, and so is a link of the made site that leads nowhere.
"""

import os
import re
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path

from check import broken

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CONTENTS = Path("docs/README.md")
# These have what they list below themselves in the menu.
LISTS = (Path("docs/migrating/README.md"), Path("docs/decisions/README.md"), Path("deploy/examples/README.md"))
# Pages outside of docs/ have this folder for themselves.
OUTSIDE = Path("repository")
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)


def place(path):
    """Returns where in the site a file of the repository is."""
    if path == CONTENTS:
        return Path("index.md")
    return path.relative_to("docs") if path.is_relative_to("docs") else OUTSIDE / path


class Site:
    """What is gathered, in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.seen, self.waiting, self.faults = folder, set(), [], []

    def gather(self, first):
        """Takes a file of the repository, and everything that it leads to."""
        self.want(first)
        while self.waiting:
            file = self.waiting.pop()
            to = self.folder / place(file)
            to.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".md":
                to.write_text(self.page(file), encoding="utf-8")
            else:
                shutil.copyfile(ROOT / file, to)

    def want(self, file):
        if file not in self.seen:
            self.seen.add(file)
            self.waiting.append(file)

    def page(self, file):
        parts = FENCE.split((ROOT / file).read_text(encoding="utf-8"))
        # Every second part is a fence, in which nothing is a link.
        parts[::2] = [LINK.sub(lambda link: self.follow(link, file), part) for part in parts[::2]]
        text = "".join(parts)
        if file == CONTENTS:
            return text + menu(text)
        if file in LISTS:
            return text + toctree({to: name for to, name in pages(text).items() if not to.startswith("..")})
        # Sphinx asks where each page is in the menu. A page that only others lead to is nowhere.
        return text if file in self.listed else f"---\norphan: true\n---\n\n{text}"

    def follow(self, link, page):
        target, _, anchor = link[2].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return link[0]
        file = Path(os.path.normpath(page.parent / target))
        if (ROOT / file).is_dir():
            file /= "README.md"
        if not (ROOT / file).is_file():
            self.faults.append(f"{page} links to {link[2]}: there is no such file")
            return link[0]
        self.want(file)
        to = os.path.relpath(place(file), place(page).parent)
        return f"{link[1]}{to}{'#' if anchor else ''}{anchor}{link[3]}"

    @cached_property
    def listed(self):
        """The files that have a place in the menu."""
        return {
            Path(os.path.normpath(page.parent / link))
            for page in (CONTENTS, *LISTS)
            for link in pages((ROOT / page).read_text(encoding="utf-8"))
            if page == CONTENTS or not link.startswith("..")
        }


def pages(text):
    """Returns the pages that a text links to, in their order, each with what it is called there."""
    found = {}
    for opening, to, _ in LINK.findall(text):
        if to.endswith(".md") and "://" not in to:
            found.setdefault(to, opening[1:-2])
    return found


def toctree(pages, *options):
    lines = [f"{name} <{to}>" for to, name in pages.items()]
    return "\n".join(["", "```{toctree}", ":hidden:", *options, "", *lines, "```", ""])


def menu(contents):
    """Returns the menu: for each section of the contents, the pages that it links to."""
    sections = [section.partition("\n") for section in re.split(r"^## ", contents, flags=re.MULTILINE)[1:]]
    return "".join(toctree(pages(rest), f":caption: {caption}") for caption, _, rest in sections)


def main(folder):
    source, html = folder / "source", folder / "html"
    for old in (source, html):
        shutil.rmtree(old, ignore_errors=True)
    source.mkdir(parents=True)
    site = Site(source)
    site.gather(CONTENTS)
    stop_at(site.faults)
    shutil.copytree(HERE / "static", source / "static")
    shutil.copyfile(HERE / "conf.py", source / "conf.py")
    sphinx = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going", "--quiet", "--jobs", "auto"]
    made = subprocess.run([*sphinx, "--doctree-dir", str(folder / "doctrees"), str(source), str(html)])
    if made.returncode:
        sys.exit("the site was not made: see above")
    let_numbers_be_searched(html / "_static" / "searchtools.js")
    count, faults = broken(html)
    stop_at(faults)
    print(f"{count} pages, with every link checked: {html / 'index.html'}")


def let_numbers_be_searched(script):
    """The index has them (conf.py), and the script in the page passes over them: people look for codes (3008)."""
    text, only_words = script.read_text(encoding="utf-8"), r" || queryTerm.match(/^\d+$/)"
    if text.count(only_words) != 1:
        sys.exit(f"{script} is another one than this was written for: see that the search finds 3008")
    script.write_text(text.replace(only_words, ""), encoding="utf-8")


def stop_at(faults):
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
