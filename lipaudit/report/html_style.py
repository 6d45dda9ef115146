"""The style of HTML reports: one sheet for screens of any width, light, dark, and paper."""

from lipaudit.report import theme

_LAYOUT = """\
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-size: 15px; }
header, main, footer { max-width: 1240px; margin: 0 auto; padding: 0 20px; }
header { display: flex; align-items: center; gap: 12px; padding-top: 18px; padding-bottom: 6px; }
header .brand { font-weight: 700; letter-spacing: -.01em; flex: 1; }
header .brand small { color: var(--soft); font-weight: 400; margin-left: 8px; }
footer { color: var(--soft); font-size: 13px; padding-top: 8px; padding-bottom: 40px; }
h1, h2, h3, h4 { line-height: 1.25; letter-spacing: -.01em; margin: 0; }
h1 { font-size: 25px; overflow-wrap: anywhere; }
h2 { font-size: 20px; overflow-wrap: anywhere; }
h3 { font-size: 16px; margin: 26px 0 8px; }
h4 { font-size: 13px; color: var(--soft); font-weight: 600; margin: 0 0 2px; }
p { margin: 4px 0; }
ul { margin: 0; padding-left: 18px; }
li { overflow-wrap: anywhere; }
a { color: var(--accent); }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .92em;
  overflow-wrap: anywhere; }
button, select, input { font: inherit; color: inherit; }
.soft { color: var(--soft); }
.live { visibility: hidden; }
[hidden] { display: none !important; }
.js .live { visibility: visible; }
.toggle { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 4px 12px; cursor: pointer; font-size: 13px; }
.toggle:hover { border-color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.verdict { border-radius: 12px; padding: 18px 20px; margin: 8px 0 18px; background: var(--card);
  border: 1px solid var(--line); border-left: 7px solid var(--soft); }
.verdict p { margin: 6px 0 0; }
.verdict.good { background: var(--good-back); border-color: var(--good); }
.verdict.bad { background: var(--bad-back); border-color: var(--bad); }
.verdict.unsure { background: var(--unsure-back); border-color: var(--unsure); }
.good h1 { color: var(--good); } .bad h1 { color: var(--bad); } .unsure h1 { color: var(--unsure); }
.findings { margin: 10px 0 0; padding: 0; list-style: none; }
.findings li { padding: 5px 0; border-top: 1px solid var(--line); }
.badge { display: inline-block; border-radius: 6px; padding: 0 7px; font-size: 12px;
  font-weight: 600; border: 1px solid currentColor; white-space: nowrap; }
.badge.good { color: var(--good); } .badge.bad { color: var(--bad); }
.badge.unsure { color: var(--unsure); } .badge.soft { color: var(--soft); }
nav { margin: 0 0 18px; }
.model { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 18px 20px 22px; margin: 0 0 22px; }
.model > .soft { font-size: 13.5px; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 16px 0; }
.fact { border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
.fact .what { display: block; font-size: 13px; color: var(--soft); }
.fact .value { display: block; font-size: 25px; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.fact .note { display: block; font-size: 13px; color: var(--soft); overflow-wrap: anywhere; }
.fact.good .value { color: var(--good); } .fact.unsure .value { color: var(--unsure); }
.lists { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr));
  gap: 12px 24px; margin: 12px 0; font-size: 14px; }
.lists .bad h4 { color: var(--bad); } .lists .unsure h4 { color: var(--unsure); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; }
.wide.tall, .tall .wide { max-height: 620px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th { position: sticky; top: 0; z-index: 2; background: var(--stripe); text-align: left;
  border-bottom: 1px solid var(--line); padding: 0; white-space: nowrap; }
th button { width: 100%; padding: 7px 10px; border: 0; background: none; font-weight: 600;
  cursor: pointer; text-align: inherit; }
th button:focus-visible { outline-offset: -2px; }
th button::after { content: " \\2195"; color: transparent; }
.js th button:hover::after { color: var(--soft); }
th[aria-sort=ascending] button::after { content: " \\2191"; color: var(--accent); }
th[aria-sort=descending] button::after { content: " \\2193"; color: var(--accent); }
td { padding: 5px 10px; border-bottom: 1px solid var(--grid); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
tbody tr:hover td { background: var(--stripe); }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.name { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  font-size: 12.5px; overflow-wrap: anywhere; min-width: 190px; max-width: 360px; }
td.phrase { min-width: 260px; }
td.middle { min-width: 130px; }
.below { margin-top: 10px; font-size: 13px; }
th.number, th.number button { text-align: right; }
td.share { min-width: 118px; }
.bar { width: 60px; height: 8px; margin-left: 4px; }
.bar .up { fill: var(--up); } .bar .down { fill: var(--down); }
.filter { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; margin: 8px 0;
  font-size: 13px; }
.filter input, .filter select { background: var(--page); border: 1px solid var(--line);
  border-radius: 7px; padding: 4px 8px; margin-left: 4px; max-width: 240px; }
.filter output { color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr));
  gap: 16px; align-items: start; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px;
  min-width: 0; position: relative; }
figure .plot { overflow-x: auto; }
figure .plot svg { display: block; width: 100%; height: auto; min-width: 440px; max-width: 660px; }
figcaption strong { display: block; }
figcaption { font-size: 13px; color: var(--soft); margin-bottom: 8px; }
figcaption strong { color: var(--ink); font-size: 14.5px; }
.axes > input { position: absolute; opacity: 0; pointer-events: none; }
.axes > label { display: inline-block; border: 1px solid var(--line); padding: 3px 12px;
  font-size: 13px; cursor: pointer; margin-bottom: 10px; }
.axes > label.first { border-radius: 8px 0 0 8px; border-right: 0; }
.axes > label.last { border-radius: 0 8px 8px 0; }
.axes > input:checked + label { background: var(--accent); border-color: var(--accent);
  color: var(--card); }
.axes > input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
.axes > .linear:checked ~ .figures.logarithmic { display: none; }
.axes > .logarithmic:checked ~ .figures.linear { display: none; }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 10px 0 0;
  padding: 0; font: 12.5px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.key li { cursor: default; padding: 1px 2px; border-radius: 4px; max-width: 100%; }
.key svg { width: 22px; height: 8px; vertical-align: middle; margin-right: 6px; }
.key line { stroke: currentColor; stroke-width: 2.5; }
.key .dashed line { stroke-dasharray: 6 3; }
.key span { color: var(--ink); }
.key li:hover { background: var(--stripe); }
.dimmed [data-curve] { opacity: .13; }
.dimmed .lit { opacity: 1; }
.dimmed .lit .curve { stroke-width: 2.6; }
.chart .spot { fill: none; stroke: var(--ink); stroke-width: 1.5; }
#tip { position: fixed; z-index: 9; pointer-events: none; background: var(--ink);
  color: var(--card); border-radius: 7px; padding: 5px 10px; font-size: 12.5px; max-width: 320px;
  overflow-wrap: anywhere; white-space: pre-line; }
#tip[hidden] { display: none; }
details { margin: 10px 0 0; }
summary { cursor: pointer; font-weight: 600; font-size: 14px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 8px 0;
  font-size: 13px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  header, main, footer { padding-left: 12px; padding-right: 12px; }
  .model, .verdict { padding: 14px; }
  h1 { font-size: 21px; } h2 { font-size: 17px; }
  .fact .value { font-size: 19px; white-space: nowrap; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
  td.name { min-width: 130px; max-width: 180px; }
  td.phrase { min-width: 180px; }
  figure { padding: 10px 8px; }
  figure .plot svg { min-width: 300px; }
}
@media print {
  @page { size: A4 landscape; margin: 11mm; }
  body { font-size: 10.5px; background: none; print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
  header, main, footer { max-width: none; padding: 0; }
  .toggle, .filter, .axes > label, #tip { display: none; }
  .model { border: 0; padding: 0; }
  .model + .model { break-before: page; }
  .verdict, figure, .fact, tr { break-inside: avoid; }
  h3, h2 { break-after: avoid; }
  .wide, .tall .wide { overflow: visible; max-height: none; border: 0; }
  figure .plot { overflow: visible; }
  figure .plot svg { min-width: 0; max-height: 142mm; }
  .figures { grid-template-columns: 1fr 1fr; }
  table, .key { font-size: 8px; }
  td.name { font-size: 8px; min-width: 110px; } td.phrase { min-width: 110px; }
  td .badge { font-size: 7px; padding: 0 4px; } td.middle, td.share { min-width: 0; }
  .bar { width: 40px; height: 5px; } .fact .value { font-size: 18px; }
  .fact .note, .fact .what, figcaption, .lists, .filter { font-size: 9.5px; }
  h1 { font-size: 18px; } h2 { font-size: 15px; } h3 { font-size: 13px; margin-top: 14px; }
  th { position: static; padding: 3px 5px; } th button { display: contents; }
  td { padding: 2px 5px; }
  th button::after { content: "" !important; }
  h3 + p { break-after: avoid; }
  thead { display: table-header-group; }
}
"""


def css() -> str:
    """Return the whole sheet."""
    return f"{theme.css()}{_LAYOUT}"
