"""Looks at the links of a made site: each must lead somewhere, and nothing may be loaded from elsewhere."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself when it shows a page: tag, attribute.
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("object", "data"), ("source", "src")}


class Page(HTMLParser):
    """The anchors of a page, and where it leads."""

    def __init__(self, file):
        super().__init__()
        self.anchors, self.links, self.loads = {""}, [], []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif (tag, name) in LOADED and value:
                self.loads.append(value)
            elif (tag, name) == ("a", "href") and value:
                self.links.append(value)


def broken(folder):
    """Returns how many pages there are, and a line for each link that is broken."""
    pages = {file.resolve(): Page(file) for file in sorted(folder.rglob("*.html"))}
    faults = []
    for file, page in pages.items():
        where = file.relative_to(folder.resolve())
        for link in page.loads:
            if urlsplit(link).netloc:
                faults.append(f"{where} loads {link}, which is not part of the site")
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.is_file():
                faults.append(f"{where} links to {link}: there is no such file")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                faults.append(f"{where} links to {link}: there is no such place on that page")
    return len(pages), faults
