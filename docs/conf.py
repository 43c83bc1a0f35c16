"""How the documentation is built: ``make docs``."""

import ddae_app

project = 'ddae-app'
author = copyright = 'the ddae-app developers'
version = release = ddae_app.__version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.mathjax',
    'sphinx.ext.napoleon',
    'sphinxarg.ext',
]
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'ddae-app {version}'
myst_heading_anchors = 3
myst_enable_extensions = ['dollarmath']  # $...$, which GitHub shows as well
myst_fence_as_directive = ['math']  # ```math, in which GitHub keeps every backslash
autodoc_typehints = 'none'
autodoc_member_order = 'bysource'
autodoc_preserve_defaults = True
napoleon_google_docstring = False
