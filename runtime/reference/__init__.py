"""The oracle: every step in NumPy, obvious rather than fast.

A weight is applied as it is stored: each dense block gathers its columns, multiplies, and adds to
its rows; the residual is spread over whole rows, a few at a time. Sums of k products differ from
exact ones by at most about k * eps * sum(|w x|), with the eps of the computation's dtype; ask for
dtype "float64" where that is too much.
"""
