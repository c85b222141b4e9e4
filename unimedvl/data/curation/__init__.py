"""From raw folders of medical images and texts to a curated corpus, with a record of every decision (paper, 3.1)."""
