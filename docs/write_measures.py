"""Write measures.md from the table of measures: ``python docs/write_measures.py``."""

from pathlib import Path

from ddae_app.bids.measures import table_of_measures

PAGE = Path(__file__).with_name('measures.md')

HEAD = """# Quality measures

Every scan gets these measures, in `sub-*/sub-*_scans.tsv`, on the page of its participant and in
`group_T1w.tsv`.

- Look at a scan of which a value is *marked as unusual*, here and on its page, before you use
  it.
- Compare measures without such a limit with those of the other scans, best of the same site.
- Below a `registration_correlation` of 0.33, or with a `scale_min` or `scale_max` outside 0.7 to
  1.6, a scan is refused: it is not harmonized.
- `snr_gray` and `snr_white` are defined as in MRIQC, and so is `cjv`. The tissues are the two
  brighter of three Gaussians that make up the histogram.
- `csf_share_change` and the like are those of three classes of intensity, of slices before and
  after.
- Voxels of a vessel or a spike that are brighter than 1.2, where brain tissue is 0 to 1, count
  as 1.2 in the measures from `ssim` on.

[Results](results.md#planted-failures-and-the-quality-measures) shows which planted failures
these limits detect. This page is written by `make docs` from `ddae_app/bids/measures.py`.

"""


def content() -> str:
    """The page."""
    return HEAD + table_of_measures()


if __name__ == '__main__':
    PAGE.write_text(content(), encoding='utf-8')
