"""A folder of pictures as one page: ``index.html``, which opens in any browser from the disk, without a server.

The page holds its data, its script and its style sheet. The pictures are in ``images/`` beside it, sheets of thumbnails
in ``atlas/``. Every parameter that varies between the pictures is an *axis* of their grid: the user can make it rows or
columns, filter by it and sort by it.

``axes`` finds the parameters, ``thumbnails`` prepares the pictures, ``scores`` reads the scores, ``document`` puts the
page together from ``index.html``, the style sheets and the scripts.
"""

from dreamstyler_jax.grids.page.document import FILE_NAME, Progress, refresh_page, write_page
from dreamstyler_jax.grids.page.thumbnails import NOT_YET

__all__ = ["FILE_NAME", "NOT_YET", "Progress", "refresh_page", "write_page"]
