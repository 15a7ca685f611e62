"""Tensors of a file whose batch is not their first axis: kept with the batch in front.

The normal form has the batch as axis 0 throughout. Files move it: attention splits queries, keys
and values along an axis that was brought before the batch, or makes one axis of batch and heads.
Such a tensor is remembered as a value with the batch in front, and operators work on that value,
their axes mapped. Where one cannot, the tensor is written out as the file has it.
"""
