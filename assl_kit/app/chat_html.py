"""What the page of ``assl chat`` is made of: its pieces of HTML, in which every text is escaped, and its style."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

_CLIP = 240  #: characters of a record's question or answer
_TEMPLATES = {
    "heading": """
<h1><span lang="zh">你好！</span>Hello! Ask the experts</h1>
{% if learnt %}<p>Each of {{ experts }} small experts has learnt its own part of this: {{ learnt }}. Your question goes
to the nearest one. What none of them has learnt they do not know, and they say so.</p>{% endif %}
<p class="assl-quiet">{{ title }} · base {{ base }} · answers can be wrong · nothing of what you ask is kept</p>""",
    "route": """
<h3>Who was asked</h3>
<p><b>{{ who }}</b> answers
{%- if floor is not none %}: no similarity reaches {{ "%.3f"|format(floor) }}.
{%- elif experts|length == 1 %}: it is the only expert.
{%- else %}, margin <b class="assl-margin">{{ "%.3f"|format(margin) }}</b> over {{ experts[1].name }}.{% endif %}</p>
<table><caption>Similarity of the question to each expert</caption>
{% for expert in experts %}<tr{% if expert.chosen %} class="assl-chosen" aria-current="true"{% endif %}>
<th scope="row">{{ expert.name }}<small>{{ expert.about|replace('_', ' ') }}</small></th>
<td class="assl-bar"><i style="width: {{ expert.width }}%"></i></td>
<td class="assl-number">{{ "%.3f"|format(expert.similarity) }}</td></tr>
{% endfor %}</table>""",
    "records": """
<h3>What {{ who }} learnt that is nearest</h3>
{% for record in records %}<article class="assl-record">
<p class="assl-quiet">similarity {{ "%.3f"|format(record.similarity) }} · {{ record.task }}{% if record.copies > 1 %} ·
{{ record.copies }} copies{% endif %}</p>
<p>{{ record.question|clip }}</p><p class="assl-output">{{ record.output|clip }}</p>
{% if record.question_en %}<p class="assl-english" lang="en">{{ record.question_en|clip }}</p>
<p class="assl-english assl-output" lang="en">{{ record.output_en|clip }}</p>
{% endif %}</article>
{% endfor %}""",
    "answer": """
<h3>{{ who }}</h3><div class="assl-answer" lang="zh" data-done="{{ "yes" if done else "no" }}">
{%- if text or not done %}{{ text }}{% else %}<span class="assl-quiet">(no text)</span>{% endif -%}
</div>{% if english %}<p class="assl-english" lang="en">in English: {{ english }}</p>{% endif %}""",
    "unknown": """
<h3>No expert answers</h3><div class="assl-answer" data-done="yes">I don't know. <span lang="zh">我不知道。</span></div>
<p class="assl-quiet">Nothing that was learnt is like this question: the nearest similarity is
{{ "%.3f"|format(nearest) }}. <span lang="zh">学过的内容里没有和它相近的。</span></p>""",
    "nothing": '<p class="assl-quiet">{{ why }}</p>',
    "error": '<p class="assl-error" role="alert">{{ message }}</p>',
}
FONTS = ("system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "WenQuanYi Micro Hei", "sans-serif")
CSS = """
.assl h1 { margin: 0; font-size: 1.5rem; font-weight: 700; }
.assl h3 { margin: 0 0 .5rem; font-size: 1rem; font-weight: 700; }
.assl p { margin: .25rem 0; }
.assl .assl-quiet, .assl small, .assl caption { opacity: .75; font-size: .875rem; font-weight: 400; }
.assl .assl-error { color: var(--error-text-color); font-weight: 600; }
.assl .assl-error::first-letter { text-transform: uppercase; }
.assl table { width: 100%; border-collapse: collapse; margin: .5rem 0; }
.assl caption { text-align: left; padding: .25rem 0; }
.assl table, .assl tbody, .assl tr, .assl th, .assl td { border: 0; background: none; }
.assl th { text-align: left; font-weight: 400; padding: .375rem .75rem .375rem 0; width: 45%; }
.assl small { display: block; overflow-wrap: break-word; }
.assl .assl-chosen th, .assl .assl-chosen td { font-weight: 700; }
.assl .assl-bar { padding: 0; }
.assl .assl-bar i { display: block; height: .75rem; border-radius: .25rem; background: var(--border-color-primary); }
.assl .assl-chosen .assl-bar i { background: var(--color-accent); }
.assl .assl-number { text-align: right; padding: 0 0 0 .75rem; width: 4rem; font-variant-numeric: tabular-nums; }
.assl .assl-answer, .assl .assl-record p { white-space: pre-wrap; overflow-wrap: anywhere; }
.assl .assl-answer { font-size: 1.125rem; line-height: 1.6; min-height: 3.5rem; padding: .75rem 1rem;
  border: 1px solid var(--border-color-primary); border-radius: .5rem; }
#answer .assl-answer { border-color: var(--color-accent); }
.assl .assl-answer[data-done="no"]::after { content: "▍"; color: var(--color-accent); }
.assl .assl-record { border-left: .25rem solid var(--border-color-primary); padding-left: .75rem; margin: .75rem 0; }
.assl .assl-output::before { content: "→ "; color: var(--color-accent); }
.assl .assl-english { font-style: italic; font-size: .875rem; opacity: .85; }
.gradio-container .app { max-width: 68rem; margin: 0 auto; }
#asking { align-items: end; }
#asking button { flex: 0 1 9rem; }
#examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: .5rem; }
#examples { align-items: stretch; }
#examples button { white-space: pre-line; text-align: left; justify-content: start; min-width: 0;
  font-weight: 400; font-size: .875rem; line-height: 1.4; padding: .5rem .75rem; }
@media (max-width: 40rem) {
  .assl-row { flex-direction: column; }
  #asking { flex-direction: column; align-items: stretch; }
  #asking button { flex: none; }
  #examples { display: flex; flex-wrap: nowrap; overflow-x: auto; padding-bottom: .5rem; }
  #examples button { flex: 0 0 75%; }
}
"""


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment

    environment = Environment(loader=DictLoader(_TEMPLATES), autoescape=True)
    environment.filters["clip"] = lambda text: text if len(text) <= _CLIP else text[:_CLIP] + "…"
    return environment


def html_of(piece: str, **values: Any) -> str:
    """One of the pieces, with its values escaped.

    Parameters
    ----------
    piece : str
        ``heading``, ``route``, ``records``, ``answer``, ``unknown``, ``nothing`` or ``error``.
    **values
        What the piece shows.

    Examples
    --------
    >>> html_of("nothing", why="<b>")
    '<p class="assl-quiet">&lt;b&gt;</p>'
    """
    return _environment().get_template(piece).render(values).strip()
