"""How Sphinx makes the site of what make.py has gathered."""

from sphinx.search.en import SearchEnglish

project = "Tidegate"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"

# Pages are written for GitHub as well: nothing in them is MyST's own, but for the contents that make.py adds.
myst_disable_syntax = ["myst_block_break", "myst_line_comment", "myst_role", "myst_target"]
myst_enable_extensions = ["linkify", "strikethrough"]
myst_linkify_fuzzy_links = False
myst_heading_anchors = 6
# Snippets leave out what is not their point (`…`), which no lexer takes.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = "Tidegate"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}


class SearchWithNumbers(SearchEnglish):
    """Numbers are words too: people look for codes (3008)."""

    def word_filter(self, word):
        return word not in self.stopwords


def setup(app):
    app.add_search_language(SearchWithNumbers)
