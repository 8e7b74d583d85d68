"""Makes the pages of the site from those that GitHub shows; MkDocs calls it for each page (mkdocs.yml).

On GitHub a link may lead to any file of the repository, but the site holds ``docs/`` alone. So where a paragraph is
nothing but a link to a name in the code, the site has its documentation; where it is nothing but a link to another
Markdown file, the site has that file; and of other links out of ``docs/`` it has the text.
"""

import re
from pathlib import Path

DOCS = Path(__file__).parent
NAME = re.compile(r"^\[`(dreamstyler_jax\.[\w.]+)`\]\((\.\./[^)]+)\)$", flags=re.MULTILINE)
PAGE = re.compile(r"^\[[^\]]+\]\((\.\./[^)]+\.md)\)$", flags=re.MULTILINE)
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Returns a page's Markdown for the site.

    Raises:
        FileNotFoundError: a paragraph is a link to a page that is not there.
    """
    markdown = PAGE.sub(lambda link: (DOCS / link[1]).read_text(encoding="utf-8"), markdown)
    markdown = markdown.replace("](docs/", "](")
    return OUTSIDE.sub(r"\1", NAME.sub(r"::: \1", markdown))
