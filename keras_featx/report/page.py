"""What the HTML pages share: a page that needs nothing but itself, its style, text made safe."""

import html
from collections.abc import Iterable
from typing import Any

# Nothing is fetched and nothing runs, whatever stands in names of identities and files.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1c2430; --soft: #5a6675;
  --line: #dde2e8; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161c; --card: #1b2129; --ink: #e6eaf0;
  --soft: #9aa7b6; --line: #2e3743; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 0; }
p { margin: 6px 0; } .soft { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 6px; margin: 16px 0; }
nav a { text-decoration: none; background: var(--card); border: 1px solid var(--line);
  border-radius: 16px; padding: 2px 11px; font-size: 13px; color: var(--ink); min-width: 0;
  overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; margin: 14px 0; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 1px 14px; margin: 8px 0; }
dt { color: var(--soft); } dd { margin: 0; text-align: right; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
figure { margin: 0; }
.path { font-family: ui-monospace, monospace; font-size: 11.5px; color: var(--soft);
  overflow-wrap: anywhere; }
"""


def document(title: str, style: str, body: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: Of the page, any text.
        style: CSS beside the shared one.
        body: HTML.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        f"<title>{text(title)}</title><style>{_STYLE}{style}</style></head>\n"
        f"<body><main>\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def facts(rows: Iterable[tuple[Any, Any]]) -> str:
    """A list of names and values, any text."""
    cells = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in rows)
    return f"<dl>{cells}</dl>"


def text(value: Any) -> str:
    """Any text as HTML; what cannot be shown is replaced.

    Example:
        >>> from keras_featx.report.page import text
        >>> text('<b>"x"</b>')
        '&lt;b&gt;&quot;x&quot;&lt;/b&gt;'
    """
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return html.escape(shown, quote=True)
