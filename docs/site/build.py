"""The course as a site that needs no network: README, notebooks with their outputs, quizzes, documents.

python docs/site/build.py [OUT]      default site/; look at it with: python -m http.server -d site

Pages are written as Markdown into a folder of their own and built by MkDocs, strictly: a link that leads nowhere is an
error. Nothing is executed. LaTeX becomes MathML here, so no script typesets it; maps are drawn by plotly's own file.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
import tempfile
from html import escape
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PICTURES = (".png", ".webp", ".gif", ".svg", ".json")
LARGEST = 2 << 20
_CODE = re.compile(r"(^```.*?^```|^~~~.*?^~~~|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\\w$])\$(?=\S)([^$\n]+?)(?<=\S)\$(?![\w$])", re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def pages() -> dict[str, list[str]]:
    """What becomes a page, by the part of the site that it stands in; paths in the repository."""
    notebooks = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("0*.ipynb"))
    exercises = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks" / "exercises").glob("*.ipynb"))
    chinese = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks" / "chinese").glob("0*.ipynb"))
    first = ["docs/sheet.md", "docs/glossary.md"]
    others = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
    more = ["benchmarks/README.md", "colab/README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
    more += ["CODE_OF_CONDUCT.md", "README.zh-CN.md"]
    return {
        "Course": notebooks,
        "Exercises": exercises,
        "中文": chinese,
        "At a glance": first,
        "Guides": [path for path in others if path not in first],
        "Project": [path for path in more if (ROOT / path).is_file()],
    }


def place(source: str) -> str:
    """Where a source's page stands."""
    if source == "README.md":
        return "index.md"
    return re.sub(r"\.ipynb$", ".md", source.replace("README.md", "index.md"))


class Site:
    """The folder of Markdown that MkDocs reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nav = pages()
        self.known = {"README.md", *(source for part in self.nav.values() for source in part)}
        self.quiz = yaml.safe_load((HERE / "quiz.yaml").read_text(encoding="utf-8"))

    def write(self, where: str, text: str | bytes) -> None:
        path = self.folder / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))

    def text(self, source: str, text: str) -> str:
        """A page's Markdown: links to other pages, mathematics as MathML, what is folded still Markdown."""
        text = text.replace("<details>", '<details markdown="1">')
        parts = _CODE.split(text)
        for k in range(0, len(parts), 2):  # what stands between code
            parts[k] = _MATH.sub(_mathml, parts[k])
        return _LINK.sub(lambda link: self.link(source, *link.groups()), "".join(parts))

    def link(self, source: str, mark: str, words: str, target: str) -> str:
        """A link as the site has it: to a page, to a copied picture, or only its words."""
        if re.match(r"[a-z]+:|#", target):
            return f"{mark}[{words}]({target})"
        name, _, anchor = target.partition("#")
        path = (ROOT / source).parent / name
        if not path.resolve().is_relative_to(ROOT) or not path.exists():
            raise SystemExit(f"{source}: the link {target} leads nowhere")
        there = path.resolve().relative_to(ROOT).as_posix()
        if there in self.known:
            up = "../" * place(source).count("/")
            return f"{mark}[{_flat(words)}]({up}{place(there)}{'#' + anchor if anchor else ''})"
        if path.suffix in PICTURES and path.is_file() and path.stat().st_size <= LARGEST:
            self.write(there, path.read_bytes())
            return f"{mark}[{words}]({'../' * place(source).count('/')}{there})"
        return words

    def notebook(self, source: str) -> str:
        """A notebook's cells and stored outputs as Markdown."""
        book = json.loads((ROOT / source).read_text(encoding="utf-8"))
        parts: list[str] = []
        for number, cell in enumerate(book["cells"]):
            written = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                parts.append(self.text(source, written))
            elif cell["cell_type"] == "code":
                parts.append(f"```python\n{written}\n```")
                for k, output in enumerate(cell.get("outputs", [])):
                    parts.append(self.output(f"{source.removesuffix('.ipynb')}_files/{number}_{k}", output))
        return "\n\n".join(part for part in parts if part)

    def output(self, name: str, output: dict[str, Any]) -> str:
        """One output: the richest form that needs no kernel."""
        data = {kind: value if isinstance(value, dict) else "".join(value) for kind, value in _data(output).items()}
        if "application/vnd.plotly.v1+json" in data:
            figure = json.dumps(data["application/vnd.plotly.v1+json"]).replace("<", "\\u003c")
            return f'<div class="map"><script type="application/json">{figure}</script></div>'
        for kind, suffix in (("image/svg+xml", "svg"), ("image/png", "png")):
            if kind in data:
                text = data[kind]
                self.write(f"{name}.{suffix}", text if suffix == "svg" else base64.b64decode(text))
                return f"![Output of the cell above]({Path(name).parent.name}/{Path(name).name}.{suffix})"
        if "text/html" in data:
            table = re.sub(r"\n\s*\n", "\n", data["text/html"])
            return f'<div class="output">{table}</div>'
        if "text/markdown" in data:
            return str(data["text/markdown"])
        plain = data.get("text/plain", "").rstrip()
        return f'<pre class="output">{escape(plain)}</pre>' if plain else ""

    def quiz_of(self, source: str) -> str:
        """The chapter's questions; each answer says why it is right or wrong when it is opened."""
        questions = self.quiz.get(Path(source).name[:2], []) if source.startswith("notebooks/0") else []
        parts = ["## Two questions"] if questions else []
        for question in questions:
            parts.append(f"**{question['ask']}**")
            for option in question["options"]:
                right = "yes" if option.get("right") else "no"
                parts.append(
                    f'<details class="quiz" data-right="{right}"><summary>{escape(option["say"])}</summary>'
                    f"<p>{'Yes' if option.get('right') else 'No'}: {escape(option['why'])}</p></details>"
                )
        return "\n\n".join(parts)

    def make(self) -> list[Any]:
        """Write all pages; the navigation."""
        self.write("index.md", self.text("README.md", (ROOT / "README.md").read_text(encoding="utf-8")))
        navigation: list[Any] = [{"Start": "index.md"}]
        for part, sources in self.nav.items():
            entries = []
            for source in sources:
                if source.endswith(".ipynb"):
                    page = "\n\n".join(filter(None, (self.notebook(source), self.quiz_of(source))))
                else:
                    page = self.text(source, (ROOT / source).read_text(encoding="utf-8"))
                self.write(place(source), page)
                entries.append({_title(page, source): place(source)})
            navigation.append({part: entries})
        for name in ("site.css", "site.js"):
            self.write(f"assets/{name}", (HERE / name).read_bytes())
        self.write("assets/plotly.js", _plotly())
        return navigation


