"""How the documentation is built: ``make docs``."""

import ddae_app

project = 'ddae-app'
author = copyright = 'the ddae-app developers'
version = release = ddae_app.__version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinxarg.ext',
]
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'ddae-app {version}'
myst_heading_anchors = 3
autodoc_typehints = 'none'
autodoc_member_order = 'bysource'
autodoc_preserve_defaults = True
napoleon_google_docstring = False
