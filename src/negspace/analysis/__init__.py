"""Analysers: the protocol they follow and how they are found."""
