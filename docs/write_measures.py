"""Write measures.md from the table of measures: ``python docs/write_measures.py``."""

from pathlib import Path

from ddae_app.bids.measures import table_of_measures

PAGE = Path(__file__).with_name('measures.md')

HEAD = """# Quality measures

Every scan gets these measures, in `sub-*/sub-*_scans.tsv`, on the page of its participant and in
`group_T1w.tsv`. This page is written by `make docs` from `ddae_app/bids/measures.py`.

"""


def content() -> str:
    """The page."""
    return HEAD + table_of_measures()


if __name__ == '__main__':
    PAGE.write_text(content(), encoding='utf-8')
