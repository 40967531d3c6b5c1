"""One small module a kind of source.

A reader takes (source, file, text) and yields Record or Rejection in file order.
"""
