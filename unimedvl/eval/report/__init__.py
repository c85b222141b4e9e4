"""One self-contained page about runs and what their weights can do."""
