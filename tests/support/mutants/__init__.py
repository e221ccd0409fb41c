"""Deliberately broken copies of the product, each of which the tests must notice."""
