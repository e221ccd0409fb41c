"""Hostile input for every parser: what is mutated, how, and which errors a parser may raise.

Inputs are mutations of honest documents, drawn from a seeded source of chance, so that a failure
is found again by its number.
"""
