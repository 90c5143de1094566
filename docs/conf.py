"""How Sphinx makes the web book. `make book` copies this beside the pages, and runs it."""

project = "qlesson"
author = "qlesson authors"
copyright = "qlesson authors. Code: MIT. Text, figures and exercises: CC BY 4.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "qlesson.authoring.book.extension"]

# The notebooks are shown as they are stored.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_heading_slug_func = "qlesson.authoring.book.extension.slug"
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = False  # torch says nothing of ours
autodoc_preserve_defaults = True  # a path as the code has it, and not as it is on one machine
python_maximum_signature_line_length = 88

html_theme = "sphinx_book_theme"
html_title = "qlesson"
html_static_path = ["_static"]
html_css_files = ["icons.css", "book.css"]
html_js_files = [(name, {"defer": "defer"}) for name in ("live.js", "exercises.js")]
html_copy_source = True
html_sourcelink_suffix = ""
html_context = {"default_mode": "auto"}
html_theme_options = {
    "repository_branch": "main",
    "path_to_docs": "",
    "use_repository_button": True,
    "use_issues_button": True,
    "use_download_button": True,
    "launch_buttons": {
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
        "notebook_interface": "jupyterlab",
    },
    "show_toc_level": 2,
    "navbar_persistent": [],
    "home_page_in_toc": True,
}
