"""The experiments of the paper in kind, on data that needs no download: one configuration each.

    python -m experiments experiments/configs/curves.toml

The methods are all in `masktools`; here are only data, training, tables and pictures.
"""
