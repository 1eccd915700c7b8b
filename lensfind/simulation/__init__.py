"""Simulated Euclid-like lenses and galaxies: population -> scene -> render -> detect -> store."""

from lensfind.simulation.make import again, simulate, simulated_data

__all__ = ["again", "simulate", "simulated_data"]
