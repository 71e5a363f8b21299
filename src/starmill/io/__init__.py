"""The only place that opens files, beside the repository."""
