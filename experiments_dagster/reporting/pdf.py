"""The HTML report as PDF, by WeasyPrint, which the extra [pdf] brings.

A report is one file without links to others; whatever a page might ask for is refused.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, NoReturn

PRINTED = """
@page {
  size: A4; margin: 18mm 17mm 20mm;
  @bottom-left { content: string(title); font: 8pt sans-serif; color: #677281; }
  @bottom-right {
    content: counter(page) " / " counter(pages); font: 8pt sans-serif; color: #677281;
  }
}
h1 { string-set: title content(); }
/* The lightest and boldest weights that every font has; columns that are counted. */
h1, section > h2, .bottom > h2, h3, .tiles dd, tr.strong th, tr.strong td { font-weight: 700; }
.tiles dd.detail { font-weight: 400; }
.tiles { grid-template-columns: 1fr 1fr !important; }
.bottom { break-inside: auto !important; }
/* Nobody can open what is folded: effects that must not be read stay hidden. */
details > *:not(summary) { display: none; }
"""


# WeasyPrint ignores `paint-order`, so that the halo of a label would cover it.
_HALO = re.compile(
    r'(<text [^>]*?)( stroke="[^"]*" stroke-width="[^"]*") paint-order="stroke"(>[^<]*</text>)'
)


def require_weasyprint() -> Any:
    """The library.

    Raises:
        ModuleNotFoundError: It is not installed, or a library that it needs is not there.
    """
    hint = "a PDF needs WeasyPrint: pip install 'experiments-dagster[pdf]'"
    try:
        return importlib.import_module("weasyprint")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(hint) from None
    except OSError as error:
        msg = f"{hint}; it is there, but its system libraries (Pango) are not: {error}"
        raise ModuleNotFoundError(msg) from None


def report_pdf(html: str) -> bytes:
    """A report as PDF, A4, with page numbers.

    Raises:
        ModuleNotFoundError: WeasyPrint is not installed.
    """
    library = require_weasyprint()
    style = library.CSS(string=PRINTED)
    page = library.HTML(string=halos_below(html), url_fetcher=_refuse_url)
    content: bytes = page.write_pdf(stylesheets=[style])
    return content


def halos_below(html: str) -> str:
    """The same drawings with each halo as a text of its own below the label."""
    return _HALO.sub(r"\1\2\3\1\3", html)


def _refuse_url(url: str, *_: Any, **__: Any) -> NoReturn:
    msg = f"a report asks for {url[:100]}; it must hold all it shows"
    raise ValueError(msg)
