"""Write every generated page anew."""

from __future__ import annotations

from reference.pages import PAGES, ROOT

for path, page in PAGES.items():
    target = ROOT / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(), encoding="utf-8")
    print(path)
