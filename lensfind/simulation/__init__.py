"""Simulated Euclid-like lenses and galaxies: population -> scene -> render -> detect -> store."""

from lensfind.simulation.make import simulate, simulated_data

__all__ = ["simulate", "simulated_data"]
