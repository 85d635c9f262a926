"""The report as one HTML page without scripts or other files.

It does not name the computer that made it, so that two pages can be compared.
"""

import base64
import html
import importlib.metadata
import io
import math
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from parity.rungs.comparison import Comparison
from vitjax.files import write_whole

NAME = "index.html"
KNOWN = "known"  # names that begin with it are intended differences
PACKAGES = (
    "vitjax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "tensorflow-cpu",
    "tensorflow",
    "torch",
    "torchvision",
    "pillow",
)
# Text and rules take their colours from the reader's theme. Pictures keep a white
# background, because their axes and labels are black. Verdicts are words as well as
# colours.
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff;
  --line: #d0d7de; --band: #f3f5f7; --good: #1a7f37; --bad: #cf222e; --bar: #9db7d5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa4af;
  --paper: #14171a; --line: #363c43; --band: #1d2125; --good: #4cc26a; --bad: #ff7b72;
  --bar: #3f5f86; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1, h2 { line-height: 1.2; }
h1 { margin: 0 0 .5rem; }
h2 { margin: 2.5rem 0 .75rem; }
.big { font-size: 1.3rem; font-weight: 600; }
.soft { color: var(--soft); }
code, pre, td.number { font-family: ui-monospace, monospace; font-size: .9em; }
pre { padding: .75rem 1rem; overflow-x: auto; background: var(--band);
  border-radius: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .25rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.group th { background: var(--band); border-top: 2px solid var(--line); }
.pass { color: var(--good); }
.FAIL { color: var(--bad); font-weight: 700; }
td.bar { min-width: 7rem; }
td.bar span { display: block; height: .7rem; margin-top: .4rem; border-radius: .2rem;
  background: var(--bar); }
.figures { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure img { width: 100%; height: auto; background: #ffffff; border-radius: .3rem;
  border: 1px solid var(--line); }
figcaption { margin-bottom: .4rem; font-weight: 600; }
@media print { :root { --ink: #000000; --soft: #444444; --paper: #ffffff;
  --line: #bbbbbb; --band: #eeeeee; --good: #0b5a22; --bad: #a40e18; --bar: #9db7d5; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  table { font-size: 8.5pt; } tr { break-inside: avoid; } thead { display:
  table-header-group; } nav { display: none; } }
"""

Results = Sequence[tuple[str, Comparison]]  # (rung, comparison), in order


def write(
    folder: str | Path,
    results: Results,
    figures: Mapping[str, Figure],
    *,
    arguments: Sequence[str] = (),
    about: Mapping[str, str] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> Path:
    """Write folder/index.html and return its path; create the folder if missing.

    Args:
      results: every comparison with the name of its rung, in the order of the table.
      figures: by caption; drawn in this order, as many in a row as fit.
      arguments: the arguments of the command. The page repeats it without `--out`.
      about: one sentence on each rung, by name.
      reasons: the reason of a known difference, by its name up to the comma.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rungs: dict[str, list[Comparison]] = {}
    for rung, comparison in results:
        rungs.setdefault(rung, []).append(comparison)
    body = [
        "<h1>vitjax against PyTorch</h1>",
        _summary(results, command("python -m parity", arguments)),
        _failures(results),
        _overview(rungs, about or {}),
        _known(results, reasons or {}),
        pictures(figures),
        _table(rungs),
    ]
    path = folder / NAME
    write_whole(path, document("vitjax: parity with PyTorch", "\n".join(body)))
    return path


def command(program: str, arguments: Sequence[str]) -> str:
    """Return the command line to repeat elsewhere, without `--out FOLDER`."""
    kept, rest = [], iter(arguments)
    for word in rest:
        if word == "--out":
            next(rest, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return " ".join([program, *map(shlex.quote, kept)])


def document(title: str, body: str) -> str:
    """Return a whole HTML page around `body`."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the figures depend on.

    Packages that are not installed are left out.
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def pictures(figures: Mapping[str, Figure]) -> str:
    """Return a section with every figure as a PNG inside the page; "" without figures.

    A row holds as many as fit.
    """
    if not figures:
        return ""
    parts = []
    for caption, figure in figures.items():
        data = io.BytesIO()
        nameless = {"Software": None}  # matplotlib would write its version
        figure.savefig(
            data, format="png", dpi=140, facecolor="white", metadata=nameless
        )
        text = base64.b64encode(data.getvalue()).decode()
        label = html.escape(caption)
        parts.append(
            f'<figure id="{_anchor(caption)}"><figcaption>{label}</figcaption>'
            f'<img alt="{label}" src="data:image/png;base64,{text}"></figure>'
        )
    inner = "\n".join(parts)
    return f'<h2>Pictures</h2>\n<div class="figures">\n{inner}\n</div>'


def rows(
    head: Sequence[str], lines: Iterable[Sequence[str]], numbers: Iterable[int] = ()
) -> str:
    """Return a table of plain text.

    The columns whose indices are in `numbers` are right-aligned.
    """
    right = set(numbers)

    def cells(tag: str, line: Sequence[str]) -> str:
        def one(i: int, text: str) -> str:
            kind = ' class="number"' if i in right else ""
            return f"<{tag}{kind}>{html.escape(text)}</{tag}>"

        return "<tr>" + "".join(one(i, text) for i, text in enumerate(line)) + "</tr>"

    inner = "\n".join(cells("td", line) for line in lines)
    return (
        f'<div class="wide"><table>\n<thead>{cells("th", head)}</thead>\n'
        f"<tbody>\n{inner}\n</tbody>\n</table></div>"
    )


def _verdict(comparison: Comparison) -> str:
    return "pass" if comparison.passed else "FAIL"


def _anchor(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower())


def _share(comparison: Comparison) -> float:
    """Return measured / bound; infinite where that has no value."""
    if comparison.measured == 0:
        return 0.0
    share = comparison.measured / comparison.bound if comparison.bound else math.inf
    return math.inf if math.isnan(share) else share


def _summary(results: Results, again: str) -> str:
    failed = sum(not c.passed for _, c in results)
    verdict = "FAIL" if failed else "pass"
    outcome = f"{failed} of {len(results)} failed" if failed else "all passed"
    known = sum(c.name.startswith(KNOWN) for _, c in results)
    listed = ", ".join(f"{name} {version}" for name, version in versions().items())
    python = ".".join(platform.python_version_tuple()[:2])
    return (
        f'<p class="big"><span class="{verdict}">{outcome}</span></p>\n'
        f"<p>{len(results)} comparisons: {len(results) - failed} passed, {failed} "
        f"failed. {known} of them measure a difference that is known and intended; its "
        "bound is the largest that is allowed.</p>\n"
        f'<p class="soft">{html.escape(listed)}</p>\n'
        "<p>To reproduce, in a checkout:</p>\n<pre>pip install -c "
        f'constraints/python{python}.txt -e ".[parity]"\n'
        f"{html.escape(again)} --out report</pre>"
    )


def _failures(results: Results) -> str:
    failed = [(rung, c) for rung, c in results if not c.passed]
    if not failed:
        return ""
    lines = [
        (rung, c.name, f"{c.measured:.2e}", f"{c.bound:.1e}", c.detail)
        for rung, c in failed
    ]
    head = ("rung", "name", "measured", "bound", "where")
    return "<h2>Failed</h2>\n" + rows(head, lines, numbers=(2, 3))


def _overview(
    rungs: Mapping[str, Sequence[Comparison]], about: Mapping[str, str]
) -> str:
    lines = []
    for rung, found in rungs.items():
        failed = sum(not c.passed for c in found)
        top = max(map(_share, found))
        verdict = "FAIL" if failed else "pass"
        count = f"{failed} of {len(found)} failed" if failed else f"{len(found)} passed"
        lines.append(
            f'<tr><td><a href="#rung-{_anchor(rung)}">{html.escape(rung)}</a></td>'
            f'<td class="{verdict}">{count}</td><td class="number">{top:.2g}</td>'
            f"<td>{html.escape(about.get(rung, ''))}</td></tr>"
        )
    inner = "\n".join(lines)
    return (
        '<h2>Rungs</h2>\n<div class="wide"><table>\n<thead><tr><th>rung</th>'
        '<th>verdict</th><th class="number">largest measured / bound</th>'
        f"<th>what it compares</th></tr></thead>\n<tbody>\n{inner}\n</tbody>\n"
        "</table></div>"
    )


def _known(results: Results, reasons: Mapping[str, str]) -> str:
    known = [
        (rung, c.name.removeprefix(KNOWN).lstrip(": "), c)
        for rung, c in results
        if c.name.startswith(KNOWN)
    ]
    if not known:
        return ""
    lines = [
        (rung, name, f"{c.measured:.2e}", c.detail, reasons.get(name.split(",")[0], ""))
        for rung, name, c in known
    ]
    head = ("rung", "difference", "measured", "where", "why")
    return (
        "<h2>Known differences, measured</h2>\n<p>A plain PyTorch program differs "
        "in these. parity/README.md describes the size and effect of each.</p>\n"
        + rows(head, lines, numbers=(2,))
    )


def _table(rungs: Mapping[str, Sequence[Comparison]]) -> str:
    bodies = []
    for rung, found in rungs.items():
        passed = sum(c.passed for c in found)
        lines = "\n".join(_line(rung, c) for c in found)
        bodies.append(
            f'<tbody id="rung-{_anchor(rung)}">\n<tr class="group">'
            f'<th colspan="7" scope="rowgroup">{html.escape(rung)}: {passed} of '
            f"{len(found)} passed</th></tr>\n{lines}\n</tbody>"
        )
    return (
        "<h2>Every comparison</h2>\n<p class='soft'>The bar is as long as measured / "
        "bound is large, on a logarithm from 1e-6 (nothing) to 1 (full).</p>\n"
        '<div class="wide"><table>\n<thead><tr><th>rung</th><th>name</th>'
        '<th class="number">measured</th><th class="number">bound</th>'
        "<th>verdict</th><th>measured / bound</th><th>largest at</th></tr></thead>\n"
        + "\n".join(bodies)
        + "\n</table></div>"
    )


def _line(rung: str, c: Comparison) -> str:
    share = _share(c)
    full = 1 + math.log10(share) / 6 if share > 0 else 0.0
    percent = 100 * min(1.0, max(0.0, full))
    return (
        f"<tr><td>{html.escape(rung)}</td><td>{html.escape(c.name)}</td>"
        f'<td class="number">{c.measured:.2e}</td>'
        f'<td class="number">{c.bound:.1e}</td>'
        f'<td class="{_verdict(c)}">{_verdict(c)}</td>'
        f'<td class="bar"><span style="width:{percent:.0f}%"></span></td>'
        f"<td>{html.escape(c.detail)}</td></tr>"
    )
