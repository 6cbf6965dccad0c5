"""Tables of examples, for tasks of one's own: the published name of `crosstune.data.tables`."""

from crosstune.data.tables import BadRow, Row, Rows, read_rows

__all__ = ["BadRow", "Row", "Rows", "read_rows"]
