"""HTML as a type: a string known to be escaped, the style it needs, and nothing else."""

from __future__ import annotations

import html
import re

CJK_FONTS = '"Noto Sans CJK SC","PingFang SC","Microsoft YaHei","WenQuanYi Micro Hei",sans-serif'
# Chinese fonts draw § and quotation marks two columns wide, which tears English prose apart: a Latin font goes first.
FONTS = f'"Segoe UI","Helvetica Neue",Arial,{CJK_FONTS}'


class Html(str):
    """Markup whose foreign text has been escaped; notebooks display it as such."""

    def _repr_html_(self) -> str:
        return str(self)


def visible(text: object) -> str:
    """`text` with control characters, which models emit and terminals obey, shown as U+FFFD."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", str(text))


def escape(text: object) -> str:
    """`text` with &, <, > and both quotes escaped, control characters as `visible` shows them."""
    return html.escape(visible(text), quote=True)


# Colours are set on the box itself: a notebook in dark mode would else show dark text on a dark page.
TABLE_STYLE = f"""
.qm-table{{background:#fff;color:#1c2430;font:13px/1.45 {FONTS};margin:1rem 0;max-width:100%}}
.qm-table .scroll{{overflow-x:auto;border:1px solid #d8dde5;border-radius:6px}}
.qm-table table{{table-layout:auto!important;border-collapse:separate;border-spacing:0;width:100%;margin:0;
background:#fff;color:inherit;font-variant-numeric:tabular-nums}}
.qm-table .caption{{font-weight:600;margin:0 0 .4rem}}
.qm-table th,.qm-table td{{padding:.35rem .55rem;border:0;border-bottom:1px solid #e8ebf0;text-align:right;
white-space:nowrap;vertical-align:top;background:none}}
.qm-table th{{background:#f2f4f8;font-weight:600;vertical-align:bottom;white-space:normal}}
.qm-table td.left{{white-space:normal;min-width:5.5rem}}
.qm-table tr>:first-child{{position:sticky;left:0;background:#fff;text-align:left}}
.qm-table tr>th:first-child{{background:#f2f4f8}}
.qm-table .left{{text-align:left!important}}
.qm-table tbody tr{{background:#fff!important}}
.qm-table tbody tr:last-child td{{border-bottom:0}}
.qm-table tr.ours td,.qm-table tr.ours>:first-child{{background:#eef6fc}}
@media (max-width:40rem){{.qm-table tr>:first-child{{white-space:normal;min-width:6.2rem;max-width:8rem;
overflow-wrap:anywhere}}}}
.qm-table tr.total td{{font-weight:600;border-top:2px solid #b8c0cc}}
.qm-table td.none,.qm-table .none{{color:#6b7585;font-size:11.5px}}
.qm-table td a{{color:inherit;text-decoration-color:#9db4c6;text-underline-offset:2px}}
.qm-table td a:hover{{color:#00568a}}
.qm-table td small.paper{{color:#a34700;white-space:nowrap}}
.qm-table td small.agrees{{color:#006b4d;font-weight:600}}
.qm-table td small.none{{color:#7a8494}}
.qm-table td small{{display:block;color:#56606f;font-size:11px;line-height:1.25;font-weight:400}}
.qm-table.compact td small{{display:inline;white-space:nowrap}}
.qm-table ul{{margin:.5rem 0 0;padding-left:1.1rem;color:#56606f;font-size:12.5px}}
.qm-table li a{{color:#00568a}}
.qm-table li{{margin:.1rem 0;overflow-wrap:anywhere}}
"""

CASE_STYLE = f"""
.qm-case{{background:#fff;color:#1c2430;font:14px/1.6 {FONTS};border:1px solid #d8dde5;border-radius:6px;padding:.8rem;
margin:1rem 0;max-width:100%}}
.qm-case .head{{display:flex;flex-wrap:wrap;gap:.3rem 1rem;font-weight:600}}
.qm-case .head span{{color:#56606f;font-weight:400}}
.qm-case .answers{{display:grid;gap:.6rem;margin-top:.6rem;
grid-template-columns:repeat(auto-fit,minmax(min(15rem,100%),1fr))}}
.qm-case .box{{background:#f7f8fa;border-radius:4px;padding:.5rem .7rem;margin-top:.6rem;min-width:0}}
.qm-case .answers .box{{margin-top:0;border-top:3px solid #0072b2}}
.qm-case .title{{margin:0 0 .25rem;font-size:13px;font-weight:600;display:flex;
justify-content:space-between;gap:.5rem;flex-wrap:wrap}}
.qm-case .title span{{font-weight:400;color:#56606f}}
.qm-case .text{{font-family:{CJK_FONTS};white-space:pre-wrap;overflow-wrap:anywhere;max-height:22rem;overflow-y:auto}}
.qm-case .empty{{color:#7a8494;font-style:italic}}
"""


def styled(style: str, body: str) -> Html:
    """`body` preceded by its style, so that it can stand alone in a notebook cell."""
    return Html(f"<style>{style}</style>\n{body}")
