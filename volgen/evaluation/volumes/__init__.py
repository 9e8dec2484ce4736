"""Checks of one volume; a report runs all of them."""
