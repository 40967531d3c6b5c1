"""Readers take (source, file, stream) and yield Record or Rejection in file order."""
