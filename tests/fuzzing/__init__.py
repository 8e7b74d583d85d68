"""Malformed files and texts by the thousand, and what the doors of this project make of them."""
