"""Sphinx configuration of the documentation site; `make docs` builds it in build/site.

The source folder is the repository, so that a link works on the site and in a checkout alike.
"""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

project = "openimds"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "openimds"
html_copy_source = False
html_show_copyright = False

root_doc = "README"
include_patterns = ["*.md", "bench/*.md", "docs/**.md"]
# Sphinx walks every other folder of the checkout otherwise.
exclude_patterns = [".*", "build", "demo", "packaging", "scripts", "src", "tests"]
myst_heading_anchors = 3

DECISIONS = sorted(f"docs/decisions/{page.stem}" for page in Path(__file__).with_name("decisions").glob("*.md"))

CONTENTS = {
    "Use": [
        "docs/guide/user-guide",
        "docs/guide/existing-openstack",
        "docs/guide/import",
        "docs/guide/systemd",
        "docs/configuration",
    ],
    "Operate": [
        "docs/guide/metadata-path",
        "docs/log-events",
        "docs/compatibility",
        "docs/security",
        "docs/rights",
        "bench/RESULTS",
    ],
    "Understand": [
        "docs/architecture",
        "docs/glossary",
        "docs/design/metadata-agent",
        "docs/design/direct",
        "docs/design/listening",
        "docs/design/metadata-api",
        "docs/design/session-tokens",
        "docs/design/vendor-data",
        "docs/design/http",
        "docs/design/namespaces",
        "docs/design/instances",
        "docs/design/control-api",
        "docs/design/network-api",
        "docs/design/watch",
        "docs/design/store",
    ],
    "Maintain": ["CONTRIBUTING", "docs/map", "docs/style", "docs/dependencies", "CHANGELOG"],
    "Decisions": DECISIONS,
}
"""Pages by heading of the navigation. A page that is missing here fails the build."""


def setup(app: Sphinx) -> None:
    app.connect("source-read", _append_contents)


def _append_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Appends the navigation to the first page. It stays out of the file, which GitHub shows as it is."""
    if page == app.config.root_doc:
        source[0] += "".join(
            f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
            for caption, pages in CONTENTS.items()
        )
