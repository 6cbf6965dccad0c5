"""Examples, and the files and hub data sets they are read from. Knows no task, model or prompt."""
