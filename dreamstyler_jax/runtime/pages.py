"""Single-file HTML pages whose content security policy allows their own script and style sheet, and nothing else."""

import base64
import hashlib
import html
import re
from collections.abc import Mapping


def fill_page(template: str, title: str, style: str, script: str, parts: Mapping[str, str]) -> bytes:
    """Fills the places ``{{name}}`` of a template.

    Args:
        template: a page with the places ``title``, ``style``, ``style_hash``, ``script``, ``script_hash`` and others.
        title: the title, a plain text.
        style: the style sheet.
        script: the script.
        parts: what goes into the other places, as HTML.
    """
    values = {
        "title": html.escape(title),
        "style": style,
        "script": script,
        "style_hash": _policy_hash(style),
        "script_hash": _policy_hash(script),
        **parts,
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)
    return page.encode("utf-8", "replace")


def _policy_hash(text: str) -> str:
    """The hash by which a content security policy names an inline script or style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
