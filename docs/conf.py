"""Sphinx configuration; the reference pages are made from the code before every build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import generate_reference

import starmill

project = "starmill"
author = "The starmill developers"
project_copyright = f"2026, {author}"
version = release = starmill.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks are run as tests
nb_execution_timeout = 300
autosummary_generate = False
numpydoc_show_class_members = False
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
html_theme = "pydata_sphinx_theme"
html_title = f"starmill {release}"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_static_path = ["_static"]
suppress_warnings = ["myst.xref_missing"]


def setup(app):
    """Make the generated pages when a build starts."""
    app.connect(
        "builder-inited",
        lambda _: generate_reference.write_all(Path(__file__).parent / "reference" / "generated"),
    )
