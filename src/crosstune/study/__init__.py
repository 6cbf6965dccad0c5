"""Studies: what is asked (`spec`), the runs it means (`grid`), making them (`runner`), keeping (`store`)."""