def _data(output: dict[str, Any]) -> dict[str, Any]:
    if output["output_type"] == "stream":
        return {"text/plain": output["text"]} if output["name"] == "stdout" else {}
    return output.get("data", {})


def _mathml(match: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    def known(formula: str) -> str:
        """A formula in the converter's words: it has no arg max."""
        return formula.replace(r"\arg\max", r"\operatorname{arg\,max}")

    if match[1]:
        return f'\n\n<div class="math">{convert(known(match[1].strip()), display="block")}</div>\n\n'
    return f"<span>{convert(known(match[2]))}</span>"  # a line that begins with <math> would be a block of its own


def _flat(words: str) -> str:
    return words.replace("\n", " ")


def _title(page: str, source: str) -> str:
    heading = re.search(r"^# (.+)$", page, re.MULTILINE)
    return re.sub(r"[`*]|<[^>]+>", "", heading[1]).strip() if heading else Path(source).stem


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def settings(docs: Path, out: Path, navigation: list[Any]) -> dict[str, Any]:
    """MkDocs' configuration: nothing from elsewhere, and a link that leads nowhere is an error."""
    schemes = (("light", "default", "weather-night", "dark"), ("dark", "slate", "weather-sunny", "light"))
    return {
        "site_name": "assl-kit",
        "site_description": "Adaptive Semantic Space Learning: learn it, run it, measure it",
        "docs_dir": str(docs),
        "site_dir": str(out),
        "use_directory_urls": False,
        "nav": navigation,
        "theme": {
            "name": "material",
            "font": False,
            "features": ["navigation.tabs", "navigation.footer", "toc.follow", "search.highlight"],
            "palette": [
                {
                    "media": f"(prefers-color-scheme: {media})",
                    "scheme": scheme,
                    "primary": "teal",
                    "accent": "orange",
                    "toggle": {
                        "icon": f"material/{icon}",
                        "name": f"Change to {'dark' if media == 'light' else 'light'}",
                    },
                }
                for media, scheme, icon, _ in schemes
            ],
        },
        "plugins": [{"search": {"lang": ["en"], "separator": r"[\s\-_.·]+|(?<=[\u4e00-\u9fff])(?=[\u4e00-\u9fff])"}}],
        "markdown_extensions": [
            "admonition",
            "attr_list",
            "md_in_html",
            "tables",
            {"toc": {"permalink": True}},
            {"pymdownx.highlight": {"pygments_lang_class": True}},
            "pymdownx.superfences",
            "pymdownx.details",
        ],
        "extra_css": ["assets/site.css"],
        "extra_javascript": ["assets/site.js"],
        "extra": {"generator": False},
        "validation": {
            "links": {"not_found": "warn", "anchors": "warn", "absolute_links": "warn", "unrecognized_links": "ignore"}
        },
        "strict": True,
    }


def main(out: str = "site") -> Path:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    target = Path(out).resolve()
    with tempfile.TemporaryDirectory() as folder:
        docs = Path(folder) / "docs"
        navigation = Site(docs).make()
        (Path(folder) / "mkdocs.yml").write_text(
            yaml.safe_dump(settings(docs, target, navigation), allow_unicode=True, sort_keys=False), encoding="utf-8"
        )
        shutil.rmtree(target, ignore_errors=True)
        build(load_config(str(Path(folder) / "mkdocs.yml")))
    for unused in target.rglob("*.map"):
        unused.unlink()
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) / 2**20
    print(f"{target}: {len(list(target.rglob('*.html')))} pages, {size:.1f} MB")
    return target


if __name__ == "__main__":
    main(*sys.argv[1:])
