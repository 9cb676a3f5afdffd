"""The store as WebDataset tars: writing, and reading from disk or over HTTP."""
