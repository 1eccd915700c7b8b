"""What all figures share: line colours and resolution."""

__all__ = ["BLUE", "COLOURS", "DPI", "GREEN", "ORANGE", "RED"]

BLUE, ORANGE, RED, GREEN = "#0072B2", "#E69F00", "#D55E00", "#009E73"
COLOURS = (BLUE, RED, GREEN, "#CC79A7", ORANGE, "#56B4E9", "black", "#882255", "#999933")
"""Okabe & Ito's, which colour-blind readers tell apart, and two of Tol's for more than seven lines."""
DPI = 150
