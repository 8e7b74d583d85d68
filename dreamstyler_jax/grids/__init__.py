"""Grids of pictures: cells, folders, contact sheets, the page."""
