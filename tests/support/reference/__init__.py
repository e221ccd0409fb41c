"""The reference pages of docs/, written from the code: `make docs-reference`."""

from reference.pages import PAGES, ROOT

__all__ = ["PAGES", "ROOT"]
