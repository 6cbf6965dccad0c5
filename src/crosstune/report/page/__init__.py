"""The HTML page. May import `contents`, `findings`, `comparison`, `sections`, `tables`, `figures`, `text`."""
