"""Checks of what is on the disk against what made it; they read only.

`runs`, `grids` and `styles` check a folder or a file each, `inputs` what these were made from.
"""
