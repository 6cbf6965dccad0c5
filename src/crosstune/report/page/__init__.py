"""The HTML page. Reads sections and contents, draws nothing by itself."""
