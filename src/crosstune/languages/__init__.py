"""Languages: one table of codes, families, scripts and resource classes, and a search by any code.

Imports nothing of its neighbours.
"""

from crosstune.languages.table import LANGUAGES, Language, add, find, order_by_family

__all__ = ["LANGUAGES", "Language", "add", "find", "order_by_family"]
