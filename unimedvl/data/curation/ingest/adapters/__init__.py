"""Readers of the data sets that the paper names, in the layouts in which they are published.

Nothing is downloaded: each is given the folder of files that its owner has let one have.
"""
