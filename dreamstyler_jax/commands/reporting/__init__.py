"""The report of a training run: one HTML file that needs no other.

`contents` reads what is in the run's folder, `curves` and `previews` draw it, and `document` puts it together.
"""
