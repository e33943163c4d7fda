"""Embedded data: pelvic phantoms and VMAT plans for them, with PyDoseRT as dose engine (extra ``planning``)."""
