"""The built pages without what they do not need: 1.6 MB of icons, of which they use thirty.

The theme brings every icon of Font Awesome, as a script and as fonts. Here those that the pages
name are written into a style sheet, and the rest is left out, with the maps for debuggers and the
theme's translations.
"""

import re
from pathlib import Path
from urllib.parse import quote

SCRIPT = "_static/scripts/fontawesome.js"
UNUSED = ("*.map", "vendor/fontawesome/webfonts/*", "locales/*/*/*", "*macros.html")
WORDS = "/* Icons by Font Awesome, fontawesome.com, CC BY 4.0: those that the pages use. */\n"
DRAWN = """.fas::before, .fab::before, .fa-solid::before, .fa-brands::before {
  content: ""; display: inline-block; width: 1em; height: 1em; vertical-align: -.125em;
  background: currentColor; -webkit-mask: var(--icon) center / contain no-repeat;
  mask: var(--icon) center / contain no-repeat;
}
@media (forced-colors: active) {
  .fas::before, .fab::before, .fa-solid::before, .fa-brands::before { background: ButtonText }
}
"""
ONE = r'"?\b{}"?:\[(\d+),(\d+),\[[^\]]*\],"\w+","([^"]+)"\]'


def lighten(out: Path) -> None:
    """Leave out of the folder of built pages what no page needs."""
    script = out / SCRIPT
    if script.exists():
        pages = {path: path.read_text(encoding="utf-8") for path in out.rglob("*.html")}
        theme = (out / "_static/scripts/pydata-sphinx-theme.js").read_text(encoding="utf-8")
        (out / "_static/icons.css").write_text(
            icons(script.read_text(encoding="utf-8"), names([*pages.values(), theme])),
            encoding="utf-8",
        )
        for path, text in pages.items():
            text = re.sub(r"<script[^>]*scripts/fontawesome\.js[^>]*></script>", "", text)
            path.write_text(text, encoding="utf-8", newline="\n")
        for path in (out / "_static/styles").glob("*.css"):
            text = path.read_text(encoding="utf-8")
            path.write_text(re.sub(r"@font-face\{[^}]*Awesome[^}]*\}", "", text), encoding="utf-8")
        script.unlink()
    for pattern in UNUSED:
        for path in (out / "_static").rglob(pattern):
            path.unlink()


def names(texts: list[str]) -> list[str]:
    """The icons that the pages and the theme's script name, as in "fa-solid fa-bars"."""
    icon = r'"(?:[\w-]+ )*(?:fas|fab|fa-solid|fa-brands) fa-([a-z-]+)'
    return sorted({name for text in texts for name in re.findall(icon, text)})


def icons(script: str, names: list[str]) -> str:
    """A style sheet with the icons of these names, out of Font Awesome's script."""
    rules = []
    for name in names:
        width, height, path = re.findall(ONE.format(re.escape(name)), script)[0]
        box = f"0 0 {width} {height}"
        svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='{box}'><path d='{path}'/></svg>"
        rules.append(f'.fa-{name} {{ --icon: url("data:image/svg+xml,{quote(svg)}") }}\n')
    return WORDS + DRAWN + "".join(rules)
