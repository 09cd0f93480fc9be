"""The site: Sphinx over the repository's own Markdown files, which stay readable where they lie.

    make docs        # writes site/; open site/index.html, no server needed

The source folder is the repository, so that pages may link to READMEs, code and presets.
"""

import adbench

project = "adbench"
author = "the adbench authors"
release = version = adbench.__version__
root_doc = "docs/index"
extensions = ["myst_parser"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
# README.md is the front page of the repository, docs/index.md that of the site
include_patterns = [
    "docs/**.md",
    "adbench/**.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
]
exclude_patterns = [".venv", "outputs", "site", "build", "dist", "tests", "data", ".git"]
# READMEs link to files of the repository that are no pages; pages of other rooms come and go
suppress_warnings = ["myst.xref_missing", "toc.not_readable", "toc.not_included"]
html_theme = "furo"
html_title = f"adbench {release}"
html_extra_path = ["site_root"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}
