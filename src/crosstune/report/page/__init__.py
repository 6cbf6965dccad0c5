"""The HTML page. May import `contents`, `findings`, `sections`, `tables`, `figures`, `text`."""
